"""From four measurements to a verdict: all limits of the regime map and the one rule that applies them.

    yes    the whole interval lies on the side of headroom
    no     the whole interval lies on the other side
    open   it straddles the limit, or rests on too few structures

Headroom is 'no' as soon as one coordinate is, 'yes' if all four are, and open otherwise: an interval is never rounded
to an answer. Every limit can be set (`limits.direction=0.8`).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from thalweg.evaluation.regime.coordinate import Answer, Coordinate, Figure, Measurement
from thalweg.training.settings import Section

FORCES, VALLEYS, WRONG, SHORT = "forces right", "many valleys", "base lands wrong", "short relaxation"
"""Names of the coordinates, in the order of the map."""


class MapLimits(Section):
    """What each coordinate is held against; each has its reason."""

    direction: float = Field(default=0.7, gt=-1, lt=1)
    """Least cosine between the potential's forces and the reference's along the path. At 0.7 (45°) a step goes as
    much across the reference's force as along it; below, the valley is not chosen on the reference's surface at all,
    and fitting forces comes first."""
    valleys: float = Field(default=1.5, gt=1)
    """Least effective number of minima around a start: what two valleys make of which one takes a seventh of the
    perturbed starts. Below, there is nothing to choose from."""
    wrong: float = Field(default=0.1, gt=0, lt=1)
    """Least share of starts that land wrong. Of 60 held-out pairs it is 6: the fewest that, all gained and none
    lost, are told from chance (McNemar's exact p = 0.031). A smaller gain could not be shown."""
    quantile: float = Field(default=0.5, gt=0, lt=1)
    """Share of the paths that land wrong which have left the right basin within the suggested horizon. From there on
    the window shows that they go wrong; what is learnt from them serves the later ones too."""
    quantile_alone: float = Field(default=0.8, gt=0, lt=1)
    """Share of decisions that the suggested horizon reaches without a reference, by perturbed copies. They settle early
    on the potential's own surface: of 35 paths on silicon that land wrong, 28 by update 20."""
    fewest: int = Field(default=8, ge=2)
    """Structures below which a mean or a quantile stays open: the bootstrap is too narrow for few."""


def judge(
    forces: Measurement, valleys: Measurement, wrong: Measurement, short: Measurement, *, limits: MapLimits, reach: int
) -> tuple[Coordinate, ...]:
    """Hold each measurement against its limit.

    Args:
        forces: cosine between the two forces.
        valleys: effective number of minima.
        wrong: share of starts that land wrong.
        short: the stated quantile of departures or decisions.
        limits: what they are held against.
        reach: longest horizon that fits: what the quantile is held against.
    """
    rows = (
        (FORCES, forces, limits.direction, True, "beyond 45° a step goes more across the reference's force than along"),
        (VALLEYS, valleys, limits.valleys, True, "below, fewer than one perturbed start in seven goes elsewhere"),
        (WRONG, wrong, limits.wrong, True, "a smaller gain could not be told from chance on 60 held-out pairs"),
        (
            SHORT,
            short,
            float(reach),
            False,
            "updates that can be differentiated: those of the path that fit the budget",
        ),
    )
    return tuple(
        Coordinate(name, found, limit, at_least, answer(found.figure, limit, at_least, limits.fewest), reason)
        for name, found, limit, at_least, reason in rows
    )


def answer(figure: Figure | None, limit: float, at_least: bool, fewest: int) -> Answer:
    """Return what an interval says about a limit.

    Args:
        figure: the number with its interval; None where it was not measured.
        limit: what it is held against.
        at_least: whether 'yes' asks for at least the limit; else for at most.
        fewest: structures below which the answer is open.
    """
    if figure is None:
        return Answer.UNMEASURED
    if figure.interval is None or figure.count < fewest:
        return Answer.OPEN
    low, high = figure.interval
    if at_least:
        return Answer.YES if low >= limit else Answer.NO if high < limit else Answer.OPEN
    return Answer.YES if high <= limit else Answer.NO if low > limit else Answer.OPEN


def headroom(coordinates: Sequence[Coordinate]) -> Answer:
    """Return whether tuning through relaxation has something to gain: no if one coordinate says no, yes if all do."""
    answers = [coordinate.answer for coordinate in coordinates]
    if Answer.NO in answers:
        return Answer.NO
    return Answer.YES if all(found is Answer.YES for found in answers) else Answer.OPEN
