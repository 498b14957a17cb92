"""Binomial recomputation: which states to keep, so that a chain is reversed with the fewest forward steps.

A chain of `length` steps is reversed last step first; a step can only be reversed at its own state, so what was
not kept is stepped to again. With c states held at once (the start among them) and

    β(c, r) = (c + r)! / (c! r!),      r the smallest with  length ≤ β(c, r)

the least number of forward steps is  r · length − β(c + 1, r − 1): every step is made at most r times over. Keeping
c states thus reaches β(c, r) steps, so memory and repetitions grow with the logarithm of the length.

Source: Griewank and Walther 2000 (Algorithm 799, "revolve"). Called by `unroll`.
"""

from __future__ import annotations

from math import comb


def repetitions(length: int, states: int) -> int:
    """Return r, the most often that any step is made when a chain is reversed optimally.

    Args:
        length: steps of the chain, at least 1.
        states: c, states held at once, at least 1.
    """
    r = 0
    while comb(states + r, states) < length:
        r += 1
    return r


def fewest_forward_steps(length: int, states: int) -> int:
    """Return the least number of forward steps that reverse a chain, the reversed evaluations not counted.

    Args:
        length: steps of the chain, at least 1.
        states: c, states held at once, at least 1.
    """
    r = repetitions(length, states)
    return r * length - _reach(states + 1, r - 1)


def next_kept(length: int, states: int) -> int:
    """Return after how many steps from a kept state the next one is kept: m with 1 ≤ m < length.

    What lies beyond is reversed with one state fewer, what lies before with as many; the largest optimal m is taken.

    Args:
        length: steps to be reversed from the kept state, at least 2.
        states: c, states that may be held, the present one among them, at least 2.
    """
    r = repetitions(length, states)
    return min(_reach(states, r - 1), length - _reach(states - 1, r - 1))


def first_kept(count: int, states: int) -> tuple[int, ...]:
    """Return the steps before which a state is kept on the way forward, ascending from 0.

    The objective counts as a last step after the `count` steps, so reversing begins at the end of the chain and
    the least number of forward steps, way forward included, is `fewest_forward_steps(count + 1, states)`.

    Args:
        count: steps of the chain, at least 0.
        states: c, states held at once, at least 1.
    """
    kept = [0] if count else []
    while kept and states - len(kept) > 0 and kept[-1] < count - 1:
        following = kept[-1] + next_kept(count + 1 - kept[-1], states - len(kept) + 1)
        kept.append(min(following, count - 1))
    return tuple(kept)


def _reach(states: int, r: int) -> int:
    """Return β(c, r), the longest chain that c states reverse with r repetitions; none below 0."""
    return comb(states + r, states) if r >= 0 else 0
