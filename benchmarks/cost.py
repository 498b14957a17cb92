"""What tuning costs on silicon: basins, errors of labels and the crystal, before and after, with and without replay.

    python benchmarks/cost.py OUT [SHARE ...]

The base and the budget are those of the demonstration; every arm is judged on 40 pairs made with seed 7 and on 100
labelled frames made with seed 3. One seed, one thread. Arms already finished are not run again, so more shares may
be asked for later. Writes OUT/cost.json and prints a table.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from thalweg.evaluation.arms import Arm, Contest, run_arm
from thalweg.evaluation.demo import SPLIT_HORIZON, DemoSettings
from thalweg.gradients import Implicit, Split
from thalweg.potentials.files import save_potential
from thalweg.structures.extended_xyz import read_frames, write_frames, write_pairs
from thalweg.testbeds import TESTBEDS
from thalweg.training.force_matching import train
from thalweg.training.settings import ReplaySettings

ROUTES = {"implicit": Implicit(), f"split-{SPLIT_HORIZON}": Split(horizon=SPLIT_HORIZON)}


def make(out: Path) -> DemoSettings:
    """Make the data and the base."""
    settings, testbed = DemoSettings(), TESTBEDS["silicon"]()
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "held-out.extxyz").exists():
        write_frames(out / "frames.extxyz", testbed.frames(settings.frames, 0), overwrite=True)
        write_frames(out / "frames-held-out.extxyz", testbed.frames(100, 3), overwrite=True)
        write_pairs(out / "pairs.extxyz", testbed.make(settings.pairs, 2), overwrite=True)
        save_potential(out / "reference.safetensors", testbed.reference())
        write_pairs(out / "held-out.extxyz", testbed.make(40, 7), overwrite=True)
    train(settings.base.model_copy(update={"out": out / "base"}), read_frames(out / "frames.extxyz"))
    return settings


def contest(out: Path, settings: DemoSettings, share: float) -> Contest:
    """Return what the arms of one share have in common."""
    return Contest(
        folder=out / f"share-{share:g}",
        base=out / "base" / "model.safetensors",
        pairs=out / "pairs.extxyz",
        held_out=out / "held-out.extxyz",
        tune=settings.tune.model_copy(update={"replay": ReplaySettings(share=share)}),
        rule="quench",
        reference=out / "reference.safetensors",
        frames_held_out=out / "frames-held-out.extxyz",
        testbed=TESTBEDS["silicon"](),
        replay=out / "frames.extxyz" if share > 0 else None,
    )


def row(name: str, share: float, record: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of one arm."""
    evaluation, training = record["evaluation"], record["training"]
    return {
        "arm": name,
        "share": share,
        "basins_right": evaluation["basins_right"],
        "basins_total": evaluation["basins_total"],
        "dq_mean": evaluation["dq_mean"],
        "outcomes": evaluation["outcomes"],
        "seconds": None if training is None else training["seconds"],
        "skipped_updates": None if training is None else training["skipped_updates"],
        "replay_weight": None if training is None else training["replay_weight"],
        "cost": record["cost"],
    }


def main(out: Path, shares: list[float]) -> None:
    """Run every arm that is not finished and print all."""
    settings = make(out)
    rows = [row("base", 0.0, run_arm(contest(out, settings, 0.0), Arm("base", None)))]
    say(rows[-1])
    for share in shares:
        for name, route in ROUTES.items():
            rows.append(row(name, share, run_arm(contest(out, settings, share), Arm(name, route))))
            say(rows[-1])
            (out / "cost.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


def say(found: dict[str, Any]) -> None:
    """Print one line."""
    errors, crystal = found["cost"]["errors"], found["cost"]["crystal"]
    figures = [crystal[k] for k in ("lattice_constant", "cohesive_energy", "c11", "c12", "c44")]
    written = " ".join("–" if x is None else f"{x:.4g}" for x in figures)
    print(
        f"{found['arm']:10s} share {found['share']:<4g} {found['basins_right']:3d} of {found['basins_total']}, "
        f"energy {errors['energy_shifted_rmse']:.1f} meV/atom (shift {errors['energy_shift']:.1f}), "
        f"force {errors['force_rmse']:.0f} meV/Å, cosine {errors['force_cosine']:.3f}, crystal {written} "
        f"{crystal['reason'] or ''}",
        flush=True,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), [float(x) for x in sys.argv[2:]] or [0.0, 0.5])
