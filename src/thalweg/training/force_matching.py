"""Force matching: fits energies and forces of labelled frames; what comes out is the base.

The loss and the order of the frames are those of `matching_loss`. Called by the command line and the demonstration.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.errors import SettingsError
from thalweg.potentials import POTENTIALS, build_potential
from thalweg.potentials.contract import Potential
from thalweg.potentials.reference import Reference, fit_reference
from thalweg.structures.pairs import Frames
from thalweg.structures.rotation import refuse_partly_fixed
from thalweg.structures.store import AtomBatches
from thalweg.training.checks import check_frames, check_weights
from thalweg.training.digest import digest_frames, digest_potential
from thalweg.training.labelled import Labelled, LabelledFrames
from thalweg.training.matching_loss import Draw, FrameLoss, label_errors, pseudo_huber
from thalweg.training.optimiser import Optimiser
from thalweg.training.processes import Job, Processes, Report, launch
from thalweg.training.run import RunResult, Step, Task, run
from thalweg.training.run_folder import Identity, identify
from thalweg.training.settings import MatchingSettings, StoreTrainSettings, TrainSettings
from thalweg.training.stored import StoredFrames, StoredSet, check_stored, open_sets

_DTYPES = {"float32": torch.float32, "float64": torch.float64, None: torch.float32}
_VALIDATION_BATCH = 32  # frames evaluated at once


@runtime_checkable
class TakesReference(Protocol):
    """A potential whose output is shifted per species and scaled."""

    def set_reference(self, reference: Reference) -> None:
        """Take shifts and scale."""


@dataclass(frozen=True, eq=False)
class TrainJob(Job):
    """All that a process needs."""

    settings: TrainSettings
    identity: Identity
    potential: Potential
    frames: Frames | StoredSet
    validation: Frames | StoredSet | None


def train(
    settings: TrainSettings,
    frames: Frames,
    validation: Frames | None = None,
    *,
    start: Potential | None = None,
    progress: Callable[[Report], None] | None = None,
) -> RunResult:
    """Build a potential and fit it to frames; resumes or skips what its folder already holds.

    Args:
        settings: what to build and how to fit.
        frames: what to fit.
        validation: held-out frames for choosing the best; None chooses the last.
        start: a potential to go on with, shifts and scale included, in place of a new one; stays as it is.
        progress: called with each line of metrics.

    Raises:
        StructureError: frames that cannot be matched.
        PotentialError: settings that the potential refuses, or an element it is told not to know.
        SettingsError: a batch larger than the frames, no such device, or a folder of another run.
        CheckpointError: a checkpoint that cannot be resumed from.
        OutputError: the run folder cannot be written.
    """
    check_frames(settings, frames, validation)
    potential = build_base(settings, frames) if start is None else start
    for part in (frames, validation):
        if part is not None:
            potential.check(part.structures)
    identity = identify(settings, digest_frames(frames, validation), digest_potential(potential))
    return launch(settings.device, _work, TrainJob(progress, settings, identity, potential, frames, validation))


def train_stored(
    settings: StoreTrainSettings,
    store: str | os.PathLike[str],
    *,
    progress: Callable[[Report], None] | None = None,
) -> RunResult:
    """Build a potential and fit it to frames of a store; resumes or skips what its folder already holds.

    Validation and training set follow from the settings (`partition`). Shifts, scale and the number of neighbours
    are measured on 2000 of the training frames, and edges are searched per batch.

    Args:
        settings: what to build, how to fit and what of the store to take.
        store: the folder of the store.
        progress: called with each line of metrics.

    Raises:
        StructureError: no store, a damaged one, or no frames left to train on.
        SettingsError, PotentialError, CheckpointError, OutputError: as `train`.
    """
    frames, held = open_sets(settings, store)
    check_stored(settings, frames)
    sample = frames.sample()
    check_weights(settings, sample)
    potential = build_base(settings, sample)
    for part in (frames, held):
        for some in () if part is None else part.parts():
            potential.check(some.structures)
            if settings.augment == "rotation" and part is frames:
                refuse_partly_fixed(some.structures)
    data = f"{frames.digest}/{None if held is None else held.digest}"
    identity = identify(settings, data, digest_potential(potential))
    return launch(settings.device, _work, TrainJob(progress, settings, identity, potential, frames, held))


def build_base(settings: TrainSettings, frames: Frames) -> Potential:
    """Build the potential before training: architecture, initial parameters, shifts and scale.

    Where the settings of the kind have them and the user gave none: `species` are those of the frames,
    `average_neighbours` is measured on them, `seed` is that of the run.

    Raises:
        PotentialError: settings that the potential refuses.
    """
    kind, given = settings.potential.kind, settings.potential.values
    values = dict(given)
    if "species" not in given and kind in POTENTIALS and POTENTIALS[kind].takes_species:
        values["species"] = torch.unique(frames.structures.numbers).tolist()
    potential = build_potential(kind, values)
    measured: dict[str, Any] = {}
    if "average_neighbours" in potential.settings and "average_neighbours" not in given:
        potential.check(frames.structures)
        edges, atoms = len(potential.edges(frames.structures)), len(frames.structures.numbers)
        measured["average_neighbours"] = max(round(edges / atoms, 1), 1.0)
    if "seed" in potential.settings and "seed" not in given:
        measured["seed"] = settings.seed
    if measured:
        potential = build_potential(kind, {**values, **measured})
    if isinstance(potential, TakesReference):
        potential.set_reference(fit_reference(frames.structures, frames.energy, frames.forces))
    return potential.to(_DTYPES[settings.device.dtype])


def _work(processes: Processes, job: TrainJob) -> RunResult:
    return run(_Matching(processes, job), job.settings, job.identity, processes, job.progress)


class _Matching(Task):
    """The task of force matching."""

    command: ClassVar[str] = "train"

    def __init__(self, processes: Processes, job: TrainJob) -> None:
        self.processes, self.settings = processes, job.settings
        # a copy: parameters sent to several processes lie in memory they share
        self.potential = copy.deepcopy(job.potential).to(processes.device)
        self.optimiser = Optimiser(self.potential, job.settings.optimiser)
        self._train = self._labelled(job.frames)
        self._held = None if job.validation is None else self._labelled(job.validation)
        kinds = 3 if job.settings.matching.stress_weight > 0 else 2
        self._window: list[float] = [0.0] * (kinds + 2)  # losses of energy, force (and stress), gradient norm, updates
        self._seconds = 0.0  # of the steps since the last line of metrics; begins anew where a run is resumed
        told = job.settings
        draw = Draw(
            told.optimiser.batch, told.seed, "train-epoch", rotate=told.augment == "rotation", series=_series(job)
        )
        self._loss = FrameLoss(self.potential, self._train, told.matching, processes, draw)

    def begin(self) -> None:
        """Nothing to measure."""

    def scalars(self) -> dict[str, Any]:
        """Return the sums since the last line of metrics."""
        return {"window": self._window}

    def restore(self, scalars: dict[str, Any]) -> None:
        """Take back the sums."""
        self._window = list(scalars["window"])

    def step(self, update: int) -> Step:
        """Fit one batch; where frames come from a store, also say which share of the time steps waited for them."""
        began = time.perf_counter()
        step = self._fit(update)
        if isinstance(self._train, StoredFrames):
            self._seconds += time.perf_counter() - began
            if step.record is not None:
                step.record["waiting"] = self._train.waited / self._seconds
                self._seconds = self._train.waited = 0.0
        return step

    def _fit(self, update: int) -> Step:
        self.optimiser.clear()
        told = self._loss.backward(update)
        self.processes.sum([*self.optimiser.gradients(), told])
        stepped = self.optimiser.step(update)
        now = [*told.tolist(), stepped.norm, 1.0]
        self._window = [total + new for total, new in zip(self._window, now, strict=True)]
        last = update + 1 == self.settings.optimiser.updates
        if (update + 1) % self.settings.validate_every and not last:
            return Step(None, stepped.taken)
        energy, force, *stress, norm = (value / self._window[-1] for value in self._window[:-1])
        self._window = [0.0] * len(self._window)
        weights = self.settings.matching
        record = {
            "loss": weights.energy_weight * energy
            + weights.force_weight * force
            + sum(weights.stress_weight * loss for loss in stress),
            "energy_loss": energy,
            "force_loss": force,
            "stress_loss": stress[0] if stress else None,
            "gradient_norm": norm,
            "learning_rate": stepped.rate,
        }
        return Step(record, stepped.taken)

    def validate(self) -> dict[str, Any] | None:
        """Return errors on the held-out frames; the score is the loss."""
        if self._held is None:
            return None
        held = self._held
        rows: list[tuple[int, Tensor, Tensor, Tensor | None]] = []
        stressed = self.settings.matching.stress_weight > 0
        starts = range(0, len(held), _VALIDATION_BATCH)
        for start in self.processes.share(starts):
            batch, edges = held.select(list(range(start, min(start + _VALIDATION_BATCH, len(held)))))
            energy, force, stress = label_errors(self.potential, batch, edges, graph=False, stress=stressed)
            known = None if stress is None else stress.cpu().double()
            rows.append((start, energy.cpu().double(), force.cpu().double(), known))
        ordered = sorted(self.processes.gather(rows), key=lambda row: row[0])
        energy, force = torch.cat([row[1] for row in ordered]), torch.cat([row[2] for row in ordered])
        stresses = [row[3] for row in ordered if row[3] is not None]
        return _figures(energy, force, torch.cat(stresses) if stresses else None, self.settings.matching)

    def results(self) -> dict[str, Any]:
        """Return the sizes of the data."""
        return {
            "frames": len(self._train),
            "validation_frames": None if self._held is None else len(self._held),
        }

    def _labelled(self, frames: Frames | StoredSet) -> Labelled:
        dtype = next(self.potential.parameters()).dtype
        if isinstance(frames, StoredSet):
            ahead = not isinstance(self.settings, StoreTrainSettings) or self.settings.store.ahead
            return StoredFrames(frames, self.potential, self.processes.device, dtype, ahead=ahead)
        return LabelledFrames.find(frames.to(self.processes.device, dtype), self.potential)


def _series(job: TrainJob) -> AtomBatches | None:
    """Return the batches with a cap on their atoms, where the settings ask for one."""
    told = job.settings
    if not isinstance(told, StoreTrainSettings) or told.store.batch_atoms is None:
        return None
    if not isinstance(job.frames, StoredSet):
        raise SettingsError("store.batch_atoms is set, but the frames are not those of a store: give a store")
    return AtomBatches(job.frames.sizes, told.store.batch_atoms, told.seed, "train-epoch")


def _figures(
    energy: Float[Tensor, " frames"],
    force: Float[Tensor, "atoms 3"],
    stress: Float[Tensor, "labelled 9"] | None,
    settings: MatchingSettings,
) -> dict[str, Any]:
    energy_loss = float(pseudo_huber(energy / settings.energy_scale).mean())
    force_loss = float(pseudo_huber(force / settings.force_scale).mean())
    score = settings.energy_weight * energy_loss + settings.force_weight * force_loss
    if stress is not None and len(stress):
        score += settings.stress_weight * float(pseudo_huber(stress / settings.stress_scale).mean())
    return {
        "score": score,
        "energy_mae": float(energy.abs().mean()),
        "force_mae": float(force.abs().mean()),
        "force_rmse": float(force.square().mean().sqrt()),
        "stress_mae": float(stress.abs().mean()) if stress is not None and len(stress) else None,
    }
