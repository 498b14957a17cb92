"""The run folder: settings, records, checkpoint and results of one run, safe against kills at any moment.

    settings.yaml            what the run was told; its first line carries the settings' hash
    metrics.jsonl            a line per update (tune) or per window (train)
    certificates.jsonl       a line per structure and update (tune)
    checkpoint.safetensors   the state to resume from
    best.safetensors         the model with the best validation
    model.safetensors        the model after the last update
    results.json             there only when the run is finished

A finished run is skipped, a killed one resumes, a folder of another run is refused. Called by `train` and `tune`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel

from thalweg.errors import CheckpointError, OutputError, SettingsError
from thalweg.storage import append_line, atomic_write
from thalweg.training.loading import dump_settings, settings_hash, settings_of_result

_HASH_LINE = "# settings hash: "

Standing = Literal["fresh", "interrupted", "finished"]
"""How a folder stands to the run that is to use it."""


@dataclass(frozen=True)
class Identity:
    """What makes two runs the same run."""

    settings: str
    """Hash of the settings."""
    data: str
    """Digest of the structures trained and validated on."""
    start: str
    """Digest of the potential that the run begins with."""


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds one run."""

    path: Path

    @property
    def settings(self) -> Path:
        """The settings file."""
        return self.path / "settings.yaml"

    @property
    def metrics(self) -> Path:
        """The record of updates."""
        return self.path / "metrics.jsonl"

    @property
    def certificates(self) -> Path:
        """The record of certificates."""
        return self.path / "certificates.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The state to resume from."""
        return self.path / "checkpoint.safetensors"

    @property
    def best(self) -> Path:
        """The model with the best validation."""
        return self.path / "best.safetensors"

    @property
    def model(self) -> Path:
        """The model after the last update."""
        return self.path / "model.safetensors"

    @property
    def results(self) -> Path:
        """The results; written last."""
        return self.path / "results.json"

    def open(self, settings: BaseModel, identity: Identity, *, overwrite: bool = False) -> Standing:
        """Make the folder ready and say how it stands.

        Args:
            settings: written beside a fresh run.
            identity: what the run is.
            overwrite: remove the run that is there and begin anew.

        Raises:
            SettingsError: the folder holds a run with other settings, data or start.
            CheckpointError: the results or settings that are there cannot be read.
            OutputError: the folder cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            in_the_way = isinstance(error, FileExistsError | NotADirectoryError)
            reason = "a part of the path is a file, not a folder" if in_the_way else error.strerror
            raise OutputError(
                f"cannot make the run folder {self.path}: {reason}; choose another with out=..."
            ) from None
        if overwrite:
            self._remove()
        stored = self._stored_hash()
        if stored is None:
            atomic_write(self.settings, f"{_HASH_LINE}{identity.settings}\n{dump_settings(settings)}")
            return "fresh"
        if stored != identity.settings:
            raise SettingsError(self._other("settings", stored, identity.settings, self._difference(settings)))
        if self.results.exists():
            self._refuse_other(identity, self.read_results().get("identity") or {})
            return "finished"
        if self.checkpoint.exists():
            return "interrupted"
        self.rewind(-1)
        return "fresh"

    def _refuse_other(self, identity: Identity, stored: Mapping[str, Any]) -> None:
        """Refuse a finished run of other data or another start."""
        for name, ours in asdict(identity).items():
            if stored.get(name) != ours:
                raise SettingsError(self._other(name, str(stored.get(name)), ours))

    def read_results(self) -> dict[str, Any]:
        """Return the results.

        Raises:
            CheckpointError: they cannot be read.
        """
        try:
            found = json.loads(self.results.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.results} cannot be read ({error}): remove it to resume, or begin anew with overwrite=true"
            ) from None
        if not isinstance(found, dict):
            raise CheckpointError(f"{self.results} holds no results: begin anew with overwrite=true")
        return found

    def record(self, file: Path, records: Sequence[Mapping[str, Any]]) -> None:
        """Append records to one of the two record files, a line each; numbers that are not finite become null.

        Raises:
            OutputError: the file cannot be written.
        """
        for record in records:
            append_line(file, json.dumps(plain(record), allow_nan=False))

    def rewind(self, update: int) -> None:
        """Drop what was recorded after `update` updates, and a line that a kill has torn.

        Raises:
            OutputError: the files cannot be written.
        """
        for file in (self.metrics, self.certificates):
            if not file.exists():
                continue
            text = file.read_bytes().decode("utf-8", errors="replace")
            kept = [line for line in text.splitlines() if _update_of(line) <= update]
            whole = "".join(f"{line}\n" for line in kept)
            if whole != text:
                atomic_write(file, whole, overwrite=True)

    def finish(self, results: Mapping[str, Any]) -> None:
        """Write the results: from now on the run is finished.

        Raises:
            OutputError: the file cannot be written.
        """
        text = json.dumps(plain(results), indent=1, allow_nan=False)
        atomic_write(self.results, text + "\n", overwrite=True)

    def _stored_hash(self) -> str | None:
        """Return the hash in the settings file, None if there is no run."""
        if not self.settings.exists():
            mine = [file.name for file in self._files() if file.exists()]
            if mine:
                raise CheckpointError(
                    f"{self.path} holds {', '.join(mine)} but no {self.settings.name}: choose another folder "
                    "with out=... or begin anew with overwrite=true"
                )
            return None
        try:
            first = self.settings.read_text(encoding="utf-8").split("\n", 1)[0]
        except (OSError, UnicodeDecodeError):
            first = ""
        if not first.startswith(_HASH_LINE):
            raise CheckpointError(
                f"{self.settings} does not begin with '{_HASH_LINE.strip()}': it was not written by a run; "
                "choose another folder with out=... or begin anew with overwrite=true"
            )
        return first.removeprefix(_HASH_LINE).strip()

    def _other(self, name: str, stored: str, ours: str, difference: str = "") -> str:
        what = {"settings": "settings", "data": "structures", "start": "start potential"}[name]
        return (
            f"{self.path} holds a run with other {what} ({difference or f'{stored}, this one {ours}'}): choose "
            "another folder with out=... or begin anew with overwrite=true"
        )

    def _difference(self, settings: BaseModel) -> str:
        """Return the first setting that differs from the file, or nothing if that cannot be told."""
        try:
            there = flat(yaml.safe_load(self.settings.read_text(encoding="utf-8")))
        except (OSError, ValueError, yaml.YAMLError):
            return ""
        here = flat(settings_of_result(settings))
        for key, value in here.items():
            if there.get(key) != value:
                return f"{key} is {there.get(key)!r} there and {value!r} here"
        return ""

    def _files(self) -> tuple[Path, ...]:
        return (
            self.results,  # first: without it nothing counts as finished
            self.checkpoint,
            self.metrics,
            self.certificates,
            self.best,
            self.model,
            self.settings,
        )

    def _remove(self) -> None:
        try:
            for file in self._files():
                file.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot remove the run in {self.path}: {error.strerror}; choose another folder with out=..."
            ) from None


def identify(settings: BaseModel, data: str, start: str) -> Identity:
    """Return the identity of a run from its settings and the digests of data and start potential."""
    return Identity(settings=settings_hash(settings), data=data, start=start)


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys."""
    if not isinstance(values, Mapping):
        return {prefix: values}
    parts = [flat(v, f"{prefix}.{k}" if prefix else str(k)) for k, v in values.items()]
    return {key: value for part in parts for key, value in part.items()}


def plain(value: Any) -> Any:
    """Return a value fit for JSON: numbers that are not finite become null, at any depth."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _update_of(line: str) -> float:
    """Return the update a line belongs to, infinity if the line is torn."""
    try:
        return float(json.loads(line)["update"])
    except (ValueError, KeyError, TypeError):
        return math.inf
