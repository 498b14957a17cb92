"""`RegimeMap`: four judged coordinates, the verdict and the suggested horizon, as they are written to a record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from thalweg.errors import SettingsError
from thalweg.evaluation.regime.coordinate import Answer, Coordinate
from thalweg.evaluation.regime.horizon import Reach, Suggestion
from thalweg.evaluation.regime.verdict import headroom

SCHEMA = 3
"""Version of the record."""


@dataclass(frozen=True)
class Decision:
    """When the valley of one structure was decided."""

    id: str
    step: float | None
    """Update from which the basin of the end is kept; infinity where later than the last, None where there is none."""
    departure: float | None
    """Update at which the right basin is left; infinity where later, None where it was not looked for."""
    verdict: str
    """Where it landed: a `Verdict` of the basin rule."""
    holds: bool | None
    """Whether the reference keeps its minimum where the start is moved a little; None without a reference."""


@dataclass(frozen=True)
class RegimeMap:
    """Whether training through relaxation has something to gain with this potential on these pairs."""

    coordinates: tuple[Coordinate, ...]
    """The four, in the order of the source."""
    decisions: tuple[Decision, ...]
    """One per pair."""
    steps: int
    """T, the updates of the path."""
    rule: str
    """The basin rule: a key of `RULES`."""
    alpha: float
    """Step size of the update, Å²/eV."""
    reach: Reach
    suggestion: Suggestion | None
    settings: Mapping[str, Any]
    """What it was told, the limits among them."""
    seconds: float
    """Wall time."""

    @property
    def headroom(self) -> Answer:
        """The verdict."""
        return headroom(self.coordinates)

    @property
    def off(self) -> tuple[str, ...]:
        """Names of the coordinates that say no."""
        return tuple(c.name for c in self.coordinates if c.answer is Answer.NO)

    @property
    def unsettled(self) -> tuple[str, ...]:
        """Names of the coordinates that are open or not measured."""
        return tuple(c.name for c in self.coordinates if c.answer in (Answer.OPEN, Answer.UNMEASURED))

    def record(self) -> dict[str, Any]:
        """Return JSON types, verdict included; `from_record` reads it back."""
        return {
            "schema": SCHEMA,
            "headroom": self.headroom.value,
            "off": list(self.off),
            "unsettled": list(self.unsettled),
            "coordinates": [c.record() for c in self.coordinates],
            "suggestion": None if self.suggestion is None else self.suggestion.record(),
            "reach": self.reach.record(),
            "steps": self.steps,
            "rule": self.rule,
            "alpha": self.alpha,
            "decisions": [_decision_record(d) for d in self.decisions],
            "settings": dict(self.settings),
            "seconds": self.seconds,
        }

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> RegimeMap:
        """Read back what `record` gave.

        Raises:
            SettingsError: a key is missing, or it is a record of another version.
        """
        try:
            if record["schema"] != SCHEMA:
                raise SettingsError(
                    f"the regime map has schema {record['schema']!r}: this version reads {SCHEMA}; measure it again"
                )
            found = record["suggestion"]
            return RegimeMap(
                coordinates=tuple(Coordinate.from_record(c) for c in record["coordinates"]),
                decisions=tuple(_decision(d) for d in record["decisions"]),
                steps=record["steps"],
                rule=record["rule"],
                alpha=record["alpha"],
                reach=Reach.from_record(record["reach"]),
                suggestion=None if found is None else Suggestion.from_record(found),
                settings=dict(record["settings"]),
                seconds=record["seconds"],
            )
        except KeyError as error:
            raise SettingsError(
                f"the record of a regime map has no {error.args[0]!r}: give one that RegimeMap.record() wrote"
            ) from error


def _decision_record(decision: Decision) -> dict[str, Any]:
    values = asdict(decision)
    for key in ("step", "departure"):
        later = values[key] is not None and not math.isfinite(values[key])
        values |= {key: None if later else values[key], f"{key}_later_than_path": later}
    return values


def _decision(record: Mapping[str, Any]) -> Decision:
    step, departure = (math.inf if record[f"{key}_later_than_path"] else record[key] for key in ("step", "departure"))
    return Decision(record["id"], step, departure, record["verdict"], record["holds"])
