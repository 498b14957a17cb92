"""Verdicts against closed forms; above all, a tie must not be called a win."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from tests.evaluation.study_records import evaluation, first, measured

from thalweg.errors import SettingsError
from thalweg.evaluation.claims import Claim
from thalweg.evaluation.statistics import mcnemar, sign_flip, wilson_interval
from thalweg.evaluation.verdicts import Arms, Measured, Ruling, compare, judge

SEEDS = (0, 1, 2, 3, 4)


def claim(wanted: str, metric: str = "basins_right", value: float | None = None) -> Claim:
    against = None if wanted in ("at least", "at most") else "base"
    return Claim(id="H", says="so", metric=metric, arm="split", against=against, wanted=wanted, value=value)


def study(split: list[Measured], base: list[Measured]) -> Arms:
    return {"split": dict(enumerate(split)), "base": dict(enumerate(base))}


def counts(split: list[int], base: list[int]) -> Arms:
    """Arms of which each seed has the first so many of 40 structures right."""
    return study([measured(first(n)) for n in split], [measured(first(n)) for n in base])


BETTER = counts([30, 31, 29, 30, 30], [12, 14, 13, 12, 13])
WORSE = counts([12, 14, 13, 12, 13], [30, 31, 29, 30, 30])
LEVEL = counts([20, 21, 19, 20, 20], [20, 20, 20, 19, 21])


# the test over structures


def test_with_one_seed_the_sign_flip_test_is_mcnemars() -> None:
    stream = np.random.default_rng(0)
    for _ in range(20):
        a, b = (stream.random((2, 30)) < stream.random((2, 1))).tolist()
        differences = [int(x) - int(y) for x, y in zip(a, b, strict=True)]
        assert sign_flip(differences) == pytest.approx(mcnemar(a, b).p, rel=1e-12)


@pytest.mark.parametrize("differences", [[3, -1, 2, 2, 0, 5], [1], [4, -4], [0, 0], [-2, -2, -1, -1, 3]])
def test_the_sign_flip_test_is_what_going_through_all_signs_gives(differences: list[int]) -> None:
    seen = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    assert sign_flip(differences) == pytest.approx(sum(x >= seen for x in sums) / len(sums), rel=1e-12)


def test_seeds_that_repeat_each_other_are_no_further_evidence() -> None:
    """Five seeds with the same four structures gained: pooled, 20 to 0; in truth four draws of a coin."""
    arms = counts([24] * 5, [20] * 5)
    found = compare(arms["split"], arms["base"], "basins_right")
    assert found is not None
    assert found.p_pooled == pytest.approx(2 * 2.0**-20)
    assert found.p == pytest.approx(2 * 2.0**-4)
    assert judge(claim("more"), arms, SEEDS).ruling is Ruling.TIE


def test_seeds_with_structures_of_their_own_are_further_evidence() -> None:
    def own(right: int, seed: int) -> Measured:
        plain = evaluation(first(right))
        pairs = tuple(replace(pair, id=f"{seed}-{pair.id}") for pair in plain.pairs)
        return Measured(replace(plain, pairs=pairs), {})

    arms = study([own(24, seed) for seed in SEEDS], [own(20, seed) for seed in SEEDS])
    found = compare(arms["split"], arms["base"], "basins_right")
    assert found is not None
    assert found.p == found.p_pooled == pytest.approx(2 * 2.0**-20)
    assert judge(claim("more"), arms, SEEDS).ruling is Ruling.HOLDS


def test_the_sign_flip_test_refuses_no_structures() -> None:
    with pytest.raises(SettingsError, match="no structures to compare"):
        sign_flip([])


def test_the_wilson_interval_takes_a_mean_over_seeds() -> None:
    low, high = wilson_interval(20.5, 40)
    assert wilson_interval(20, 40)[0] < low < wilson_interval(21, 40)[0]
    assert wilson_interval(20, 40)[1] < high < wilson_interval(21, 40)[1]


# comparisons


@pytest.mark.parametrize(
    ("arms", "rulings"),
    [
        (BETTER, {"more": "holds", "fewer": "fails", "not fewer": "holds", "not more": "fails"}),
        (WORSE, {"more": "fails", "fewer": "holds", "not fewer": "fails", "not more": "holds"}),
        (LEVEL, {"more": "tie", "fewer": "tie", "not fewer": "holds", "not more": "holds"}),
    ],
    ids=["better", "worse", "level"],
)
def test_a_comparison_is_ruled_by_direction_and_tie(arms: Arms, rulings: dict[str, str]) -> None:
    assert {wanted: judge(claim(wanted), arms, SEEDS).ruling.value for wanted in rulings} == rulings


def test_a_difference_that_not_all_seeds_show_is_a_tie_although_structures_say_otherwise() -> None:
    arms = counts([40, 12, 12, 12, 12], [12, 12, 12, 12, 12])
    found = compare(arms["split"], arms["base"], "basins_right")
    assert found is not None
    assert found.p is not None
    assert found.p < 1e-6
    assert found.over_seeds.interval is not None
    assert found.over_seeds.interval[0] < 0
    judged = judge(claim("more"), arms, SEEDS)
    assert judged.ruling is Ruling.TIE
    assert "a tie by the rule" in judged.sentence


def test_the_student_interval_over_seeds_is_the_closed_form() -> None:
    """Differences 1, 2, 3, 4, 5: mean 3, s² = 2.5, t(4, 97.5 %) = 2.7764451."""
    arms = counts([21, 22, 23, 24, 25], [20] * 5)
    found = compare(arms["split"], arms["base"], "basins_right")
    assert found is not None
    half = 2.7764451 * math.sqrt(2.5 / 5)
    assert found.over_seeds.interval == pytest.approx((3 - half, 3 + half), rel=1e-7)


def test_chance_alone_is_called_a_win_no_more_often_than_its_level() -> None:
    """Two arms that are alike, 120 times: 'more' may hold at most in the upper half of 5 %; both tests must agree."""
    stream = np.random.default_rng(1)
    won = 0
    for _ in range(120):
        share = stream.random(40)
        arms = study(*([measured((stream.random(40) < share).tolist()) for _ in range(5)] for _ in range(2)))
        won += judge(claim("more"), arms, SEEDS).ruling is Ruling.HOLDS
    assert won <= 120 * 0.025 + 3 * math.sqrt(120 * 0.025)


def test_unconverged_structures_are_counted_and_compared() -> None:
    split = [measured([False] * 40, [None] * n + [1.0] * (40 - n)) for n in (20, 21, 19, 20, 20)]
    base = [measured([False] * 40, [None] * n + [1.0] * (40 - n)) for n in (2, 3, 1, 2, 2)]
    assert judge(claim("more", "unconverged"), study(split, base), SEEDS).ruling is Ruling.HOLDS


def test_displacements_are_compared_structure_by_structure_and_missing_ones_left_out() -> None:
    stream = np.random.default_rng(2)
    levels = 10 * stream.random(40)  # structures differ far more than arms do
    base = [measured([False] * 40, (levels + 0.01 * stream.random(40)).tolist()) for _ in SEEDS]
    split = [measured([False] * 40, [None, *(levels[1:] - 0.5 + 0.01 * stream.random(39))]) for _ in SEEDS]
    judged = judge(claim("fewer", "dq_mean"), study(split, base), SEEDS)
    assert judged.ruling is Ruling.HOLDS
    assert judged.difference is not None
    assert judged.difference.over_seeds.mean == pytest.approx(-0.5, abs=0.01)
    alike = [measured([False] * 40, (levels + 0.01 * stream.random(40)).tolist()) for _ in SEEDS]
    assert judge(claim("fewer", "dq_mean"), study(alike, base), SEEDS).ruling is Ruling.TIE


def test_arms_judged_on_other_structures_are_refused() -> None:
    arms = study([measured(first(9, 20))] * 5, [measured(first(9, 21))] * 5)
    with pytest.raises(SettingsError, match="is only in the base's evaluation"):
        judge(claim("more"), arms, SEEDS)


# bounds


@pytest.mark.parametrize(
    ("wanted", "value", "ruling"),
    [
        ("at least", 25.0, "holds"),
        ("at least", 30.0, "tie"),
        ("at least", 35.0, "fails"),
        ("at most", 35.0, "holds"),
        ("at most", 25.0, "fails"),
    ],
)
def test_a_bound_is_met_missed_or_inside_the_interval(wanted: str, value: float, ruling: str) -> None:
    assert judge(claim(wanted, value=value), BETTER, SEEDS).ruling.value == ruling


def test_bytes_are_counted_so_one_seed_is_enough_and_times_are_not() -> None:
    arms = study(
        [measured(first(3), saved_bytes=5.0, seconds=9.0)], [measured(first(3), saved_bytes=75.0, seconds=9.0)]
    )
    assert judge(claim("ratio at most", "saved_bytes", 0.0667), arms, (0,)).ruling is Ruling.HOLDS
    assert judge(claim("ratio at most", "saved_bytes", 0.0666), arms, (0,)).ruling is Ruling.FAILS
    assert judge(claim("fewer", "saved_bytes"), arms, (0,)).ruling is Ruling.HOLDS
    for unsure in (claim("ratio at most", "seconds", 2.0), claim("more")):
        judged = judge(unsure, arms, (0,))
        assert judged.ruling is Ruling.OPEN
        assert "One seed says nothing" in judged.sentence


def test_a_ratio_of_times_is_a_tie_where_its_interval_holds_the_bound() -> None:
    split = [measured(first(3), seconds=t) for t in (9.0, 11.0, 10.0, 10.0, 10.0)]
    base = [measured(first(3), seconds=10.0)] * 5
    assert judge(claim("ratio at most", "seconds", 1.0), study(split, base), SEEDS).ruling is Ruling.TIE
    assert judge(claim("ratio at most", "seconds", 2.0), study(split, base), SEEDS).ruling is Ruling.HOLDS
    assert judge(claim("ratio at most", "seconds", 0.5), study(split, base), SEEDS).ruling is Ruling.FAILS


# what is missing


def test_a_claim_is_open_until_all_that_it_needs_is_there() -> None:
    arms = {"split": BETTER["split"], "base": {s: m for s, m in BETTER["base"].items() if s != 3}}
    judged = judge(claim("more"), arms, SEEDS)
    assert judged.ruling is Ruling.OPEN
    assert judged.sentence == "9 of 10 runs are there; base of seed 3 is missing."
    assert judge(claim("fewer", "cost.force_mae"), BETTER, SEEDS).sentence == (
        "cost.force_mae was not measured for split."
    )


def test_the_cost_of_tuning_can_be_claimed_about() -> None:
    told = {
        "training": None,
        "cost": {"errors": {"force_mae": 0.1, "reason": None}},
        "evaluation": evaluation(first(3)).record(),
    }
    arms = study(
        [Measured.from_record({**told, "cost": {"errors": {"force_mae": 0.3}}})] * 5, [Measured.from_record(told)] * 5
    )
    assert judge(claim("more", "cost.errors.force_mae"), arms, SEEDS).ruling is Ruling.HOLDS
