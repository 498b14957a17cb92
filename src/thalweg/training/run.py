"""The one loop of training: step, record, validate, keep the best, write a checkpoint; resume where it was killed.

    update 0:      validate the start, write the first checkpoint
    each update:   step → record; now and then validate; improved → best model; checkpoint last

Whatever lies behind the newest checkpoint is cut from the records and done again, to the same bits: a step
depends on parameters, moments, its number and the root seed alone. Called by `train` and `tune`, each with a
task.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from thalweg.potentials.contract import Potential
from thalweg.potentials.files import save_potential
from thalweg.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from thalweg.training.optimiser import Optimiser, count_parameters
from thalweg.training.processes import Processes, Report
from thalweg.training.run_folder import Identity, RunFolder
from thalweg.training.settings import TrainSettings, TuneSettings


@dataclass(frozen=True)
class Step:
    """What one update of the parameters reports."""

    record: dict[str, Any] | None
    """A line of metrics; None if this update has none of its own."""
    taken: bool
    """Whether parameters were changed."""
    certificates: list[dict[str, Any]] = field(default_factory=list)
    """Lines for the record of certificates."""


class Task(ABC):
    """What the loop drives."""

    command: ClassVar[str]
    """`train` or `tune`."""
    potential: Potential
    """What is trained."""
    optimiser: Optimiser
    """What steps it."""

    @abstractmethod
    def begin(self) -> None:
        """Measure what a fresh run needs."""

    @abstractmethod
    def scalars(self) -> dict[str, Any]:
        """Return what a checkpoint has to hold besides tensors, of JSON types."""

    @abstractmethod
    def restore(self, scalars: dict[str, Any]) -> None:
        """Take back what `scalars` returned."""

    @abstractmethod
    def step(self, update: int) -> Step:
        """Make update number `update` (from 0)."""

    @abstractmethod
    def validate(self) -> dict[str, Any] | None:
        """Return figures of held-out data with their `score` (lower is better); None without such data."""

    @abstractmethod
    def results(self) -> dict[str, Any]:
        """Return what goes into the results besides what every run has."""


@dataclass(frozen=True)
class RunResult:
    """What a run came to."""

    folder: Path
    """The run folder."""
    model: Path
    """The model after the last update."""
    best: Path
    """The model with the best validation; the same as `model` where nothing was held out."""
    results: dict[str, Any]
    """What `results.json` says."""
    already_finished: bool
    """True if the folder held the finished run and nothing was done."""


@dataclass(frozen=True)
class _Standing:
    """What the loop keeps, besides the task."""

    update: int = 0
    best_update: int | None = None
    best_score: float | None = None
    validation: dict[str, Any] | None = None
    skipped: int = 0
    seconds: float = 0.0


def run(
    task: Task,
    settings: TrainSettings | TuneSettings,
    identity: Identity,
    processes: Processes,
    progress: Callable[[Report], None] | None,
) -> RunResult:
    """Run a task to its end, from wherever its folder stands.

    Args:
        task: what is trained and how.
        settings: of the run; says where the folder is.
        identity: what makes it this run.
        processes: who takes part; process 0 writes.
        progress: called after each update that has a record, on process 0.

    Raises:
        SettingsError: the folder holds another run.
        CheckpointError: a checkpoint or results that cannot be read.
        OutputError: something cannot be written.
    """
    folder = RunFolder(settings.out)
    loop = _Loop(task, settings, identity, processes, progress, folder)
    standing = processes.from_main(lambda: folder.open(settings, identity, overwrite=settings.overwrite))
    if standing == "finished":
        return _result(folder, folder.read_results(), already=True)
    state = loop.resume() if standing == "interrupted" else loop.begin()
    for update in range(state.update, settings.optimiser.updates):
        state = loop.advance(state, update)
    results = loop.finish(state)
    return _result(folder, results, already=False)


@dataclass(frozen=True, eq=False)
class _Loop:
    task: Task
    settings: TrainSettings | TuneSettings
    identity: Identity
    processes: Processes
    progress: Callable[[Report], None] | None
    folder: RunFolder

    def begin(self) -> _Standing:
        """Validate the start and write the first checkpoint."""
        self.task.begin()
        validation = self.task.validate()
        state, record = self._judge(_Standing(), validation, {"update": 0})
        if validation is not None:
            self._write(record, [])
        self._save(state)
        return state

    def resume(self) -> _Standing:
        """Read the checkpoint and cut the records back to it."""
        found = load_checkpoint(
            self.folder.checkpoint,
            command=self.task.command,
            identity=self.identity,
            potential=self.task.potential,
            optimiser=self.task.optimiser,
        )
        self.processes.from_main(lambda: self.folder.rewind(found.update))
        self.task.restore(found.scalars["task"])
        return _Standing(update=found.update, **found.scalars["run"])

    def advance(self, state: _Standing, update: int) -> _Standing:
        """Make one update and everything that comes with it."""
        started = time.perf_counter()
        step = self.task.step(update)
        done, last = update + 1, update + 1 == self.settings.optimiser.updates
        due = done % self.settings.validate_every == 0 or last
        validation = self.task.validate() if due else None
        record = None if step.record is None and validation is None else {"update": done, **(step.record or {})}
        seconds = time.perf_counter() - started
        state = replace(state, update=done, skipped=state.skipped + (not step.taken), seconds=state.seconds + seconds)
        best_before = state.best_update
        if record is not None:
            record["seconds"] = seconds
            state, record = self._judge(state, validation, record)
            self._write(record, step.certificates)
        improved = state.best_update != best_before
        if improved or last or done % self.settings.checkpoint_every == 0:
            self._save(state)
        return state

    def finish(self, state: _Standing) -> dict[str, Any]:
        """Write the last model and the results."""
        results = {
            "command": self.task.command,
            "identity": asdict(self.identity),
            "updates": state.update,
            "skipped_updates": state.skipped,
            "best_update": state.best_update,
            "best_score": state.best_score,
            "validation": state.validation,
            "seconds": state.seconds,
            "devices": self.processes.world,
            "device": self.processes.device.type,
            "parameters": count_parameters(self.task.potential.parameters()),
            **self.task.results(),
        }
        if self.processes.main:
            save_potential(self.folder.model, self.task.potential)
            self.folder.finish(results)
        return results

    def _judge(
        self, state: _Standing, validation: dict[str, Any] | None, record: dict[str, Any]
    ) -> tuple[_Standing, dict[str, Any]]:
        """Put a validation into state and record, and keep the model if it is the best so far."""
        record = {**record, "validation": validation}
        if validation is None:
            return state, record
        score = validation["score"]
        state = replace(state, validation=validation)
        if state.best_score is None or score < state.best_score:
            state = replace(state, best_score=score, best_update=state.update)
            if self.processes.main:
                save_potential(self.folder.best, self.task.potential)
        return state, record

    def _write(self, record: dict[str, Any], certificates: list[dict[str, Any]]) -> None:
        if not self.processes.main:
            return
        self.folder.record(self.folder.certificates, certificates)
        self.folder.record(self.folder.metrics, [record])
        if self.progress is not None:
            self.progress(Report(record["update"], self.settings.optimiser.updates, record))

    def _save(self, state: _Standing) -> None:
        if not self.processes.main:
            return
        kept = asdict(state)
        update = kept.pop("update")
        save_checkpoint(
            self.folder.checkpoint,
            command=self.task.command,
            identity=self.identity,
            progress=Progress(update, {"run": kept, "task": self.task.scalars()}),
            potential=self.task.potential,
            optimiser=self.task.optimiser,
        )


def _result(folder: RunFolder, results: dict[str, Any], *, already: bool) -> RunResult:
    best = folder.model if results["best_update"] is None else folder.best
    return RunResult(folder.path, folder.model, best, results, already)
