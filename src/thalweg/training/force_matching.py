"""Force matching: fits energies and forces of labelled frames; what comes out is the base.

    L = w_E mean_s p(ΔE_s / (N_s e)) + w_F mean_i p(|ΔF_i| / f),      p(x) = sqrt(1 + x²) − 1

p is the pseudo-Huber loss (square near zero, linear beyond the unit e or f); it takes the length of ΔF, so it
does not depend on the orientation. Frames come in a new order every epoch, keyed by (seed, epoch); neighbour
lists are found once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.potentials import build_potential
from thalweg.potentials.contract import Potential
from thalweg.potentials.reference import Reference, fit_reference
from thalweg.seeds import torch_stream
from thalweg.structures.neighbours import Edges
from thalweg.structures.pairs import Frames
from thalweg.structures.rotation import random_rotations, rotate_frames
from thalweg.training.checks import check_frames
from thalweg.training.digest import digest_frames, digest_potential
from thalweg.training.labelled import LabelledFrames
from thalweg.training.optimiser import Optimiser
from thalweg.training.processes import Job, Processes, Report, launch
from thalweg.training.run import RunResult, Step, Task, run
from thalweg.training.run_folder import Identity, identify
from thalweg.training.settings import MatchingSettings, TrainSettings

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
    frames: Frames
    validation: Frames | None


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


def build_base(settings: TrainSettings, frames: Frames) -> Potential:
    """Build the potential before training: architecture, initial parameters, shifts and scale.

    Where the settings of the kind have them and the user gave none: `species` are those of the frames,
    `average_neighbours` is measured on them, `seed` is that of the run.

    Raises:
        PotentialError: settings that the potential refuses.
    """
    kind, given = settings.potential.kind, settings.potential.values
    values = dict(given)
    if not {"species", "entries", "published"} & given.keys():  # the latter two name their elements themselves
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
        self._window: list[float] = [0.0, 0.0, 0.0, 0.0]  # energy loss, force loss, gradient norm, updates
        self._order = lru_cache(maxsize=2)(self._permutation)

    def begin(self) -> None:
        """Nothing to measure."""

    def scalars(self) -> dict[str, Any]:
        """Return the sums since the last line of metrics."""
        return {"window": self._window}

    def restore(self, scalars: dict[str, Any]) -> None:
        """Take back the sums."""
        self._window = list(scalars["window"])

    def step(self, update: int) -> Step:
        """Fit one batch."""
        chosen = self._batch(update)
        atoms = self._train.frames.structures.counts.cpu()[chosen].sum()
        own = self.processes.share(chosen)
        self.optimiser.clear()
        parts = self.potential_losses(own, len(chosen), int(atoms), update)
        weights = self.settings.matching
        loss = weights.energy_weight * parts[0] + weights.force_weight * parts[1]
        if loss.requires_grad:
            loss.backward()
        told = parts.detach()
        self.processes.sum([*self.optimiser.gradients(), told])
        stepped = self.optimiser.step(update)
        now = [*told.tolist(), stepped.norm, 1.0]
        self._window = [total + new for total, new in zip(self._window, now, strict=True)]
        last = update + 1 == self.settings.optimiser.updates
        if (update + 1) % self.settings.validate_every and not last:
            return Step(None, stepped.taken)
        energy, force, norm = (value / self._window[3] for value in self._window[:3])
        self._window = [0.0, 0.0, 0.0, 0.0]
        record = {
            "loss": weights.energy_weight * energy + weights.force_weight * force,
            "energy_loss": energy,
            "force_loss": force,
            "gradient_norm": norm,
            "learning_rate": stepped.rate,
        }
        return Step(record, stepped.taken)

    def potential_losses(self, chosen: list[int], frames: int, atoms: int, update: int) -> Float[Tensor, " 2"]:
        """Return energy and force loss of some frames, divided by the frames and atoms of the whole batch."""
        if not chosen:
            return next(self.potential.parameters()).new_zeros(2)
        batch, edges = self._train.select(chosen)
        if self.settings.augment == "rotation":  # edges hold lattice translations, which do not turn
            batch = rotate_frames(batch, random_rotations(self.settings.seed, f"augment {update}", batch.ids))
        energy, force = _errors(self.potential, batch, edges, graph=True)
        return torch.stack(
            [
                _pseudo_huber(energy / self.settings.matching.energy_scale).sum() / frames,
                _pseudo_huber(force / self.settings.matching.force_scale).sum() / atoms,
            ]
        )

    def validate(self) -> dict[str, Any] | None:
        """Return errors on the held-out frames; the score is the loss."""
        if self._held is None:
            return None
        held = self._held
        rows: list[tuple[int, Tensor, Tensor]] = []
        starts = range(0, len(held), _VALIDATION_BATCH)
        for start in self.processes.share(starts):
            batch, edges = held.select(list(range(start, min(start + _VALIDATION_BATCH, len(held)))))
            energy, force = _errors(self.potential, batch, edges, graph=False)
            rows.append((start, energy.cpu().double(), force.cpu().double()))
        ordered = sorted(self.processes.gather(rows), key=lambda row: row[0])
        energy, force = (torch.cat([row[k] for row in ordered]) for k in (1, 2))  # type: ignore[misc]
        return _figures(energy, force, self.settings.matching)

    def results(self) -> dict[str, Any]:
        """Return the sizes of the data."""
        return {
            "frames": len(self._train),
            "validation_frames": None if self._held is None else len(self._held),
        }

    def _labelled(self, frames: Frames) -> LabelledFrames:
        dtype = next(self.potential.parameters()).dtype
        return LabelledFrames.find(frames.to(self.processes.device, dtype), self.potential)

    def _batch(self, update: int) -> list[int]:
        """Return frames number u B to (u + 1) B of the endless series of shuffled epochs."""
        total, size = len(self._train), self.settings.optimiser.batch
        places = range(update * size, (update + 1) * size)
        return [self._order(place // total)[place % total] for place in places]

    def _permutation(self, epoch: int) -> list[int]:
        stream = torch_stream(self.settings.seed, "train-epoch", epoch)
        order: list[int] = torch.randperm(len(self._train), generator=stream).tolist()
        return order


def _errors(
    potential: Potential, frames: Frames, edges: Edges, *, graph: bool
) -> tuple[Float[Tensor, " frames"], Float[Tensor, "atoms 3"]]:
    """Return errors of the energy per atom (eV) and of the forces (eV/Å)."""
    prediction = potential(frames.structures, edges=edges, graph=graph)
    per_atom = (prediction.energy - frames.energy) / frames.structures.counts
    return per_atom, prediction.forces - frames.forces


def _pseudo_huber(error: Float[Tensor, "n *components"]) -> Float[Tensor, " n"]:
    """Return sqrt(1 + |x|²) − 1 of each row."""
    square = error.square() if error.dim() == 1 else error.square().sum(dim=1)
    return (1 + square).sqrt() - 1


def _figures(
    energy: Float[Tensor, " frames"], force: Float[Tensor, "atoms 3"], settings: MatchingSettings
) -> dict[str, Any]:
    energy_loss = float(_pseudo_huber(energy / settings.energy_scale).mean())
    force_loss = float(_pseudo_huber(force / settings.force_scale).mean())
    return {
        "score": settings.energy_weight * energy_loss + settings.force_weight * force_loss,
        "energy_mae": float(energy.abs().mean()),
        "force_mae": float(force.abs().mean()),
        "force_rmse": float(force.square().mean().sqrt()),
    }
