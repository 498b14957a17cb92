"""ASE calculators on the command line: a reference where one is asked for, refused where something learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Inputs
from tests.cli.terminal import complaint, thalweg
from thalweg.evaluation import frontier
from thalweg.evaluation.arms import Arm, Contest, run_arm

WORDS = "ase:ase.calculators.lj:LennardJones?sigma=2.0&epsilon=1.0&rc=3.5&smooth=true"


def test_evaluate_takes_a_calculator_and_tune_refuses_it(inputs: Inputs) -> None:
    done = thalweg(
        *("evaluate", inputs.model, inputs.held_out, "alpha=0.01", "steps=2", "max_steps=30", "--rule", "quench"),
        *("--reference", WORDS),
    )
    assert done.status == 0, done.err
    complaint(thalweg("tune", WORDS, inputs.pairs), "reference only")
    complaint(thalweg("evaluate", WORDS, inputs.held_out), "reference only")


def test_dial_takes_a_calculator_and_judges_every_arm_by_it(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arms open it by its words, for no model file holds it; another calculator is another run."""
    opened: list[object] = []

    def one_after_another(contest: Contest, arms: list[Arm], *, workers: int, say: object) -> dict[str, object]:
        opened.append(contest.reference)
        return {arm.name: run_arm(contest, arm) for arm in arms}

    monkeypatch.setattr(frontier, "run_arms", one_after_another)
    told = [f"out={tmp_path / 'dial'}", "relaxation.alpha=0.01", "relaxation.steps=2", "horizons=[1]"]
    told += ("relaxation.max_steps=20", "optimiser.batch=1", "route.horizon=1")
    trial = ("--tune", 1, "--held-out", inputs.held_out, "--rule", "quench", "--reference")
    done = thalweg("dial", inputs.model, inputs.pairs, *told, *trial, WORDS)
    assert done.status == 0, done.err
    record = json.loads((tmp_path / "dial" / "frontier.json").read_text())
    assert [arm["name"] for arm in record["arms"]] == ["base", "implicit", "split-1", "bptt"]
    assert opened == [WORDS]
    assert not (tmp_path / "dial" / "reference.safetensors").exists()
    other = WORDS.replace("sigma=2.0", "sigma=2.1")
    complaint(thalweg("dial", inputs.model, inputs.pairs, *told, *trial, other), "overwrite")
    complaint(thalweg("dial", WORDS, inputs.pairs, *told), "reference only")
