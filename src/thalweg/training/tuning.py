"""Tuning: trains a potential through relaxation, by a route, towards reference minima.

    batch of pairs → route → X_K and/or X* → objective → backward (→ replay) → clip → AdamW

Every update records what its gradient is worth: who took part, why others did not, residuals and curvatures of
the adjoint. An update whose gradient is not finite, or in which no structure took part, changes nothing and is
counted. Tuning stiffens potentials until α λ_max passes 2 and relaxations oscillate: `stability` watches and prevents.
"""

from __future__ import annotations

import copy
import resource
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from thalweg.gradients import Certificate, summarise
from thalweg.gradients.memory import SavedBytes
from thalweg.potentials.contract import Potential
from thalweg.relaxation.path import Path
from thalweg.seeds import torch_stream
from thalweg.structures.pairs import Frames, Pairs
from thalweg.structures.rotation import random_rotations, rotate_pairs
from thalweg.training.checks import check_replay, check_tuning
from thalweg.training.digest import digest_frames, digest_pairs, digest_potential
from thalweg.training.objective import Loss, objective
from thalweg.training.optimiser import Optimiser, Stepped
from thalweg.training.processes import Job, Processes, Report, launch
from thalweg.training.replay import Replay, Replayed
from thalweg.training.run import RunResult, Step, Task, run
from thalweg.training.run_folder import Identity, identify
from thalweg.training.scoring import figures, reach
from thalweg.training.settings import TuneSettings
from thalweg.training.stability import Penalised, Watch, penalty_record
from thalweg.training.stored import StoredSet

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, eq=False)
class TuneJob(Job):
    """All that a process needs."""

    settings: TuneSettings
    identity: Identity
    potential: Potential
    pairs: Pairs
    validation: Pairs | None
    replay: Frames | StoredSet | None = None


def tune(
    settings: TuneSettings,
    potential: Potential,
    pairs: Pairs,
    validation: Pairs | None = None,
    *,
    replay: Frames | StoredSet | None = None,
    progress: Callable[[Report], None] | None = None,
) -> RunResult:
    """Tune a copy of a potential through relaxation; resumes or skips what its folder already holds.

    Args:
        settings: relaxation, route, objective and optimiser.
        potential: the base; stays as it is.
        pairs: starts and reference minima to learn from.
        validation: held-out pairs for choosing the best; None chooses the last.
        replay: labelled frames, in memory or of a store (`whole_set`), whose force-matching loss is added, as
            `settings.replay` says; None for none.
        progress: called with each line of metrics.

    Raises:
        StructureError: pairs that cannot be tuned on, or frames that cannot be replayed.
        PotentialError: an element that the potential never saw, or curvatures that are not finite.
        SettingsError: a batch larger than the pairs, no such device, a folder of another run, or only one of
            frames to replay and a share of them.
        CheckpointError: a checkpoint that cannot be resumed from.
        OutputError: the run folder cannot be written.
    """
    check_tuning(settings, potential, pairs, validation)
    check_replay(settings, potential, replay)
    data = digest_pairs(pairs, validation)
    if replay is not None:
        data += f" {replay.digest if isinstance(replay, StoredSet) else digest_frames(replay)}"
    identity = identify(settings, data, digest_potential(potential))
    job = TuneJob(progress, settings, identity, potential, pairs, validation, replay)
    return launch(settings.device, _work, job)


def _work(processes: Processes, job: TuneJob) -> RunResult:
    return run(_Tuning(processes, job), job.settings, job.identity, processes, job.progress)


@dataclass(frozen=True)
class _Share:
    """What one process did in one update; travels to the others."""

    loss: Loss | None
    certificates: list[Certificate]
    penalised: Penalised | None
    saved_bytes: int | None


class _Tuning(Task):
    """The task of tuning."""

    command: ClassVar[str] = "tune"

    def __init__(self, processes: Processes, job: TuneJob) -> None:
        self.processes, self.settings = processes, job.settings
        wanted = job.settings.device.dtype
        dtype = next(job.potential.parameters()).dtype if wanted is None else _DTYPES[wanted]
        # a copy: the base stays as it is, and parameters sent to several processes lie in memory they share
        self.potential = copy.deepcopy(job.potential).to(processes.device, dtype)
        self.optimiser = Optimiser(self.potential, job.settings.optimiser)
        self._pairs = job.pairs.to(processes.device, dtype)
        self._held = None if job.validation is None else job.validation.to(processes.device, dtype)
        minima = self._pairs.minima.select(range(min(job.settings.minima, len(self._pairs))))
        self._watch = Watch(job.settings, self.potential, minima, processes)
        self._replay = None if job.replay is None else Replay(job.settings, job.replay, self.potential, self.processes)
        self._saved_bytes: int | None = None

    @property
    def path(self) -> Path:
        """The relaxation, with α as it stands."""
        return self._watch.path

    @property
    def _replay_weight(self) -> float | None:
        return None if self._replay is None else self._replay.weight

    def begin(self) -> None:
        """Choose α where the settings leave it open."""
        self._watch.begin()

    def scalars(self) -> dict[str, Any]:
        """Return α, what became of it, the bytes counted and the weight of replay."""
        return {**self._watch.scalars(), "saved_bytes": self._saved_bytes, "replay_weight": self._replay_weight}

    def restore(self, scalars: dict[str, Any]) -> None:
        """Take back what `scalars` returned."""
        self._watch.restore(scalars)
        self._saved_bytes = scalars["saved_bytes"]
        if self._replay is not None:
            self._replay.weight = scalars["replay_weight"]

    def step(self, update: int) -> Step:
        """Make one update through relaxation."""
        self.optimiser.clear()
        shares = self.processes.gather([self._differentiate(update)])
        self.processes.sum(self.optimiser.gradients())
        certificates = [c for share in shares for c in share.certificates]
        losses = [share.loss for share in shares if share.loss is not None]
        penalised = [share.penalised for share in shares if share.penalised is not None]
        inside = sum(loss.guided for loss in losses) + sum(c.took_part for c in certificates)
        replayed = self._replay.add(update, self.optimiser) if inside and self._replay is not None else None
        # where every relaxation fails, the penalty may be what mends them
        stepped = self.optimiser.step(update) if inside or any(p.above for p in penalised) else None
        measured = [share.saved_bytes for share in shares if share.saved_bytes is not None]
        record = {
            **_loss_record(losses, self.settings),
            **_replay_record(replayed),
            **_step_record(stepped),
            **_certificate_record(certificates),
            "saved_bytes": max(measured, default=None),
            "peak_bytes": self._peak_bytes(),
            **penalty_record(penalised),
            **self._watch.check(update),
        }
        if measured:
            self._saved_bytes = max(measured)
        lines = [{"update": update + 1, **c.record()} for c in certificates]
        return Step(record, stepped is not None and stepped.taken, lines)

    def _differentiate(self, update: int) -> _Share:
        """Fill the gradients of this process's share of the batch."""
        chosen = self.processes.share(self._batch(update))
        # hooks cost time, so bytes are counted in one update: always the same, wherever a run was killed and
        # resumed, since another batch keeps another number of bytes
        measure = update == min(1, self.settings.optimiser.updates - 1)
        if not chosen:
            return _Share(None, [], None, None)
        part = self._pairs.select(chosen)
        if self.settings.augment == "rotation":
            part = rotate_pairs(part, random_rotations(self.settings.seed, f"augment {update}", part.ids))
        account = SavedBytes(self.potential.parameters()) if measure else None
        with account or nullcontext():
            penalised = self._watch.penalise(part.minima)
            differentiated = self.settings.route.differentiate(self.potential, part.starts, self.path)
            loss = objective(differentiated, part.minima, self.settings.objective, batch=self.settings.optimiser.batch)
            if loss.total.requires_grad:
                loss.total.backward()
        told = Loss(loss.total.detach().cpu(), loss.guidance, loss.equilibrium, loss.guided, loss.relaxed)
        return _Share(told, differentiated.certificates, penalised, None if account is None else account.peak)

    def _batch(self, update: int) -> list[int]:
        stream = torch_stream(self.settings.seed, "tune-batch", update)
        order: list[int] = torch.randperm(len(self._pairs), generator=stream).tolist()
        return order[: self.settings.optimiser.batch]

    def _peak_bytes(self) -> int:
        """Return the peak of the device, or of the process where there is none."""
        if self.processes.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.processes.device)
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def validate(self) -> dict[str, Any] | None:
        """Return figures of held-out relaxations."""
        if self._held is None:
            return None
        own = self.processes.share(range(len(self._held)))
        part = self._held.select(own)
        found = reach(self.potential, part, self.path, self.settings.objective.delta) if own else []
        everyone = {row.id: row for row in self.processes.gather(found)}
        return figures([everyone[name] for name in self._held.ids])

    def results(self) -> dict[str, Any]:
        """Return what tuning adds to the results."""
        return {
            "route": self.settings.route.kind,
            "pairs": len(self._pairs),
            "validation_pairs": None if self._held is None else len(self._held),
            **self._watch.results(),
            "saved_bytes": self._saved_bytes,
            "peak_bytes": self._peak_bytes(),
            "replay_frames": None if self._replay is None else self._replay.frames,
            "replay_weight": self._replay_weight,
        }


def _loss_record(losses: list[Loss], settings: TuneSettings) -> dict[str, Any]:
    guidance = [loss.guidance for loss in losses if loss.guidance is not None]
    equilibrium = [loss.equilibrium for loss in losses if loss.equilibrium is not None]
    return {
        "loss": sum(float(loss.total) for loss in losses),
        "guidance": sum(guidance) if guidance else None,
        "equilibrium": sum(equilibrium) if equilibrium else None,
        "structures": settings.optimiser.batch,
        "guided": sum(loss.guided for loss in losses),
        "relaxed": sum(loss.relaxed for loss in losses),
    }


def _replay_record(replayed: Replayed | None) -> dict[str, Any]:
    """Return what replay added, before its weight; None where there was none. `loss` does not hold it."""
    return {
        "replay_loss": None if replayed is None else replayed.loss,
        "replay_energy_loss": None if replayed is None else replayed.energy_loss,
        "replay_force_loss": None if replayed is None else replayed.force_loss,
        "replay_stress_loss": None if replayed is None else replayed.stress_loss,
        "replay_gradient_norm": None if replayed is None else replayed.norm,
        "replay_weight": None if replayed is None else replayed.weight,
    }


def _step_record(stepped: Stepped | None) -> dict[str, Any]:
    if stepped is None:
        return {"gradient_norm": None, "learning_rate": None, "skipped": "no structure took part"}
    skipped = None if stepped.taken else "the gradient is not finite"
    return {"gradient_norm": stepped.norm, "learning_rate": stepped.rate, "skipped": skipped}


def _certificate_record(certificates: list[Certificate]) -> dict[str, Any]:
    summary = summarise(certificates)
    steps = [c.steps for c in certificates if c.steps is not None]
    return {
        "took_part": summary.took_part,
        "reasons": summary.reasons,
        "worst_residual": summary.worst_residual,
        "lowest_curvature": summary.lowest_curvature,
        "mean_steps": sum(steps) / len(steps) if steps else None,
    }
