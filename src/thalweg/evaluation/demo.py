"""The demonstration: the whole idea on silicon defects, in minutes, on two cores.

    pairs and frames on the reference surface → weak base by force matching → tune it by implicit only, full BPTT
    and the split → judge all of them and the base on the same held-out pairs → results.json, ready for the report

Every arm starts from the same base, sees the same pairs in the same order, and has the same learning rate and
number of updates. Nothing is chosen on the held-out pairs. A killed demonstration goes on where it was.
"""

from __future__ import annotations

import datetime
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import Field, Strict, model_validator

import thalweg
from thalweg.errors import SettingsError, nearest_known
from thalweg.evaluation.arms import Arm, Contest, certificate_totals, run_arms
from thalweg.evaluation.data import FRAMES, HELD_OUT, PAIRS, UNSEEN, Sizes, make_data
from thalweg.evaluation.dial import measure_dial
from thalweg.evaluation.example import write_example
from thalweg.evaluation.provenance import machine
from thalweg.evaluation.result import Evaluation
from thalweg.gradients import Implicit, Split, Unrolled
from thalweg.potentials.files import load_potential, save_potential
from thalweg.storage import atomic_write
from thalweg.structures.describe import ENERGY_GAP, energy_levels
from thalweg.structures.extended_xyz import read_frames, read_pairs
from thalweg.testbeds import TESTBEDS
from thalweg.testbeds.testbed import Testbed
from thalweg.training.force_matching import train
from thalweg.training.loading import settings_hash
from thalweg.training.run_folder import Identity, RunFolder
from thalweg.training.settings import (
    SAME_RESULT,
    MatchingOptimiserSettings,
    OptimiserSettings,
    PotentialSettings,
    RelaxationSettings,
    Section,
    TrainSettings,
    TuneSettings,
)

SPLIT_HORIZON = 20
"""K of the split, the source's sweet spot."""

FRAMES_HELD_OUT = 50
"""Labelled frames on which every arm's errors of energies and forces are measured."""


class DemoSettings(Section):
    """What the demonstration is told; the defaults take a few minutes on two cores."""

    out: Annotated[Path, Strict(False)] = Field(default=Path("runs/demo"), json_schema_extra=SAME_RESULT)
    """The folder."""
    overwrite: bool = Field(default=False, json_schema_extra=SAME_RESULT)
    """Begin anew although the folder holds a demonstration; what that one wrote is removed."""
    workers: int = Field(default=2, ge=1, json_schema_extra=SAME_RESULT)
    """Arms at once, one thread each."""
    seed: int = Field(default=0, ge=0)
    """Root seed; training and held-out pairs are drawn from streams of their own."""
    testbed: str = "silicon"
    """A key of `TESTBEDS`."""
    frames: int = Field(default=200, ge=8)
    """Labelled frames that the base is fitted to."""
    pairs: int = Field(default=160, ge=8)
    """Training pairs."""
    held_out: int = Field(default=60, ge=1)
    """Held-out pairs."""
    base: TrainSettings = TrainSettings(
        potential=PotentialSettings(kind="painn"),
        optimiser=MatchingOptimiserSettings(updates=200, learning_rate=3e-3, warmup=30),
    )
    """The base: few updates, so that it is weak."""
    tune: TuneSettings = TuneSettings(
        relaxation=RelaxationSettings(alpha=0.03, max_steps=300),
        optimiser=OptimiserSettings(updates=36, warmup=5, learning_rate=1e-3),
    )
    """The budget of every arm; the route is the arm's own."""

    @model_validator(mode="after")
    def _arms_fit(self) -> Self:
        if self.tune.relaxation.alpha is None:
            raise ValueError("tune.relaxation.alpha is null: every arm relaxes by the same one, e.g. 0.03")
        if self.tune.route != TuneSettings().route:
            raise ValueError(f"tune.route is the arm's own: leave it out; the arms are {', '.join(_ORDER)}")
        if self.tune.optimiser.batch > self.pairs:
            raise ValueError(
                f"tune.optimiser.batch is {self.tune.optimiser.batch}: allowed is 1 to pairs ({self.pairs})"
            )
        if self.base.optimiser.batch > self.frames:
            raise ValueError(
                f"base.optimiser.batch is {self.base.optimiser.batch}: allowed is 1 to frames ({self.frames})"
            )
        return self


def run_demo(settings: DemoSettings, *, say: Callable[[str], None]) -> Path:
    """Run the demonstration, or what is left of it; return its folder, with results.json and all that it is made of.

    Args:
        settings: sizes and budgets.
        say: told one line at each stage.

    Raises:
        SettingsError: an unknown testbed, or a folder of another demonstration.
        OutputError: the folder cannot be written.
    """
    testbed = _testbed(settings.testbed)
    folder = settings.out
    _clear(folder, settings.overwrite)
    run = RunFolder(folder)
    standing = run.open(settings, _identity(settings), overwrite=settings.overwrite)
    if standing == "finished":
        say(f"{folder} holds this demonstration, finished")
        return folder
    began = time.perf_counter()
    torch.set_num_threads(1)  # two threads on small cells were seen 50 times slower than one on a busy machine
    size = Sizes(settings.frames, settings.pairs, settings.held_out, FRAMES_HELD_OUT)
    make_data(folder, testbed, size, settings.seed, say=say)
    base = _make_base(settings, folder, say)
    reference = folder / "reference.safetensors"
    save_potential(reference, testbed.reference())
    contest = Contest(
        folder,
        base,
        folder / PAIRS,
        folder / HELD_OUT,
        settings.tune,
        "quench",
        reference,
        frames_held_out=folder / UNSEEN,
        testbed=testbed,
    )
    records = run_arms(contest, demo_arms(), workers=settings.workers, say=say)
    say("measuring the memory dial")
    dial = measure_dial(load_potential(base), read_pairs(contest.pairs).select([0]).starts, settings.tune.relaxation)
    atomic_write(folder / "dial.json", json.dumps([asdict(point) for point in dial], indent=1), overwrite=True)
    arms = [arm_record(folder, arm, records) for arm in sorted(demo_arms(), key=lambda a: _ORDER.index(a.name))]
    write_example(contest, f"split-{SPLIT_HORIZON}", records, folder / "example.extxyz")
    seconds = _spent(folder, time.perf_counter() - began)
    run.finish(_results(settings, contest, arms, seconds))
    return folder


def _clear(folder: Path, overwrite: bool) -> None:
    """Remove an earlier demonstration if told to; refuse files of the same names that are not of one."""
    if not (folder / "settings.yaml").exists():
        strange = [name for name in _MADE if (folder / name).exists()]
        if strange:
            raise SettingsError(
                f"{folder} holds {', '.join(strange)} but no settings.yaml, so no demonstration made them: "
                "choose another folder with out=..."
            )
    elif overwrite:
        for name in _MADE:
            if (folder / name).is_dir():
                shutil.rmtree(folder / name, ignore_errors=True)
            else:
                (folder / name).unlink(missing_ok=True)


_MADE = (
    *(PAIRS, HELD_OUT, FRAMES, UNSEEN, "reference.safetensors", "base", "arms"),
    *("example.extxyz", "dial.json", "report.html", "seconds.json"),
)
"""What a demonstration writes besides the files of every run folder; the data depend on its settings as well."""

_ORDER = ("base", "implicit", "bptt", f"split-{SPLIT_HORIZON}")


def demo_arms() -> list[Arm]:
    """Return the arms of the demonstration, the longest first."""
    return [
        Arm("bptt", Unrolled(recompute=True)),
        Arm(f"split-{SPLIT_HORIZON}", Split(horizon=SPLIT_HORIZON)),
        Arm("implicit", Implicit()),
        Arm("base", None),
    ]


def _identity(settings: DemoSettings) -> Identity:
    """Everything else follows from the settings."""
    return Identity(settings_hash(settings), "", "")


def _testbed(kind: str) -> Testbed:
    if kind not in TESTBEDS:
        raise SettingsError(f"testbed {kind!r} is not known; {nearest_known(kind, TESTBEDS)}")
    return TESTBEDS[kind]()


def _make_base(settings: DemoSettings, folder: Path, say: Callable[[str], None]) -> Path:
    say(f"training a weak base: {settings.base.optimiser.updates} updates of force matching")
    one = settings.base.model_copy(update={"out": folder / "base", "seed": settings.seed})
    return train(one, read_frames(folder / FRAMES)).model


def arm_record(folder: Path, arm: Arm, records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what results.json says of one arm; what was not measured is None."""
    record = records[arm.name]
    evaluation = Evaluation.from_record(record["evaluation"])
    training = record["training"]
    gain = (
        None
        if arm.route is None
        else evaluation.improvement_over(Evaluation.from_record(records["base"]["evaluation"]))
    )
    return {
        "name": arm.name,
        "route": record["route"],
        "updates": None if training is None else training["updates"],
        "basins_right": evaluation.basins_right,
        "basins_total": evaluation.basins_total,
        "basins_interval": list(evaluation.basins_interval),
        "basins_by_threshold": evaluation.basins_by_threshold,
        "dq_mean": evaluation.dq_mean,
        "dq_median": evaluation.dq_median,
        "dq_missing": evaluation.dq_missing,
        "dq": list(evaluation.dq),
        "improved_share": None if gain is None else gain.share_improved,
        "mcnemar_p": None if gain is None else gain.mcnemar_p,
        "saved_bytes": None if training is None else training["saved_bytes"],
        "peak_bytes": None if training is None else training["peak_bytes"],
        "seconds": None if training is None else training["seconds"],
        "skipped_updates": None if training is None else training["skipped_updates"],
        "outcomes": evaluation.outcomes,
        "cost": record.get("cost"),
        "certificates": certificate_totals(folder / "arms" / arm.name / "certificates.jsonl"),
    }


def _spent(folder: Path, seconds: float) -> float:
    """Return the seconds of all sittings; each adds its own."""
    path = folder / "seconds.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else 0.0
    atomic_write(path, json.dumps(earlier + seconds), overwrite=True)
    return float(earlier + seconds)


def _results(settings: DemoSettings, contest: Contest, arms: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    held_out = read_pairs(contest.held_out)
    energies = None if held_out.energy_minimum is None else held_out.energy_minimum.tolist()
    return {
        "schema": 1,
        "title": "Which valley, and how deep: silicon defects",
        "command": "thalweg demo",
        "version": thalweg.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            **machine(),
            "workers": settings.workers,
            "threads_per_worker": 1,
        },
        "settings": dict(sorted(settings.model_dump(mode="json").items(), key=lambda item: item[0] != "tune")),
        "pairs": {
            "train": len(read_pairs(contest.pairs)),
            "held_out": len(held_out),
            "testbed": settings.testbed,
            "basins_found": None if energies is None else len(energy_levels(energies, ENERGY_GAP)),
        },
        "identity": asdict(_identity(settings)),
        "rule": contest.rule,
        "seconds": seconds,
        "arms": arms,
    }
