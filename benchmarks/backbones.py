"""The demonstration's contest on three backbones of about 20,000 parameters: basins before and after the split.

    python benchmarks/backbones.py OUT [--quick] [KIND ...]

Frames, pairs, held-out pairs, updates and batch are those of the demonstration and the same for all; each backbone has
the settings of `BACKBONES`, fixed beforehand. One seed, one thread, one backbone after another: what it says of
architectures is a hint. What is finished in OUT is not run again and a run that was cut short goes on, so backbones
may be run singly. Prints a table and writes OUT/backbones.json after each backbone and, where all three are in full,
benchmarks/results/backbones.json. --quick takes the smallest sizes, to show that it works; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch

from thalweg.evaluation.arms import Arm, Contest, run_arm
from thalweg.evaluation.backbones import BACKBONES, backbone_overrides
from thalweg.evaluation.data import FRAMES, HELD_OUT, PAIRS, Sizes, make_data
from thalweg.evaluation.demo import SPLIT_HORIZON, DemoSettings
from thalweg.evaluation.provenance import machine
from thalweg.gradients import Split
from thalweg.potentials.files import load_potential, save_potential
from thalweg.structures.extended_xyz import read_frames
from thalweg.testbeds import TESTBEDS
from thalweg.training.force_matching import train
from thalweg.training.loading import load_settings

RESULTS = Path(__file__).parent / "results" / "backbones.json"
QUICK = (
    *("frames=8", "pairs=8", "held_out=2", "base.optimiser.updates=3", "base.optimiser.warmup=1"),
    *("tune.optimiser.updates=2", "tune.optimiser.warmup=1", "tune.optimiser.batch=2"),
    *("tune.relaxation.steps=20", "tune.relaxation.max_steps=5"),
)
"""The smallest sizes that run through."""


def run(kind: str, out: Path, quick: bool) -> dict[str, Any]:
    """Train the base of a backbone, tune it by the split, judge both, or read what stands; return its row."""
    settings = load_settings(DemoSettings, None, [*backbone_overrides(kind), *(QUICK if quick else ())])
    testbed = TESTBEDS[settings.testbed]()
    make_data(out, testbed, Sizes(settings.frames, settings.pairs, settings.held_out, 1), settings.seed, say=print)
    reference = out / "reference.safetensors"
    if not reference.exists():
        save_potential(reference, testbed.reference())
    place = out / kind
    base = train(settings.base.model_copy(update={"out": place / "base"}), read_frames(out / FRAMES))
    contest = Contest(place, base.model, out / PAIRS, out / HELD_OUT, settings.tune, "quench", reference)
    before = run_arm(contest, Arm("base", None))
    after = run_arm(contest, Arm(f"split-{SPLIT_HORIZON}", Split(horizon=SPLIT_HORIZON)))
    return {
        "kind": kind,
        "parameters": sum(p.numel() for p in load_potential(base.model).parameters()),
        "base_updates": base.results["updates"],
        "base_seconds": base.results["seconds"],
        "tune_updates": after["training"]["updates"],
        "tune_seconds": after["training"]["seconds"],
        "saved_bytes": after["training"]["saved_bytes"],
        "skipped_updates": after["training"]["skipped_updates"],
        "basins_total": before["evaluation"]["basins_total"],
        "before": judged(before),
        "after": judged(after),
        "overrides": backbone_overrides(kind),
    }


def judged(record: dict[str, Any]) -> dict[str, Any]:
    """Return what the evaluation of an arm says."""
    evaluation = record["evaluation"]
    return {key: evaluation[key] for key in ("basins_right", "dq_mean", "dq_median", "dq_missing", "outcomes")}


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    print(f"{'backbone':<12}{'parameters':>11}{'right before':>14}{'after':>9}{'mean ΔQ':>16}{'saved MB':>10}", end="")
    print(f"{'seconds':>9}")
    for row in rows:
        total = row["basins_total"]
        right = [f"{row[when]['basins_right']} of {total}" for when in ("before", "after")]
        dq = " → ".join("–" if row[w]["dq_mean"] is None else f"{row[w]['dq_mean']:.2f}" for w in ("before", "after"))
        saved = "–" if row["saved_bytes"] is None else f"{row['saved_bytes'] / 1e6:.1f}"
        print(
            f"{row['kind']:<12}{row['parameters']:>11,}{right[0]:>14}{right[1]:>9}{dq:>16}{saved:>10}"
            f"{row['tune_seconds']:>9.0f}",
            flush=True,
        )


def main() -> None:
    """Run what is asked for and not finished."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(BACKBONES))
    parser.add_argument("--quick", action="store_true")
    told = parser.parse_args()
    strange = set(told.kinds) - set(BACKBONES)
    if strange:
        parser.error(f"{min(strange)} is not a backbone: allowed are {', '.join(BACKBONES)}")
    torch.set_num_threads(1)
    told.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    began = time.perf_counter()
    for kind in told.kinds or BACKBONES:
        rows.append(run(kind, told.out, told.quick))
        print(f"{kind}: done after {time.perf_counter() - began:.0f} s of this sitting", flush=True)
        record = {
            "command": shlex.join(["python", "benchmarks/backbones.py", *sys.argv[1:]]),
            "quick": told.quick,
            "machine": {**machine(), "load": os.getloadavg()[0]},
            "rows": rows,
        }
        text = json.dumps(record, indent=1) + "\n"
        (told.out / "backbones.json").write_text(text, encoding="utf-8")
    show(rows)
    if not told.quick and {row["kind"] for row in rows} == set(BACKBONES):
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
