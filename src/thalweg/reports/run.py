"""Reading the folder of a comparison: what the report's tables, figures and sentences are made from.

The layout and every field are described in docs/run-folder.md. Only `results.json` must be there; every other
part may be missing and is then None, which the report shows as "not measured". A number that is null or not
finite is None, never 0.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, Self, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from thalweg.errors import RunFolderError

SCHEMA = 1
"""Version of results.json that this report reads."""


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite_or_none)]
Count = Annotated[int, Field(ge=0)] | None
Share = Annotated[float, Field(ge=0, le=1)]


class Record(BaseModel):
    """Something read from a file of a folder; unknown keys are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


_Kind = TypeVar("_Kind", bound=Record)


class Certificates(Record):
    """What the certificates of an arm's whole training come to."""

    took_part: Count = None
    """Structures, summed over updates, that contributed to the gradient."""
    total: Count = None
    """Structures, summed over updates."""
    worst_residual: Number = None
    """Largest true relative residual of an adjoint solve."""
    lowest_curvature: Number = None
    """Lowest curvature seen by the adjoint solver, eV/Å²."""
    reasons: dict[str, int] = {}
    """How many were refused for which reason."""


class Arm(Record):
    """One arm of the comparison; every figure but its name may be None."""

    name: Annotated[str, Field(min_length=1)]
    route: dict[str, Any] | None = None
    """The route's `kind` and settings; None for the base."""
    updates: Count = None
    basins_right: Count = None
    basins_total: Count = None
    basins_interval: tuple[Share, Share] | None = None
    """95 % interval of the share of right basins."""
    basins_by_threshold: dict[str, Count] | None = None
    """Right basins at each threshold (Å) on the largest matched displacement."""
    dq_mean: Number = None
    dq_median: Number = None
    dq: tuple[Number, ...] | None = None
    """ΔQ of each held-out pair, amu^½ Å, in the order of the pairs; None where it is not defined."""
    improved_share: Share | None = None
    mcnemar_p: Share | None = None
    saved_bytes: Number = None
    peak_bytes: Number = None
    seconds: Number = None
    outcomes: dict[str, int] | None = None
    certificates: Certificates | None = None

    @property
    def share(self) -> float | None:
        """Share of right basins, None if it was not measured."""
        return self.basins_right / self.basins_total if self.basins_right is not None and self.basins_total else None

    @property
    def relaxed(self) -> int | None:
        """Relaxations evaluated in all, None if it was not recorded."""
        return sum(self.outcomes.values()) if self.outcomes else None

    @property
    def unconverged(self) -> int | None:
        """Relaxations that ended as anything but converged, None if it was not recorded."""
        return (
            None if self.relaxed is None or self.outcomes is None else self.relaxed - self.outcomes.get("converged", 0)
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.name in (".", "..") or any(sign in self.name for sign in "/\\\0"):
            raise ValueError(f"arm name {self.name!r} names a folder too, so it cannot hold / or \\ or be . or ..")
        if self.basins_right is not None and self.basins_total is not None and self.basins_right > self.basins_total:
            raise ValueError(f"arm {self.name!r} has {self.basins_right} right basins of only {self.basins_total}")
        if self.basins_interval is not None and self.basins_interval[0] > self.basins_interval[1]:
            raise ValueError(f"arm {self.name!r} has an interval that ends before it begins: {self.basins_interval}")
        for threshold in self.basins_by_threshold or {}:
            try:
                float(threshold)
            except ValueError:
                raise ValueError(f"arm {self.name!r} has the threshold {threshold!r}, not a number of Å") from None
        return self


class Counts(Record):
    """The pairs of the comparison."""

    train: Count = None
    held_out: Count = None
    testbed: str | None = None
    basins_found: Count = None


class Results(Record):
    """The contents of results.json, version 1."""

    title: str = "Comparison"
    command: str | None = None
    version: str | None = None
    date: str | None = None
    machine: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    pairs: Counts = Counts()
    rule: str | None = None
    seconds: Number = None
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [arm.name for arm in self.arms]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise ValueError(f"two arms are called {double!r}: give each a name of its own")
        return self


class Update(Record):
    """One line of metrics.jsonl that the figures use."""

    update: int
    loss: Number = None
    gradient_norm: Number = None


class DialPoint(Record):
    """One measured point of the memory dial."""

    route: str
    horizon: Count = None
    """Differentiated updates as run: T for full BPTT, 0 for implicit."""
    recompute: bool | None = None
    saved_bytes: Number = None
    seconds: Number = None


class _Dial(Record):
    points: tuple[DialPoint, ...]


class _Plan(Record):
    sentence: str


@dataclass(frozen=True)
class Run:
    """A run folder, read."""

    folder: Path
    results: Results
    settings_text: str | None
    """settings.yaml as it stands, else the settings of results.json as YAML; None if there are none."""
    metrics: dict[str, tuple[Update, ...]]
    """Updates by arm, for the arms that have a record."""
    ids: dict[str, tuple[str, ...]]
    """Ids of the evaluated pairs by arm, in the order of `Arm.dq`, where evaluation.json gives them."""
    dial: tuple[DialPoint, ...] | None
    example: Path | None


def read_run(folder: str | Path) -> Run:
    """Read the folder of a comparison.

    Args:
        folder: where results.json is.

    Raises:
        RunFolderError: results.json is missing, or a file is there that cannot be understood; the message names
            file and field.
    """
    folder = Path(folder)
    path = folder / "results.json"
    content = read_json(path)
    if content is None:
        raise RunFolderError(f"{folder} has no results.json: give the folder of a finished run, e.g. runs/demo")
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise RunFolderError(f"{path}: schema is {found!r}, this version reads {SCHEMA}: make the run again")
    results = parsed(Results, content, path)
    example = folder / "example.extxyz"
    metrics = {arm.name: _metrics(folder / "arms" / arm.name / "metrics.jsonl") for arm in results.arms}
    ids = {arm.name: _ids(folder / "arms" / arm.name / "evaluation.json", arm) for arm in results.arms}
    return Run(
        folder=folder,
        results=results,
        settings_text=_settings_text(folder / "settings.yaml", results),
        metrics={name: updates for name, updates in metrics.items() if updates},
        ids={name: found for name, found in ids.items() if found is not None},
        dial=read_dial(folder),
        example=example if example.exists() else None,
    )


def read_dial(folder: Path) -> tuple[DialPoint, ...] | None:
    """Return the points of dial.json, None if there is no such file.

    Raises:
        RunFolderError: the file cannot be understood.
    """
    dial = read_json(folder / "dial.json")
    return None if dial is None else parsed(_Dial, {"points": dial}, folder / "dial.json").points


def read_plan(folder: Path) -> str | None:
    """Return the sentence of plan.json, None if there is no such file.

    Raises:
        RunFolderError: the file cannot be understood.
    """
    plan = read_json(folder / "plan.json")
    return None if plan is None else parsed(_Plan, plan, folder / "plan.json").sentence


def read_frontier(folder: Path) -> Results | None:
    """Return the arms of frontier.json, None if there is no such file.

    Raises:
        RunFolderError: the file cannot be understood.
    """
    frontier = read_json(folder / "frontier.json")
    return None if frontier is None else parsed(Results, frontier, folder / "frontier.json")


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise RunFolderError(f"{path}: cannot be read ({reason}); make the run again or mend the file") from error


def read_json(path: Path) -> Any:
    """Return what a JSON file holds, None if there is no such file.

    Raises:
        RunFolderError: it cannot be read or is not JSON.
    """
    text = _text(path)
    try:
        return None if text is None else json.loads(text)
    except json.JSONDecodeError as error:
        raise RunFolderError(f"{path}: line {error.lineno} is not JSON ({error.msg}); make the run again") from error


def parsed(kind: type[_Kind], content: Any, where: Path | str) -> _Kind:
    """Return content as a record.

    Raises:
        RunFolderError: naming the place and the field that does not fit.
    """
    # through text, so that JSON's rules hold: a list is a tuple, a string is not a number
    try:
        return kind.model_validate_json(json.dumps(content))
    except ValidationError as error:
        _refuse(error, where)


def _refuse(error: ValidationError, where: Path | str) -> NoReturn:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "the record"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    given = "" if first["type"] == "value_error" else f", not {first['input']!r:.60}"
    raise RunFolderError(f"{where}: {field}: {message}{given}; see docs/run-folder.md") from error


def _settings_text(path: Path, results: Results) -> str | None:
    text = _text(path)
    if text is None and results.settings:
        text = yaml.safe_dump(results.settings, sort_keys=False, allow_unicode=True)
    return text


def _metrics(path: Path) -> tuple[Update, ...]:
    lines = (_text(path) or "").split("\n")
    torn = lines.pop()  # what stands after the last line break: nothing, or a line whose writer was killed
    records = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    try:
        json.loads(torn)
        records.append((len(lines) + 1, torn))
    except json.JSONDecodeError:
        pass
    updates = []
    for number, line in records:
        try:
            content = json.loads(line)
        except json.JSONDecodeError as error:
            raise RunFolderError(f"{path}: line {number} is not JSON ({error.msg}); remove it") from error
        updates.append(parsed(Update, content, f"{path}: line {number}"))
    return tuple(updates)


def _ids(path: Path, arm: Arm) -> tuple[str, ...] | None:
    """Return one id per entry of the arm's ΔQ, or None where the file does not give exactly that."""
    record = read_json(path)
    content = record.get("pairs") if isinstance(record, dict) else None
    if not isinstance(content, list) or arm.dq is None or len(content) != len(arm.dq):
        return None
    if not all(isinstance(record, dict) and "id" in record for record in content):
        return None
    return tuple(str(record["id"]) for record in content)
