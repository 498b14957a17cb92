"""What holds a long tuning run together when α is too large: nothing, the guard, the penalty on the Jacobian, or both.

    python benchmarks/stability.py [OUT.json]

Silicon interstitials in 65-atom cells, a base force-matched as in the demonstration, α = 0.05 Å²/eV where 0.03 is
right, Adam to 3e-3 with 5 updates of warm-up, clipping at 1, batch 4, 48 training pairs: the split in all four ways and
the implicit route with and without the penalty, from the same base on the same batches, judged by quench on 24
interstitials that nobody learns from. Then what the penalty costs. One seed. Runs are kept under runs/stability, so a
killed measurement goes on where it was.
"""

from __future__ import annotations

import copy
import json
import platform
import re
import statistics
import sys
import time
import warnings
from pathlib import Path as FilePath
from typing import Any

import torch

from thalweg.allocator import keep_freed_memory
from thalweg.evaluation.demo import DemoSettings
from thalweg.evaluation.evaluate import evaluate
from thalweg.evaluation.result import Evaluation
from thalweg.gradients import Implicit, Split
from thalweg.potentials.contract import Potential
from thalweg.potentials.files import load_potential
from thalweg.relaxation.stability import check_alpha
from thalweg.storage import atomic_write
from thalweg.structures.pairs import Pairs
from thalweg.testbeds import TESTBEDS
from thalweg.training.force_matching import train
from thalweg.training.objective import objective
from thalweg.training.settings import OptimiserSettings, RelaxationSettings, StabilitySettings, TuneSettings
from thalweg.training.stability import add_penalty
from thalweg.training.tuning import tune

FOLDER = FilePath("runs/stability")
WEIGHT = 10.0
UPDATES, EVERY, LAST = 60, 5, 10
ROUTES = {"split K=20": Split(horizon=20), "implicit": Implicit()}
ORDER = (
    *(("split K=20", way) for way in ("none", "guard", "penalty")),
    *(("implicit", way) for way in ("none", "penalty")),
    ("split K=20", "both"),
)
ARMS = {
    "none": StabilitySettings(),
    "guard": StabilitySettings(guard="lower"),
    "penalty": StabilitySettings(penalty=WEIGHT),
    "both": StabilitySettings(penalty=WEIGHT, guard="lower"),
}
HARD = TuneSettings(
    relaxation=RelaxationSettings(alpha=0.05, max_steps=300),
    optimiser=OptimiserSettings(updates=UPDATES, warmup=5, learning_rate=3e-3, batch=4),
    stability_every=EVERY,
    validate_every=UPDATES,
)
DEMO = DemoSettings().tune


def tuned(
    name: str, settings: TuneSettings, base: Potential, pairs: Pairs, judges: Pairs, reference: Potential
) -> dict[str, Any]:
    """Tune one arm, or what is left of it, and return what its run and its evaluation say."""
    place = FOLDER / re.sub("[^A-Za-z0-9]+", "-", name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # α is too large on purpose
        result = tune(settings.model_copy(update={"out": place}), base, pairs)
    file, alpha = place / "evaluation.json", result.results["alpha"]
    potential = load_potential(result.model)
    if not file.exists():
        found = evaluate(potential, judges, settings.relaxation.path(alpha), rule="quench", reference=reference)
        atomic_write(file, json.dumps(found.record()), overwrite=True)
    evaluation = Evaluation.from_record(json.loads(file.read_text(encoding="utf-8")))
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line.get("loss") is not None]
    norms = [line["gradient_norm"] for line in lines if line["gradient_norm"] is not None]  # others are skipped updates
    unconverged = ("out_of_steps", "exploded", "too_close")
    last = check_alpha(potential, judges.minima.to(dtype=torch.float32), alpha)
    return {
        "arm": name,
        "updates": len(lines),
        "largest_gradient_norm": max(norms),
        "last_gradient_norm": statistics.median(norms[-LAST:]),
        "largest_alpha_curvature": max(
            line["alpha_curvature"] for line in lines if line["alpha_curvature"] is not None
        ),
        "final_alpha_curvature_at_validation_minima": last.product,
        "final_alpha": alpha,
        "alpha_changes": len(result.results["alpha_changes"]),
        "updates_with_penalty": sum(bool(line["penalised"]) for line in lines),
        "largest_penalty_gradient_norm": max((line["penalty_gradient_norm"] or 0.0 for line in lines), default=0.0),
        "skipped_updates": result.results["skipped_updates"],
        "unconverged_relaxations": sum(line["reasons"].get(reason, 0) for line in lines for reason in unconverged),
        "saddles": sum(line["reasons"].get("saddle", 0) for line in lines),
        "loss_first": statistics.mean(line["loss"] for line in lines[:LAST]),
        "loss_last": statistics.mean(line["loss"] for line in lines[-LAST:]),
        "right_basins": evaluation.basins_right,
        "of": evaluation.basins_total,
        "unconverged_validation": sum(n for kind, n in evaluation.outcomes.items() if kind in unconverged),
        "mean_dq": evaluation.dq_mean,
        "seconds": result.results["seconds"],
    }


def cost(base: Potential, pairs: Pairs, name: str, repetitions: int = 5) -> dict[str, object]:
    """CPU seconds of the penalty, pulling, beside those of an update of the demonstration without it, in turns."""
    settings, potential = (
        DEMO.stability.model_copy(update={"penalty": WEIGHT, "penalty_limit": 0.1}),
        copy.deepcopy(base),
    )
    path, batch = DEMO.relaxation.path(), DEMO.optimiser.batch
    ours, theirs = [], []
    for k in range(repetitions):
        part = pairs.select(range(k * batch, (k + 1) * batch))
        began = time.process_time()
        found = ROUTES[name].differentiate(potential, part.starts, path)
        objective(found, part.minima, DEMO.objective, batch=batch).total.backward()
        theirs.append(time.process_time() - began)
        began = time.process_time()
        few = part.minima.select(range(settings.penalty_minima))
        pulled = add_penalty(potential, few, path.update.alpha, settings, total=settings.penalty_minima, seed=k)
        ours.append(time.process_time() - began)
        if pulled.above != settings.penalty_minima:
            raise RuntimeError(f"the penalty pulled at {pulled.above} of {settings.penalty_minima} minima")
    what = f"CPU seconds of the penalty where it pulls, over those of an update without it, {name}, batch {batch}"
    return row(what, statistics.median(ours), statistics.median(theirs), "at most 0.15", at_most=0.15)


def rows_of(route: str, arms: dict[str, dict[str, Any]]) -> list[dict[str, object]]:
    """Compare every arm with the one that nothing holds."""
    rows, free = [], arms["none"]
    for name in [way for way in arms if way != "none"]:
        arm, tail = arms[name], f"{route}, {name} over none"
        # the implicit route differentiates no steps, so its norms have no bound to keep
        bounds = (("at most 0.1", 0.1), ("at most 0.5", 0.5)) if route.startswith("split") else (("none", None),) * 2
        for (key, what), (target, bound) in zip(
            (
                ("largest_gradient_norm", "largest gradient norm"),
                ("last_gradient_norm", f"gradient norm, median of the last {LAST}"),
            ),
            bounds,
            strict=True,
        ):
            rows.append(row(f"{what}, {tail}", arm[key], free[key], target, at_most=bound))
        key = "final_alpha_curvature_at_validation_minima"
        made = row(f"α λ_max of the tuned potential at validation minima, {tail}", arm[key], free[key], "ours below 2")
        rows.append({**made, "met": arm[key] < 2})
        key = "right_basins"
        rows.append(row(f"right basins of {arm['of']}, {tail}", arm[key], free[key], "at least 1", at_least=1.0))
    return rows


def row(
    what: str, ours: float, theirs: float, target: str, at_most: float | None = None, at_least: float | None = None
) -> dict[str, object]:
    """Return one row of the record."""
    ratio = ours / theirs if theirs else None
    met = None
    if ratio is not None and (at_most is not None or at_least is not None):
        met = (at_most is None or ratio <= at_most) and (at_least is None or ratio >= at_least)
    return {"what": what, "ours": ours, "theirs": theirs, "ratio": ratio, "target": target, "met": met}


def run(out: FilePath) -> None:
    """Measure, print and write."""
    keep_freed_memory()
    torch.set_num_threads(1)
    demo, testbed = DemoSettings(), TESTBEDS["silicon"]()
    told = demo.base.model_copy(update={"out": FOLDER / "base"})
    base = load_potential(train(told, testbed.frames(demo.frames, 0)).model)
    pairs, judges, reference = testbed.make(48, 2), testbed.make(24, 7), testbed.reference()
    table: dict[str, dict[str, dict[str, Any]]] = {}
    rows: list[dict[str, object]] = []
    costs: list[dict[str, object]] = []
    for done, (route, way) in enumerate(ORDER, 1):
        settings = HARD.model_copy(update={"route": ROUTES[route], "stability": ARMS[way]})
        table.setdefault(route, {})[way] = tuned(f"{route} {way}", settings, base, pairs, judges, reference)
        print(json.dumps(table[route][way]), flush=True)
        rows = [made for name, arms in table.items() for made in rows_of(name, arms)]
        missing = [" ".join(left) for left in ORDER[done:]]
        if done == 3:  # the split's arms that matter are there
            write(out, rows, table, [*missing, "cost"])
            costs = [cost(base, pairs.to("cpu", torch.float32), name) for name in ROUTES]
        write(out, [*rows, *costs], table, missing)  # a measurement that is cut short says what is missing
    for made in [*rows, *costs]:
        print(f"{made['what']}: {made['ours']:.4g} {made['theirs']:.4g} ratio {made['ratio']} met {made['met']}")


def write(
    out: FilePath, rows: list[dict[str, object]], table: dict[str, dict[str, dict[str, Any]]], missing: list[str]
) -> None:
    """Write the record."""
    record = {
        "machine": f"{platform.machine()}, torch {torch.__version__}, one thread",
        "command": "python benchmarks/stability.py",
        "seconds": sum(arm["seconds"] for arms in table.values() for arm in arms.values()),
        "settings": {**HARD.model_dump(mode="json"), "penalty": WEIGHT},
        "not_measured": missing,
        "rows": rows,
        "table": table,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(FilePath(sys.argv[1]) if len(sys.argv) > 1 else FilePath(__file__).parent / "results" / "stability.json")
