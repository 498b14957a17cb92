"""The frontier of memory and outcome on a user's own potential and pairs: what `thalweg dial` measures.

    memory and time of every horizon, plain and recomputed → dial.json
    a budget → the route that fits it → plan.json
    on request: tune by every horizon with one budget, judge on the same held-out pairs → frontier.json

Plain and recomputed gradients have the same bits, so each horizon is tuned once. A killed run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, Strict

from thalweg.errors import SettingsError
from thalweg.evaluation.arms import Arm, Contest, run_arms
from thalweg.evaluation.basins import basin_rule
from thalweg.evaluation.demo import arm_record
from thalweg.evaluation.dial import HORIZONS, affordable, measure_dial
from thalweg.gradients import Implicit, Split, Unrolled
from thalweg.gradients.planning import plan_memory
from thalweg.potentials.adapters.ase_reference import AseReference
from thalweg.potentials.contract import Potential
from thalweg.potentials.files import save_potential
from thalweg.relaxation.stability import safe_alpha
from thalweg.storage import atomic_write
from thalweg.structures.extended_xyz import read_pairs
from thalweg.structures.pairs import Pairs
from thalweg.training.digest import digest_pairs, digest_potential
from thalweg.training.loading import settings_hash
from thalweg.training.run_folder import Identity, RunFolder
from thalweg.training.settings import SAME_RESULT, OptimiserSettings, TuneSettings


class DialSettings(TuneSettings):
    """What `dial` is told: all that `tune` is, of which `route` is what a budget is planned for."""

    out: Annotated[Path, Strict(False)] = Field(default=Path("runs/dial"), json_schema_extra=SAME_RESULT)
    """The folder."""
    workers: int = Field(default=2, ge=1, json_schema_extra=SAME_RESULT)
    """Arms at once, one thread each."""
    horizons: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Strict(False)] = HORIZONS
    """Horizons K of the split."""


@dataclass(frozen=True)
class Trial:
    """Tuning by every horizon, to see what the memory buys."""

    updates: int
    """Updates of the parameters, the same for every arm."""
    held_out: Path
    """Pairs that all arms are judged on, and none learns from."""
    rule: str = "distance"
    """Same-basin rule."""
    reference: Potential | None = None
    """The reference surface, where the rule needs one."""
    words: str | None = None
    """What opens the reference again where no model file holds it, as an ASE calculator: arms are other processes."""

    def check(self) -> None:
        """Refuse what cannot be judged, before anything is run.

        Raises:
            SettingsError: no updates, an unknown rule, a rule that lacks its reference, or a calculator without words.
        """
        if self.updates < 1:
            raise SettingsError(f"--tune is {self.updates}: allowed is 1 or more updates, e.g. 36")
        if isinstance(self.reference, AseReference) and self.words is None:
            raise SettingsError(
                f"the reference {self.reference.words} is a calculator, which processes cannot share: give the words "
                "that open it too, e.g. words='ase:ase.calculators.emt:EMT'"
            )
        basin_rule(self.rule).check(self.reference, read_pairs(self.held_out).energy_minimum)


def run_dial(
    settings: DialSettings,
    potential: Potential,
    pairs: Path,
    *,
    budget: float | None = None,
    trial: Trial | None = None,
    say: Callable[[str], None],
) -> Path:
    """Measure the dial, or what is left of it; return the folder with its records.

    Args:
        settings: the folder, the path, the budget of tuning and the horizons.
        potential: what is measured and tuned.
        pairs: training pairs; the first `optimiser.batch` of them are measured.
        budget: MB for which the route of the settings is planned.
        trial: also tune and judge.
        say: told one line at each stage.

    Raises:
        SettingsError: a folder of another run, or a trial that cannot be judged.
        StructureError: pairs that cannot be read.
        PotentialError: an element the potential does not know.
        OutputError: the folder cannot be written.
    """
    training = read_pairs(pairs)
    potential.check(training.starts)
    if trial is not None:
        trial.check()
    folder = settings.out
    RunFolder(folder).open(settings, _identity(settings, potential, training, trial), overwrite=settings.overwrite)
    if settings.overwrite:
        _remove(folder)
    torch.set_num_threads(1)  # two threads on small cells were seen 50 times slower than one on a busy machine
    told = _with_alpha(settings, potential, training, say)
    batch = training.select(range(min(told.optimiser.batch, len(training))))
    if not (folder / "dial.json").exists():
        say(f"measuring memory and time of a batch of {len(batch)}")
        _write(folder / "dial.json", _measured(told, potential, batch, say))
    if budget is not None:
        plan = plan_memory(potential, batch.starts, told.relaxation.path(), told.route, budget=budget)
        _write(folder / "plan.json", {"budget": budget, "fits": plan.fits, "sentence": plan.sentence})
        say(plan.sentence)
    if trial is not None:
        _write(folder / "frontier.json", _tuned(told, potential, pairs, trial, say))
    return folder


def frontier_arms(horizons: tuple[int, ...], steps: int) -> list[Arm]:
    """Return an arm for every horizon within the path, for full BPTT and implicit only; the longest first."""
    within = sorted({k for k in horizons if k <= steps}, reverse=True)
    arms = [Arm("bptt", Unrolled()), *(Arm(f"split-{k}", Split(k)) for k in within)]
    return [*arms, Arm("implicit", Implicit()), Arm("base", None)]


def _identity(settings: DialSettings, potential: Potential, pairs: Pairs, trial: Trial | None) -> Identity:
    held_out = None if trial is None else read_pairs(trial.held_out)
    data, start = digest_pairs(pairs, held_out), digest_potential(potential)
    tried = None if trial is None else [trial.updates, trial.rule]
    surface = None if trial is None or trial.reference is None else _surface(trial.reference, trial.words)
    account = json.dumps([settings_hash(settings), data, start, tried, surface]).encode()
    return Identity(hashlib.blake2b(account, digest_size=8).hexdigest(), data, start)


def _surface(reference: Potential, words: str | None) -> str | None:
    return words if isinstance(reference, AseReference) else digest_potential(reference)


def _remove(folder: Path) -> None:
    """Remove what an earlier run of this command wrote."""
    import shutil

    shutil.rmtree(folder / "arms", ignore_errors=True)
    for name in ("dial.json", "dial.html", "plan.json", "frontier.json", "base.safetensors", "reference.safetensors"):
        (folder / name).unlink(missing_ok=True)


def _with_alpha(settings: DialSettings, potential: Potential, pairs: Pairs, say: Callable[[str], None]) -> DialSettings:
    """Return the settings with a step size, measured at training minima where it was left open."""
    if settings.relaxation.alpha is not None:
        return settings
    few = pairs.minima.select(range(min(settings.minima, len(pairs)))).to(dtype=next(potential.parameters()).dtype)
    alpha = safe_alpha(potential, few)
    say(f"alpha = {alpha:.4g} Å²/eV, measured")
    return settings.model_copy(update={"relaxation": settings.relaxation.model_copy(update={"alpha": alpha})})


def _measured(
    settings: DialSettings, potential: Potential, batch: Pairs, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Return the measured points; what would not fit into memory is left out and said."""
    allowed = affordable(potential, batch.starts, settings.relaxation.path(), say=say)
    points = measure_dial(potential, batch.starts, settings.relaxation, settings.horizons, allowed=allowed)
    return [asdict(point) for point in points]


def _tuned(
    settings: DialSettings, potential: Potential, pairs: Path, trial: Trial, say: Callable[[str], None]
) -> dict[str, Any]:
    """Tune and judge every arm that is not finished; return the record of all."""
    folder = settings.out
    base, surface = folder / "base.safetensors", folder / "reference.safetensors"
    if not base.exists():
        save_potential(base, potential)
    reference: Path | str | None = None if trial.reference is None else surface
    if isinstance(trial.reference, AseReference):
        reference = trial.words
    elif trial.reference is not None and not surface.exists():
        save_potential(surface, trial.reference)
    tune = _tune_settings(settings, trial.updates)
    contest = Contest(folder, base, pairs, trial.held_out, tune, trial.rule, reference)
    arms = frontier_arms(settings.horizons, settings.relaxation.steps)
    records = run_arms(contest, arms, workers=settings.workers, say=say)
    return {
        "title": "What the memory buys",
        "rule": trial.rule,
        "updates": trial.updates,
        "held_out": len(read_pairs(trial.held_out)),
        "arms": [arm_record(folder, arm, records) for arm in reversed(arms)],
    }


def _tune_settings(settings: DialSettings, updates: int) -> TuneSettings:
    """Return what every arm is told; a warm-up longer than the updates is cut to them."""
    values = settings.optimiser.model_dump() | {"updates": updates}
    values["warmup"] = min(settings.optimiser.warmup, updates)
    shared = {name: getattr(settings, name) for name in TuneSettings.model_fields}
    return TuneSettings(**{**shared, "optimiser": OptimiserSettings(**values), "overwrite": False})


def _write(path: Path, record: Any) -> None:
    atomic_write(path, json.dumps(record, indent=1) + "\n", overwrite=True)
