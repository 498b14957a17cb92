"""`thalweg map`: the verdict on the terminal and in two files, and one line for whatever cannot be done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Inputs
from tests.cli.terminal import complaint, thalweg
from thalweg.evaluation.regime import RegimeMap

SHORT = ("relaxation.steps=6", "relaxation.alpha=0.03", "relaxation.max_steps=60", "valley_copies=2", "batch=2")
SURFACE = ("--reference", "stillinger-weber:Si")


def test_it_says_the_verdict_and_writes_record_and_page(inputs: Inputs, tmp_path: Path) -> None:
    done = thalweg("map", inputs.model, inputs.pairs, *SHORT, *SURFACE, "--budget", 50, "--out", tmp_path / "map.json")
    assert done.status == 0, done.err
    assert "headroom " in done.out
    assert "within 50 MB the longest horizons for 2 structures" in done.out
    found = RegimeMap.from_record(json.loads((tmp_path / "map.json").read_text()))
    assert len(found.decisions) == 4
    assert found.rule == "quench"
    assert "The regime map" in (tmp_path / "map.html").read_text()


def test_without_a_reference_it_says_what_cannot_be_measured(inputs: Inputs) -> None:
    done = thalweg("map", inputs.model, inputs.pairs, *SHORT, "decision_copies=2", "--count", 2)
    assert done.status == 0, done.err
    assert "'forces right' cannot be measured" in done.out
    assert "no budget was given" in done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--count", 0), "count is 0: allowed is 1 pair or more"),
        (("--budget", -5), "budget is -5.0: allowed are MB above 0"),
        (("limits.direktion=0.5",), "direction"),
        (("--out", "map.txt"), "give a name that ends in .json"),
        (("--reference", "stillinger-weber:Xx"), "no published Stillinger–Weber set"),
    ],
)
def test_bad_input_is_one_line(inputs: Inputs, words: tuple[object, ...], said: str) -> None:
    assert said in complaint(thalweg("map", inputs.model, inputs.pairs, *words))


def test_a_record_or_a_page_that_is_there_is_refused_before_anything_is_measured(
    inputs: Inputs, tmp_path: Path
) -> None:
    for name in ("map.json", "map.html"):
        (tmp_path / name).write_text("mine")
        done = thalweg("map", inputs.model, inputs.pairs, *SHORT, "--out", tmp_path / "map.json")
        assert f"{name} exists" in complaint(done)
        assert "relaxing" not in done.out
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
