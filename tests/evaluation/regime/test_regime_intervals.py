"""Quantiles of decision steps: order statistics, infinite values, and an interval that holds its level."""

from __future__ import annotations

import math

import numpy as np
import pytest

from thalweg.errors import SettingsError
from thalweg.evaluation.regime.intervals import mean_figure, quantile_figure, share_figure


def quantile(values, share):
    found = quantile_figure("q", values, share, "updates")
    assert found is not None
    return found


@pytest.mark.parametrize(("share", "expected"), [(1 / 3, 3), (0.34, 5), (0.5, 5), (0.8, 9), (1 / 6, 1)])
def test_the_quantile_is_the_least_value_that_the_share_does_not_exceed(share, expected):
    assert quantile([9, 1, 3, 5, 7, 9], share).value == expected


def test_a_value_that_is_later_than_all_numbers_is_kept_as_such():
    found = quantile([1, 2, 3, math.inf, math.inf], 0.8)
    assert found.value == math.inf
    assert found.interval is not None
    assert found.interval[1] == math.inf


def test_few_values_do_not_bound_a_high_quantile():
    # 17 values bound the 0.8 quantile from above at 97.5 %, 16 do not: 0.8^17 = 0.0225 < 0.025 < 0.8^16 = 0.0281
    assert quantile(list(range(17)), 0.8).interval == (9, 16)
    assert quantile(list(range(16)), 0.8).interval[1] == math.inf


def test_the_interval_covers_the_true_quantile_at_its_level():
    stream = np.random.default_rng(0)
    draws = stream.exponential(size=(1000, 30))
    true = -math.log(1 - 1 / 3)
    ends = [quantile(row.tolist(), 1 / 3).interval for row in draws]
    share = np.mean([low <= true <= high for low, high in ends])
    assert 0.95 <= share <= 0.985
    # the checker can fail: an interval a third as wide does not cover
    narrow = [(0.5 * (a + b) - (b - a) / 6, 0.5 * (a + b) + (b - a) / 6) for a, b in ends]
    assert np.mean([low <= true <= high for low, high in narrow]) < 0.8


def test_means_and_shares_carry_their_intervals():
    found = mean_figure("m", [0.4, 0.6] * 20, "eV", seed=0)
    assert found is not None
    assert found.value == pytest.approx(0.5)
    assert found.interval == pytest.approx((0.47, 0.53), abs=0.01)
    assert found.count == 40
    assert mean_figure("m", [0.4], "", seed=0).interval is None
    assert mean_figure("m", [], "", seed=0) is None
    assert share_figure("s", 0, 40).interval == pytest.approx((0, 0.0876), abs=1e-4)


def test_a_share_outside_its_range_is_refused():
    with pytest.raises(SettingsError, match="share is 1"):
        quantile_figure("q", [1.0], 1.0, "")
    assert quantile_figure("q", [], 0.5, "") is None
