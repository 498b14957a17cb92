"""The words and the page of the regime map: the same verdict in both, and what was not measured is said."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from thalweg.errors import OutputError
from thalweg.evaluation.regime import Decision, Figure, MapLimits, Measurement, RegimeMap
from thalweg.evaluation.regime.horizon import Reach, Suggestion
from thalweg.evaluation.regime.verdict import judge
from thalweg.reports import map_lines, write_map

LATER = math.inf


def number(value: float, low: float, high: float, name: str = "a number", unit: str = "") -> Measurement:
    return Measurement(Figure(name, value, (low, high), unit, 40), "as it was")


def invented(wrong: Measurement | None = None, forces: Measurement | None = None) -> RegimeMap:
    short = number(18, 14, LATER, "update by which 50 % have left the right basin", "updates")
    short = replace(short, figure=replace(short.figure, interval=(14, 44)))
    coordinates = judge(
        forces or number(0.94, 0.93, 0.95),
        number(2.3, 1.9, 2.8),
        wrong or number(0.9, 0.8, 0.95),
        short,
        limits=MapLimits(),
        reach=75,
    )
    return RegimeMap(
        coordinates=coordinates,
        decisions=(
            Decision("a", LATER, 3.0, "wrong", True),
            Decision("b", LATER, LATER, "wrong", False),
            Decision("c", None, None, "unconverged", None),
        ),
        steps=75,
        rule="quench",
        alpha=0.03,
        reach=Reach(500.0, 75, 14, 8),
        suggestion=Suggestion(18, 611_000_000, 64_000_000, 8.2, 8.8, "split, K = 18, recomputed"),
        settings={},
        seconds=100.0,
    )


def test_a_yes_comes_with_the_horizon_and_its_price(tmp_path):
    lines = map_lines(invented())
    assert lines[0].split("  ")[0] == "coordinate"
    assert "headroom yes: all four coordinates hold" in lines
    (suggested,) = [line for line in lines if line.startswith("suggested K = 18")]
    assert "the update by which 50 % have left the right basin" in suggested
    assert "611 MB" in suggested
    assert "64 MB recomputed" in suggested
    page = write_map(invented(), tmp_path / "map.html").read_text()
    assert "headroom yes: all four coordinates hold" in page
    assert "id='data-gauges'" in page
    assert "id='data-decisions'" in page
    assert "K = 18" in page


def test_a_no_names_the_coordinate_and_suggests_nothing():
    lines = map_lines(invented(wrong=number(0.02, 0.0, 0.05)))
    assert any(
        line.startswith(
            "headroom no: 'base lands wrong' is off, 0.02 (0.00 to 0.05) where headroom asks for at least 0.10"
        )
        for line in lines
    )
    assert not any(line.startswith("suggested") for line in lines)


def test_what_was_not_measured_is_said_and_drawn_without_a_number(tmp_path):
    found = invented(forces=Measurement(None, "", "it needs <b>forces</b>"))
    assert any("'forces right' cannot be measured, it needs" in line for line in map_lines(found))
    page = write_map(found, tmp_path / "map.html").read_text()
    assert "not measured" in page
    assert "<b>forces</b>" not in page


def test_an_open_coordinate_asks_for_more_pairs():
    lines = map_lines(invented(wrong=number(0.12, 0.04, 0.3)))
    assert any(line.startswith("headroom open: 'base lands wrong' is open") and "more pairs" in line for line in lines)


def test_later_is_a_word_and_never_a_number():
    found = invented()
    short = replace(
        found.coordinates[3],
        measurement=number(LATER, 40, LATER, "update by which 50 % have left the right basin", "updates"),
    )
    lines = map_lines(replace(found, coordinates=(*found.coordinates[:3], short), suggestion=None))
    assert any("later" in line and "inf" not in line for line in lines[:5])
    (none,) = [line for line in lines if line.startswith("no horizon is suggested")]
    assert "have left the right basin is later than the 75 that could be differentiated" in none


def test_a_page_that_is_there_is_kept(tmp_path):
    path = write_map(invented(), tmp_path / "map.html")
    with pytest.raises(OutputError, match="exists"):
        write_map(invented(), path)
    assert write_map(invented(), path, overwrite=True) == path
