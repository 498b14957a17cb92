"""Where the parts of a study lie, and its records: small files that outlive all that they were made from.

    protocol.yaml, registration.json      what was decided
    records/seed-0/split-20.json          one finished arm: route, training, evaluation pair by pair; to be kept
    records/seed-0/split-20.failed.json   one that failed, with its reason; the next run tries again
    records/probe.json                    memory and time of every route
    results.json, report.html             what `report` makes of the records
    work/                                 data, weights, checkpoints: can be made again

A record carries the registration's hash; one of another study is refused. Called by `study_arm` and `study`.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thalweg.errors import OutputError, RunFolderError
from thalweg.evaluation.arms import read_record
from thalweg.evaluation.protocol import DataPlan, Matching
from thalweg.evaluation.provenance import code_version, machine
from thalweg.storage import atomic_write


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study."""

    path: Path

    @property
    def work(self) -> Path:
        """What can be made again."""
        return self.path / "work"

    @property
    def reference(self) -> Path:
        """Model file of the reference surface."""
        return self.work / "reference.safetensors"

    @property
    def probe(self) -> Path:
        """The record of memory and time."""
        return self.path / "records" / "probe.json"

    @property
    def results(self) -> Path:
        """What all records come to."""
        return self.path / "results.json"

    def seed(self, seed: int) -> Path:
        """Return where the runs of a seed work."""
        return self.work / f"seed-{seed}"

    def base(self, seed: int) -> Path:
        """Return the run folder of the base of a seed."""
        return self.seed(seed) / "base"

    def data(self, plan: DataPlan, seed: int) -> Path:
        """Return where the frames and pairs of a seed lie: those of all seeds where they share a draw."""
        return self.seed(seed) / "data" if plan.anew else self.work

    def labels(self, plan: DataPlan, seed: int, matching: Matching) -> Path:
        """Return the file of the labels that a control spends."""
        every = f"-every-{matching.every}" if matching.labels == "path" and matching.every > 1 else ""
        return self.data(plan, seed) / f"labels-{matching.labels}{every}.extxyz"

    def record(self, seed: int, arm: str) -> Path:
        """Return the record of a finished arm."""
        return self.path / "records" / f"seed-{seed}" / f"{arm}.json"

    def failure(self, seed: int, arm: str) -> Path:
        """Return the record of a failed arm."""
        return self.path / "records" / f"seed-{seed}" / f"{arm}.failed.json"

    def read(self, path: Path, registration: str) -> dict[str, Any] | None:
        """Return a record of this study, None if there is no such file.

        Raises:
            CheckpointError: the file is damaged.
            RunFolderError: it belongs to another registration.
        """
        found = read_record(path)
        if found is not None and found.get("registration") != registration:
            raise RunFolderError(
                f"{path}: belongs to registration {found.get('registration')}, not to {registration} of {self.path}: "
                "move it to its own study"
            )
        return found

    def write(self, path: Path, registration: str, content: dict[str, Any], *, workers: int | None = None) -> None:
        """Write a record with where it comes from, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        own = {
            "schema": 1,
            "registration": registration,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "code": asdict(code_version()),
            "machine": {**machine(), "threads_per_worker": 1, "workers": workers},
        }
        make_folder(path.parent)
        atomic_write(path, json.dumps({**own, **content}, indent=1, allow_nan=False) + "\n", overwrite=True)

    def finished(self, registration: str) -> Iterator[tuple[int, str]]:
        """Yield seed and arm of every record.

        Raises:
            CheckpointError: a record is damaged.
            RunFolderError: one belongs to another registration.
        """
        for path in sorted((self.path / "records").glob("seed-*/*.json")):
            if not path.name.endswith(".failed.json"):
                found = self.read(path, registration)
                if found is not None:
                    yield found["seed"], found["arm"]


def make_folder(path: Path) -> None:
    """Make a folder and those above it.

    Raises:
        OutputError: the operating system refused.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path}: {error.strerror}; choose another place") from None
