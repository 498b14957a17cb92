"""The values of the regime map: what was measured, and what was made of it. They hold numbers and words only.

A `Measurement` answers one question with one number, its interval and how it came about; numbers beside it inform and
decide nothing. A `Coordinate` is a measurement with the limit it was held against and the answer. Made by the files of
this folder, one a question; read by records, lines and the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from thalweg.errors import SettingsError


class Answer(StrEnum):
    """Exactly one of these per coordinate, and for the headroom as a whole."""

    YES = "yes"
    """The whole interval lies on the side that leaves headroom."""
    NO = "no"
    """The whole interval lies on the other side."""
    OPEN = "open"
    """The interval straddles the limit, or too little was measured to tell."""
    UNMEASURED = "not measured"
    """What the question needs was not given; it leaves the headroom open."""


@dataclass(frozen=True)
class Figure:
    """A number with its 95 % interval; infinity stands for 'later than the last update'."""

    name: str
    """What it is, in words."""
    value: float
    interval: tuple[float, float] | None
    """Lower and upper end; None where so few say nothing about the spread."""
    unit: str
    """Of the value; empty for a plain number."""
    count: int
    """How many structures it rests on."""

    def record(self) -> dict[str, Any]:
        """Return JSON types; infinity becomes null."""
        low, high = self.interval or (None, None)
        return {
            "name": self.name,
            "value": _finite(self.value),
            "interval": None if self.interval is None else [_finite(low), _finite(high)],
            "unit": self.unit,
            "count": self.count,
        }

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Figure:
        """Read back what `record` gave; a missing key raises KeyError."""
        ends = record["interval"]
        return Figure(
            name=record["name"],
            value=_beyond(record["value"]),
            interval=None if ends is None else (_beyond(ends[0]), _beyond(ends[1])),
            unit=record["unit"],
            count=record["count"],
        )


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _beyond(value: float | None) -> float:
    return math.inf if value is None else value


@dataclass(frozen=True)
class Measurement:
    """One question and what was measured of it."""

    figure: Figure | None
    """What is judged; None where it could not be measured."""
    how: str
    """How it was measured, in a sentence; empty where it was not."""
    why_not: str | None = None
    """What it would have needed; None where it was measured."""
    beside: tuple[Figure, ...] = ()
    """Numbers that inform and are not judged."""


@dataclass(frozen=True)
class Coordinate:
    """A measurement, judged."""

    name: str
    """The question, as in the source's map: 'forces right', 'many valleys', …"""
    measurement: Measurement
    limit: float
    """What the number was held against."""
    at_least: bool
    """Whether headroom asks for at least the limit; else for at most."""
    answer: Answer
    reason: str
    """Why this limit, in a sentence."""

    def record(self) -> dict[str, Any]:
        """Return JSON types; `from_record` reads them back."""
        found = self.measurement
        return {
            "name": self.name,
            "answer": self.answer.value,
            "figure": None if found.figure is None else found.figure.record(),
            "limit": self.limit,
            "at_least": self.at_least,
            "reason": self.reason,
            "how": found.how,
            "why_not": found.why_not,
            "beside": [figure.record() for figure in found.beside],
        }

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Coordinate:
        """Read back what `record` gave.

        Raises:
            SettingsError: a key is missing.
        """
        try:
            figure = record["figure"]
            measurement = Measurement(
                figure=None if figure is None else Figure.from_record(figure),
                how=record["how"],
                why_not=record["why_not"],
                beside=tuple(Figure.from_record(values) for values in record["beside"]),
            )
            return Coordinate(
                name=record["name"],
                measurement=measurement,
                limit=record["limit"],
                at_least=record["at_least"],
                answer=Answer(record["answer"]),
                reason=record["reason"],
            )
        except KeyError as error:
            raise SettingsError(
                f"the record of a coordinate has no {error.args[0]!r}: give one that a regime map wrote"
            ) from error
