"""The binomial schedule takes the fewest forward steps possible, found here by trying every schedule."""

from __future__ import annotations

from functools import cache

import pytest

from thalweg.gradients.binomial import fewest_forward_steps, first_kept, next_kept, repetitions


@cache
def fewest(length: int, states: int) -> int:
    """Try every place of the next kept state; without one, step from the start every time."""
    if length == 1:
        return 0
    if states == 1:
        return length * (length - 1) // 2
    return min(m + fewest(m, states) + fewest(length - m, states - 1) for m in range(1, length))


@pytest.mark.parametrize("states", [1, 2, 3, 5, 8, 20])
def test_the_formula_is_the_least_of_all_schedules(states):
    for length in range(1, 90):
        assert fewest_forward_steps(length, states) == fewest(length, states)


@pytest.mark.parametrize("states", [2, 3, 5, 8, 20])
def test_keeping_the_next_state_where_the_schedule_says_reaches_the_least(states):
    for length in range(2, 90):
        m = next_kept(length, states)
        assert m + fewest(m, states) + fewest(length - m, states - 1) == fewest(length, states)
        assert 1 <= m < length


def test_half_way_is_not_optimal_so_the_comparison_can_fail():
    length, states = 60, 3
    m = length // 2
    assert m + fewest(m, states) + fewest(length - m, states - 1) > fewest(length, states)


def test_three_states_reverse_ten_steps_with_two_repetitions():
    """By hand: β(3, 2) = 5! / (3! 2!) = 10, and 2 · 10 − β(4, 1) = 15."""
    assert repetitions(10, 3) == 2
    assert repetitions(11, 3) == 3
    assert fewest_forward_steps(10, 3) == 15


@pytest.mark.parametrize("states", [1, 2, 5, 75, 200])
def test_states_kept_on_the_way_forward_begin_at_the_start_and_are_no_more_than_allowed(states):
    for count in (1, 2, 7, 75):
        kept = first_kept(count, states)
        assert kept[0] == 0
        assert list(kept) == sorted(set(kept))
        assert len(kept) == min(count, states)
        assert kept[-1] < count
