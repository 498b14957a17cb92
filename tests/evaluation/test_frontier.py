"""The dial of a user's potential: measured once, resumed, refused where it is another run, tuned by every horizon."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.training import problems

from thalweg.errors import SettingsError
from thalweg.evaluation import dial, frontier
from thalweg.evaluation.arms import Arm, Contest, run_arm
from thalweg.evaluation.frontier import DialSettings, Trial, frontier_arms, run_dial
from thalweg.gradients import Implicit, Split, Unrolled
from thalweg.structures.extended_xyz import write_pairs
from thalweg.training.loading import load_settings


@pytest.fixture
def told(tmp_path: Path) -> DialSettings:
    quick = ["relaxation.alpha=0.02", "relaxation.steps=4", "optimiser.batch=2", "horizons=[2]", "route.horizon=2"]
    return load_settings(DialSettings, None, [f"out={tmp_path / 'dial'}", *quick])


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    write_pairs(tmp_path / "pairs.extxyz", problems.pairs(2, seed=1))
    return tmp_path / "pairs.extxyz"


def read(folder: Path, name: str):
    return json.loads((folder / name).read_text())


def test_memory_and_time_are_measured_once_and_a_budget_is_planned_for(told, pairs):
    said: list[str] = []
    folder = run_dial(told, problems.base(), pairs, budget=100, say=said.append)
    points = read(folder, "dial.json")
    assert [(p["route"], p["horizon"], p["recompute"]) for p in points] == [
        ("implicit", None, True),
        ("split", 2, True),
        ("unrolled", 4, True),
        ("split", 2, False),
        ("unrolled", 4, False),
    ]
    assert points[4]["saved_bytes"] > 2 * points[2]["saved_bytes"]
    plan = read(folder, "plan.json")
    assert plan["fits"]
    assert said[-1] == plan["sentence"]
    assert plan["sentence"].startswith("split, K = 2, stored whole: ")
    run_dial(told, problems.base(), pairs, say=said.append)
    assert read(folder, "dial.json") == points  # seconds too: nothing was measured again


def test_another_potential_or_another_path_is_refused_in_the_same_folder(told, pairs):
    run_dial(told, problems.base(), pairs, say=print)
    other = told.model_copy(update={"relaxation": told.relaxation.model_copy(update={"steps": 5})})
    with pytest.raises(SettingsError):
        run_dial(other, problems.base(), pairs, say=print)
    changed = problems.base()
    next(changed.parameters()).data.add_(0.01)
    with pytest.raises(SettingsError):
        run_dial(told, changed, pairs, say=print)
    run_dial(told.model_copy(update={"overwrite": True}), changed, pairs, say=print)


def test_what_would_not_fit_into_memory_is_left_out_and_said(told, pairs, monkeypatch):
    monkeypatch.setattr(dial, "_MEMORY_SHARE", 0.0)
    said: list[str] = []
    folder = run_dial(told, problems.base(), pairs, say=said.append)
    assert read(folder, "dial.json") == []
    assert sum(line.startswith("left out: ") for line in said) == 5


def test_every_horizon_is_tuned_with_one_budget_and_judged_on_the_same_pairs(told, pairs, tmp_path, monkeypatch):
    def one_after_another(contest: Contest, arms: list[Arm], *, workers: int, say) -> dict:
        return {arm.name: run_arm(contest, arm) for arm in arms}

    monkeypatch.setattr(frontier, "run_arms", one_after_another)
    held_out = tmp_path / "held-out.extxyz"
    write_pairs(held_out, problems.pairs(2, seed=2))
    folder = run_dial(told, problems.base(), pairs, trial=Trial(1, held_out), say=print)
    record = read(folder, "frontier.json")
    assert [arm["name"] for arm in record["arms"]] == ["base", "implicit", "split-2", "bptt"]
    assert [arm["updates"] for arm in record["arms"]] == [None, 1, 1, 1]
    assert [arm["basins_total"] for arm in record["arms"]] == [2] * 4
    assert all(arm["saved_bytes"] > 0 for arm in record["arms"][1:])


def test_arms_are_the_horizons_within_the_path_the_longest_first():
    arms = frontier_arms((10, 30, 15), 20)
    assert [arm.name for arm in arms] == ["bptt", "split-15", "split-10", "implicit", "base"]
    assert [arm.route for arm in arms] == [Unrolled(), Split(15), Split(10), Implicit(), None]


def test_a_trial_that_cannot_be_judged_is_refused_before_anything_is_measured(told, pairs):
    for trial, said in ((Trial(0, pairs), "--tune is 0"), (Trial(1, pairs, "quench"), "reference")):
        with pytest.raises(SettingsError, match=said):
            run_dial(told, problems.base(), pairs, trial=trial, say=print)
    assert not told.out.exists()
