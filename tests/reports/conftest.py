"""A synthetic run folder: invented numbers in the shape of a real comparison, for the tests of reports only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase import Atom, Atoms
from ase.build import bulk
from ase.io import write

from thalweg.seeds import numpy_stream

PAIRS = 40
UPDATES = 60
MODELS: dict[str, dict[str, Any]] = {
    "base": {"right": 12, "interval": [0.181, 0.454], "median": 5.2},
    "implicit": {"right": 15, "interval": [0.242, 0.530], "median": 5.0, "saved": 4.1e6, "peak": 6.1e8, "time": 412.0},
    "bptt": {"right": 26, "interval": [0.495, 0.779], "median": 2.4, "saved": 6.42e8, "peak": 1.31e9, "time": 655.0},
    "split-20": {"right": 31, "interval": [0.625, 0.877], "median": 1.3, "saved": 1.73e8, "peak": 8.2e8, "time": 498.0},
}
ROUTES: dict[str, dict[str, Any] | None] = {
    "base": None,
    "implicit": {"kind": "implicit"},
    "bptt": {"kind": "unrolled", "horizon": None, "recompute": False},
    "split-20": {"kind": "split", "horizon": 20, "recompute": False},
}
SETTINGS = {
    "testbed": {"name": "silicon", "seed": 0},
    "training": {"updates": UPDATES, "batch_size": 8, "learning_rate": 0.001},
    "path": {"alpha": 0.05, "steps": 75, "fmax": 0.005, "max_steps": 400},
}


def invented_dq(name: str) -> list[float | None]:
    """ΔQ of 40 pairs: the hard pairs are hard for every arm; one pair is not defined for bptt."""
    hardness = numpy_stream(7, "synthetic report", "hardness").lognormal(0.0, 0.7, PAIRS)
    noise = numpy_stream(7, "synthetic report", name).lognormal(0.0, 0.35, PAIRS)
    values: list[float | None] = [round(float(v), 4) for v in MODELS[name]["median"] * hardness * noise]
    if name == "bptt":
        values[5] = None
    return values


def invented_arm(name: str) -> dict[str, Any]:
    """One entry of `arms` in results.json."""
    model, dq, base = MODELS[name], invented_dq(name), invented_dq("base")
    known = [v for v in dq if v is not None]
    tuned = ROUTES[name] is not None
    right = model["right"]
    within = zip((0.1, 0.2, 0.3, 0.4, 0.5), (-5, 0, 1, 2, 4), strict=True)
    both = [(a, b) for a, b in zip(dq, base, strict=True) if a is not None and b is not None]
    return {
        "name": name,
        "route": ROUTES[name],
        "updates": UPDATES if tuned else None,
        "basins_right": right,
        "basins_total": PAIRS,
        "basins_interval": model["interval"],
        "basins_by_threshold": {f"{t:.1f}": right + more for t, more in within},
        "dq_mean": float(np.mean(known)),
        "dq_median": float(np.median(known)),
        "dq": dq,
        "improved_share": float(np.mean([a < b for a, b in both])) if tuned else None,
        "mcnemar_p": {"implicit": 0.453, "bptt": 0.0013, "split-20": 0.00002}.get(name),
        "saved_bytes": model.get("saved"),
        "peak_bytes": model.get("peak"),
        "seconds": model.get("time"),
        "outcomes": {"converged": 38, "out_of_steps": 1, "exploded": 1} if name == "bptt" else {"converged": PAIRS},
        "certificates": {
            "took_part": 463,
            "total": 480,
            "worst_residual": 8.7e-4 if name != "bptt" else None,
            "lowest_curvature": 0.0312 if name != "bptt" else None,
            "reasons": {"out_of_steps": 11, "negative curvature": 6},
        }
        if tuned
        else None,
    }


def invented_metrics(name: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; one loss is null."""
    stream = numpy_stream(7, "synthetic metrics", name)
    end = {"implicit": 0.8, "bptt": 0.45, "split-20": 0.3}[name]
    lines = []
    for update in range(1, UPDATES + 1):
        level = end + (1.1 - end) * np.exp(-update / 15)
        loss = None if update == 17 else float(level * stream.lognormal(0, 0.25))
        norm = float((6.0 if name == "bptt" else 2.0) * stream.lognormal(0, 0.5))
        lines.append(
            {"update": update, "loss": loss, "gradient_norm": norm, "seconds": 6.0, "took_part": 8, "total": 8}
        )
    return lines


def invented_dial() -> list[dict[str, Any]]:
    """Points of the memory dial: stored memory grows with the horizon, recomputed memory hardly."""
    points: list[dict[str, Any]] = [
        {"route": "implicit", "horizon": None, "recompute": None, "saved_bytes": 4.1e6, "seconds": 3.1}
    ]
    for route, horizons in (("split", (5, 10, 20, 40)), ("unrolled", (5, 10, 20, 40, 75))):
        for k in horizons:
            extra = 4.1e6 if route == "split" else 0
            for recompute, size in ((False, 8.4e6 * k + extra), (True, 8.6e6 + 1.7e4 * k + extra)):
                seconds = (0.05 if not recompute else 0.08) * k + 2
                points.append(
                    {"route": route, "horizon": k, "recompute": recompute, "saved_bytes": size, "seconds": seconds}
                )
    return points


def invented_frames() -> list[Atoms]:
    """Four frames of 65 atoms: the interstitial ends in another site than the reference's; the crystal drifts."""
    crystal = bulk("Si", a=5.431, cubic=True) * (2, 2, 2)
    crystal.append(Atom("Si", (2.7, 2.7, 2.7)))  # tetrahedral site
    start, guided, minimum = crystal.copy(), crystal.copy(), crystal.copy()
    reference = crystal.copy()
    for atoms, place in ((start, (4.3, 4.5, 6.4)), (guided, (5.0, 5.1, 7.6)), (minimum, (5.43, 5.43, 8.15))):
        atoms.positions[-1] = place
        atoms.positions += (0.3, -0.1, 0.2)
    stream = numpy_stream(7, "synthetic frames")
    frames = []
    for label, atoms, rattle, size in (
        ("start", start, 0.06, 1.2),
        ("X_20", guided, 0.03, 0.35),
        ("minimum", minimum, 0.01, 0.002),
        ("reference", reference, 0.0, 0.05),
    ):
        atoms.positions += rattle * stream.standard_normal(atoms.positions.shape)
        distance = np.linalg.norm(atoms.positions - atoms.positions[-1], axis=1)
        pull = stream.standard_normal(atoms.positions.shape) * np.exp(-distance / 2.5)[:, None]
        atoms.arrays["forces"] = size * pull
        atoms.info = {"label": label, "arm": "split-20", "id": "synthetic/interstitial-017"}
        frames.append(atoms)
    return frames


def write_synthetic_run(folder: Path) -> Path:
    """Write the synthetic run folder and return it."""
    arms = [invented_arm(name) for name in MODELS]
    results = {
        "schema": 1,
        "title": "SYNTHETIC: routes on silicon interstitials",
        "command": "thalweg demo --out runs/demo",
        "version": "0.1.0",
        "date": "2026-01-01",
        "machine": {"processor": "invented", "cores": 2, "memory": "8 GB", "device": "cpu"},
        "settings": SETTINGS,
        "pairs": {"train": 96, "held_out": PAIRS, "testbed": "silicon", "basins_found": 7},
        "rule": "quench",
        "seconds": 1893.0,
        "arms": arms,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS, sort_keys=False), encoding="utf-8")
    (folder / "dial.json").write_text(json.dumps(invented_dial()), encoding="utf-8")
    write(folder / "example.extxyz", invented_frames(), format="extxyz")
    for arm in arms:
        place = folder / "arms" / arm["name"]
        place.mkdir(parents=True)
        records = [{"id": f"interstitial-{k:03d}", "delta_q": q} for k, q in enumerate(arm["dq"])]
        (place / "evaluation.json").write_text(json.dumps({"pairs": records}), encoding="utf-8")
        if arm["route"] is not None:
            lines = "".join(json.dumps(line) + "\n" for line in invented_metrics(arm["name"]))
            (place / "metrics.jsonl").write_text(lines, encoding="utf-8")
    return folder


Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A fresh synthetic run folder."""
    return write_synthetic_run(tmp_path / "synthetic")


@pytest.fixture
def edited(run_folder: Path) -> Callable[[Edit], Path]:
    """Return a function that changes results.json of the synthetic run and returns the folder."""

    def edit(change: Edit) -> Path:
        path = run_folder / "results.json"
        results = json.loads(path.read_text(encoding="utf-8"))
        change(results)
        path.write_text(json.dumps(results), encoding="utf-8")
        return run_folder

    return edit
