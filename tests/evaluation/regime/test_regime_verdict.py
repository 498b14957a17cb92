"""An interval decides where it lies on one side of a limit, and never by being rounded."""

from __future__ import annotations

import math

import pytest

from thalweg.errors import SettingsError
from thalweg.evaluation.regime.coordinate import Answer, Coordinate, Figure, Measurement
from thalweg.evaluation.regime.verdict import MapLimits, answer, headroom, judge
from thalweg.training.loading import load_settings


def figure(low: float, high: float, count: int = 40) -> Figure:
    return Figure("a number", 0.5 * (low + min(high, 1e6)), (low, high), "", count)


def measured(low: float, high: float) -> Measurement:
    return Measurement(figure(low, high), "made up")


@pytest.mark.parametrize(
    ("low", "high", "at_least", "expected"),
    [
        (0.7, 0.9, True, Answer.YES),  # the limit belongs to yes
        (0.69, 0.9, True, Answer.OPEN),
        (0.1, 0.7, True, Answer.OPEN),
        (0.1, 0.69, True, Answer.NO),
        (0.1, 0.7, False, Answer.YES),
        (0.7, 0.71, False, Answer.OPEN),
        (0.71, math.inf, False, Answer.NO),
        (0.2, math.inf, False, Answer.OPEN),
    ],
)
def test_an_interval_answers_only_when_it_lies_on_one_side(low, high, at_least, expected):
    assert answer(figure(low, high), 0.7, at_least, 8) is expected


def test_too_few_structures_or_no_interval_leave_it_open_and_nothing_measured_is_said():
    assert answer(figure(0.9, 0.95, count=7), 0.7, True, 8) is Answer.OPEN
    assert answer(figure(0.9, 0.95, count=8), 0.7, True, 8) is Answer.YES
    assert answer(Figure("alone", 0.9, None, "", 40), 0.7, True, 8) is Answer.OPEN
    assert answer(None, 0.7, True, 8) is Answer.UNMEASURED


GOOD = {
    "forces": measured(0.9, 0.95),
    "valleys": measured(2.0, 3.0),
    "wrong": measured(0.5, 0.8),
    "short": measured(5.0, 20.0),
}


def judged(limits: MapLimits | None = None, reach: int = 75, **changed: Measurement) -> tuple[Coordinate, ...]:
    return judge(**{**GOOD, **changed}, limits=limits or MapLimits(), reach=reach)


def test_headroom_is_yes_only_if_all_four_are():
    assert headroom(judged()) is Answer.YES


@pytest.mark.parametrize(
    ("which", "low", "high"), [("forces", 0.1, 0.3), ("valleys", 1.0, 1.1), ("wrong", 0.0, 0.05), ("short", 80, 90)]
)
def test_one_coordinate_off_is_no_headroom_even_where_others_are_open_or_unmeasured(which, low, high):
    unknown = {name: Measurement(None, "", "not given") for name in GOOD}
    found = judged(**{**unknown, which: measured(low, high)})
    assert headroom(found) is Answer.NO
    assert [c.answer for c in found].count(Answer.NO) == 1


def test_an_open_or_unmeasured_coordinate_leaves_the_headroom_open():
    assert headroom(judged(wrong=measured(0.05, 0.3))) is Answer.OPEN
    assert headroom(judged(forces=Measurement(None, "", "no reference"))) is Answer.OPEN


def test_limits_can_be_set_and_nonsense_is_refused():
    assert headroom(judged(MapLimits(wrong=0.9))) is Answer.NO
    assert headroom(judged(reach=4)) is Answer.NO
    assert load_settings(MapLimits, None, ["direction=0.8"]).direction == 0.8
    with pytest.raises(SettingsError, match="wrong"):
        load_settings(MapLimits, None, ["wrong=1.5"])
    with pytest.raises(SettingsError, match="valleys"):
        load_settings(MapLimits, None, ["valley=2"])


def test_coordinates_survive_their_record():
    for coordinate in judged(short=measured(5, math.inf), forces=Measurement(None, "", "no reference")):
        assert Coordinate.from_record(coordinate.record()) == coordinate
    with pytest.raises(SettingsError, match="no 'limit'"):
        Coordinate.from_record({key: value for key, value in judged()[0].record().items() if key != "limit"})
