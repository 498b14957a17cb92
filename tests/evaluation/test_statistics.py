"""Intervals and tests against scipy, published tables and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from thalweg.errors import SettingsError
from thalweg.evaluation.statistics import bootstrap_difference, mcnemar, mean_over_seeds, wilson_interval


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_are_those_of_newcombe_1998_table_1(right: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(right, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_wilson_intervals_are_those_of_scipy(confidence: float) -> None:
    for total in (1, 2, 17, 100, 4321):
        for right in {0, 1, total // 3, total - 1, total}:
            theirs = stats.binomtest(right, total).proportion_ci(confidence, method="wilson")
            assert wilson_interval(right, total, confidence=confidence) == pytest.approx(tuple(theirs), abs=1e-12)


def test_wilson_solves_the_equation_it_comes_from_and_the_plain_interval_does_not() -> None:
    z = 1.959963984540054

    def misses(p: float, share: float, n: int) -> float:
        return abs((share - p) ** 2 - z**2 * p * (1 - p) / n)

    for p in wilson_interval(7, 50):
        assert misses(p, 0.14, 50) < 1e-15
    plain = 0.14 + z * math.sqrt(0.14 * 0.86 / 50)
    assert misses(plain, 0.14, 50) > 1e-4


def test_wilson_ends_are_exact_where_nothing_or_all_is_right() -> None:
    assert wilson_interval(0, 60)[0] == 0.0
    assert wilson_interval(60, 60)[1] == 1.0


def verdicts(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    return (
        [True] * both + [True] * first + [False] * second + [False] * neither,
        [True] * both + [False] * first + [True] * second + [False] * neither,
    )


@pytest.mark.parametrize(("b", "c"), [(0, 1), (3, 3), (1, 9), (12, 4), (0, 30), (700, 640), (2000, 1000)])
def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ(b: int, c: int) -> None:
    found = mcnemar(*verdicts(11, b, c, 5))
    assert (found.both, found.first_only, found.second_only, found.neither) == (11, b, c, 5)
    assert found.p == pytest.approx(stats.binomtest(b, b + c, 0.5).pvalue, rel=1e-9)


def test_mcnemar_of_five_gains_without_a_loss_is_one_sixteenth() -> None:
    assert mcnemar(*verdicts(40, 5, 0, 20)).p == 2 * 0.5**5


def test_mcnemar_of_equal_verdicts_is_one_however_many_pairs_agree() -> None:
    assert mcnemar(*verdicts(500, 0, 0, 500)).p == 1.0
    assert mcnemar(*verdicts(3, 8, 1, 2)).p == mcnemar(*verdicts(300, 8, 1, 200)).p


def test_mcnemar_holds_its_level_and_finds_a_difference() -> None:
    stream = np.random.default_rng(0)

    def rejected(gain: float) -> float:
        return np.mean(
            [mcnemar(*(stream.random((2, 60)) < [[0.5 + gain], [0.5]]).tolist()).p < 0.05 for _ in range(400)]
        )

    assert rejected(0.0) < 0.06
    assert rejected(0.35) > 0.9


def test_the_bootstrap_is_that_of_scipy() -> None:
    stream = np.random.default_rng(5)
    first, second = stream.gamma(2.0, 3.0, 80), stream.gamma(2.0, 2.5, 80)
    ours = bootstrap_difference(first.tolist(), second.tolist(), seed=0)
    theirs = stats.bootstrap(
        (first - second,), np.mean, method="percentile", n_resamples=40_000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.mean == pytest.approx((first - second).mean(), rel=1e-12)
    width = theirs.high - theirs.low
    assert ours.interval == pytest.approx(tuple(theirs), abs=0.03 * width)  # 3 % is three of its own errors


def test_the_bootstrap_covers_the_true_difference_as_often_as_it_says() -> None:
    stream = np.random.default_rng(11)

    def covered(paired: bool) -> float:
        hits = 0
        for k in range(300):
            hard = stream.normal(0, 5, 60)  # what makes one pair harder than another
            first, second = hard + stream.normal(1, 1, 60), hard + stream.normal(0, 1, 60)
            if not paired:
                second = stream.permutation(second)
            low, high = bootstrap_difference(first.tolist(), second.tolist(), seed=k, resamples=400).interval
            hits += low < 1 < high and high - low < 1
        return hits / 300

    assert 0.90 < covered(True) < 0.98
    assert covered(False) < 0.1  # without the pairing no such narrow interval is to be had


def test_the_bootstrap_repeats_with_its_seed_and_does_not_depend_on_how_it_is_cut(monkeypatch) -> None:
    first, second = np.random.default_rng(2).normal(size=(2, 41)).tolist()
    one = bootstrap_difference(first, second, seed=1)
    assert bootstrap_difference(first, second, seed=1) == one
    assert bootstrap_difference(first, second, seed=2) != one
    monkeypatch.setattr("thalweg.evaluation.statistics._RESAMPLES_AT_ONCE", 700)
    assert bootstrap_difference(first, second, seed=1) == one


def test_a_constant_difference_has_an_interval_of_no_width() -> None:
    found = bootstrap_difference([3.0, 5.0, 7.0], [1.0, 3.0, 5.0], seed=0)
    assert (found.mean, found.interval, found.pairs) == (2.0, (2.0, 2.0), 3)


def test_means_over_seeds_are_those_of_scipy() -> None:
    values = [20.0, 23.0, 19.0, 27.0, 22.0]
    found = mean_over_seeds(values)
    assert found.mean == pytest.approx(22.2)
    assert found.standard_error == pytest.approx(stats.sem(values))
    theirs = stats.t.interval(0.95, 4, loc=22.2, scale=stats.sem(values))
    assert found.interval == pytest.approx(theirs)


def test_one_seed_has_no_standard_error() -> None:
    found = mean_over_seeds([4.0])
    assert (found.mean, found.standard_error, found.interval, found.seeds) == (4.0, None, None, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson_interval(5, 4), "5 right of 4"),
        (lambda: wilson_interval(0, 0), "0 right of 0"),
        (lambda: wilson_interval(1, 4, confidence=95), "confidence is 95"),
        (lambda: mcnemar([True], [True, False]), "1 values beside 2"),
        (lambda: mcnemar([], []), "0 values beside 0"),
        (lambda: bootstrap_difference([1.0], [2.0], seed=0), "1 pair to bootstrap"),
        (
            lambda: bootstrap_difference([1.0, 2.0], [math.nan, 2.0], seed=0),
            "pair 0 has the values 1.0 and nan",
        ),
        (lambda: bootstrap_difference([1.0, 2.0], [1.0, 2.0], seed=0, resamples=5), "resamples is 5"),
        (lambda: mean_over_seeds([]), "values over seeds are"),
        (lambda: mean_over_seeds([1.0, math.inf]), "values over seeds are"),
    ],
)
def test_what_has_no_answer_is_refused_in_one_line(call, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
