"""Protocols: what is filled in, what an arm is told, and one line for every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from thalweg.errors import SettingsError
from thalweg.evaluation.protocol import DEFAULT_ARMS, Protocol
from thalweg.gradients import Split
from thalweg.training.loading import load_settings, validate_settings

CLAIM = {"id": "H1", "says": "it is", "arm": "split-20", "against": "base", "wanted": "more"}


def refused(tmp_path: Path, values: dict[str, Any]) -> str:
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(SettingsError) as caught:
        load_settings(Protocol, path)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(path))
    return line


def test_a_protocol_that_names_no_arms_has_those_of_the_question() -> None:
    names = [arm.name for arm in Protocol().arms]
    splits = [f"split-{k}" for k in (10, 15, 20, 30)]
    assert names == ["base", "implicit", "phantom", "guidance-20", "bptt", *splits, "force-matched"]
    assert Protocol().seeds == (0, 1, 2, 3, 4)


def test_a_protocol_survives_its_own_record() -> None:
    told = Protocol(arms=DEFAULT_ARMS)
    assert validate_settings(Protocol, told.model_dump(mode="json")) == told


def test_an_arm_is_told_the_shared_budget_and_what_it_declares_otherwise() -> None:
    values = {
        "tune": {"optimiser": {"updates": 7, "warmup": 2}},
        "arms": [
            {"name": "base"},
            {"name": "a", "route": {"kind": "split", "horizon": 5}},
            {"name": "b", "route": {"kind": "split", "horizon": 5}, "tune": {"optimiser": {"clip": 2.0}}},
        ],
    }
    told = validate_settings(Protocol, values)
    a, b = (told.tune_of(told.arm(name), 3) for name in "ab")
    assert (a.seed, a.route, a.optimiser.updates, a.relaxation.alpha) == (3, Split(horizon=5), 7, 0.03)
    assert b.optimiser.clip == 2.0
    assert b.model_copy(update={"optimiser": a.optimiser}) == a


def test_the_control_keeps_the_steps_of_the_base_but_for_what_it_says() -> None:
    matching = {"updates": 90, "optimiser": {"warmup": 0}}
    told = validate_settings(Protocol, {"arms": [{"name": "base"}, {"name": "fm", "matching": matching}]})
    fit = told.fit_of(told.arm("fm").matching, 2)
    assert (fit.seed, fit.optimiser.updates, fit.optimiser.warmup) == (2, 90, 0)
    assert fit.optimiser.learning_rate == told.base.optimiser.learning_rate
    assert fit.potential == told.base.potential


@pytest.mark.parametrize(
    ("values", "fragment"),
    [
        ({"seed": [0]}, "seed is not a setting; did you mean 'seeds'?"),
        ({"seeds": [0, 0]}, "seed '0' occurs twice"),
        ({"seeds": []}, "seeds is []"),
        ({"rule": "quensh"}, "rule 'quensh' is not known; did you mean 'quench'?"),
        ({"data": {"testbed": "silicone"}}, "testbed 'silicone' is not known; did you mean 'silicon'?"),
        ({"data": {"settings": {"atoms": 65}}}, "silicon atoms is 65"),
        ({"data": {"pairs": 4}}, "tune.optimiser.batch is 8: allowed is 1 to 4"),
        ({"tune": {"seed": 1}}, "tune.seed is the study's own"),
        ({"tune": {"relaxation": {"alpha": None}}}, "tune.relaxation.alpha is null"),
        ({"arms": [{"name": "base", "rout": 1}]}, "arms.0.rout is not a setting; did you mean 'route'?"),
        ({"arms": [{"name": "a/b", "matching": {}}]}, "'a/b' names a folder too"),
        ({"arms": [{"name": "bass"}]}, "arm 'bass': the arm called 'base', and no other"),
        ({"arms": [{"name": "base", "route": {"kind": "implicit"}}]}, "arm 'base': the arm called 'base'"),
        ({"arms": [{"name": "a", "route": {"kind": "implicit"}, "matching": {}}]}, "has a route and matching"),
        ({"arms": [{"name": "a", "route": {"kind": "split", "horizon": 99}}]}, "route.horizon is 99"),
        ({"arms": [{"name": "a", "route": {"kind": "spilt"}}]}, "route 'spilt' is not known; did you mean 'split'?"),
        (
            {"arms": [{"name": "a", "route": {"kind": "split"}, "tune": {"optimizer": {}}}]},
            "arm 'a': tune: optimizer is not a setting; did you mean 'optimiser'?",
        ),
        ({"arms": [{"name": "a", "route": {"kind": "split"}, "tune": {"seed": 1}}]}, "tune.seed cannot differ"),
        (
            {"arms": [{"name": "a", "route": {"kind": "split"}, "tune": {"optimiser": {"batch": 999}}}]},
            "tune.optimiser.batch is 999: allowed is 1 to 160",
        ),
        ({"arms": [{"name": "base"}, {"name": "base"}]}, "arm 'base' occurs twice"),
        ({"hypotheses": [{**CLAIM, "arm": "splt-20"}]}, "H1: there is no arm 'splt-20'; did you mean 'split-20'?"),
        ({"kill": [{**CLAIM, "against": "bse"}]}, "H1: there is no arm 'bse'; did you mean 'base'?"),
        ({"kill": [CLAIM], "hypotheses": [CLAIM]}, "claim 'H1' occurs twice"),
        ({"hypotheses": [{**CLAIM, "metric": "basin_right"}]}, "hypotheses.0.metric: metric 'basin_right'"),
        ({"hypotheses": [{**CLAIM, "wanted": "mor"}]}, "hypotheses.0.wanted: wanted 'mor' is not known; did you mean"),
        ({"hypotheses": [{**CLAIM, "wanted": "at least"}]}, "is about one arm: leave against out"),
        ({"hypotheses": [{**CLAIM, "wanted": "ratio at most"}]}, "needs value"),
        ({"hypotheses": [{**CLAIM, "value": 3.0}]}, "without a number: leave value out"),
        ({"hypotheses": [{**CLAIM, "arm": "base"}]}, "arm and against are both 'base'"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_place(tmp_path: Path, values: dict[str, Any], fragment: str) -> None:
    assert fragment in refused(tmp_path, values)
