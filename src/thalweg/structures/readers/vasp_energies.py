"""Final energies of the trials of one defect, from the YAML file that ShakeNBreak writes beside them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from thalweg.errors import StructureError

_DISTORTION = re.compile(r"Bond_Distortion_(?P<percent>[-+]?\d+(?:\.\d+)?)%(?P<rest>.*)")
_LARGEST = 1 << 20  # bytes; a hundred trials take 4 kB


@dataclass(frozen=True)
class Energies:
    """The energies (eV) of one defect by distortion: numbers for bond distortions, names for the rest."""

    source: str
    """The file's name."""
    by_key: Mapping[float | str, Any]
    """Energies as the file has them."""

    def of(self, trial: str) -> tuple[float, str | None]:
        """Return the energy of a trial folder, NaN with a note if there is none."""
        match = _DISTORTION.fullmatch(trial)
        for key, value in self.by_key.items():
            if match and not match["rest"] and isinstance(key, int | float):
                found = abs(float(key) - float(match["percent"]) / 100) < 1e-6
            else:
                found = str(key) in (trial, trial.removeprefix("Bond_Distortion_"))
            if found:
                if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                    return float(value), None
                return (
                    math.nan,
                    f"{trial}: the energy in {self.source} is {str(value)[:40]!r}, not a number: left unknown",
                )
        return math.nan, f"{trial}: {self.source} has no energy for it: left unknown"


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases: a few lines of them can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node that is written out.

        Raises:
            YAMLError: it is an alias.
        """
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed here")
        return super().compose_node(parent, index)


def read_energies(defect: Path) -> tuple[Energies | None, str, str | None]:
    """Return the energies beside the trials, the name of the defect (the file's, else the folder's) and a note.

    Raises:
        StructureError: a YAML file there cannot be read.
    """
    documents = {file: _mapping(file) for file in sorted(defect.glob("*.yaml"))}
    usable = {file: document for file, document in documents.items() if document is not None}
    if len(usable) != 1:
        found = "no file" if not usable else f"{len(usable)} files ({', '.join(f.name for f in usable)})"
        note = f"{defect.name}: {found} with a 'distortions' map of energies: energies are left unknown"
        return None, defect.resolve().name, note
    ((file, document),) = usable.items()
    named = {key: value for key, value in document.items() if key != "distortions"}
    return Energies(file.name, {**document["distortions"], **named}), file.stem, None


def _mapping(path: Path) -> dict[float | str, Any] | None:
    try:
        if path.stat().st_size > _LARGEST:
            raise StructureError(f"{path}: {path.stat().st_size} bytes: allowed are {_LARGEST}: remove it")
        document = yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:120]
        raise StructureError(f"{path}: not readable as YAML ({reason}): mend or remove it") from error
    usable = isinstance(document, dict) and isinstance(document.get("distortions"), dict)
    return document if usable else None
