"""What a count of right basins, or a difference between two potentials, is worth.

Pure functions of plain numbers. Counts of one evaluation get a Wilson interval; two evaluations on the same
pairs are compared pair by pair (McNemar for right or wrong, bootstrap for a mean difference), because pairs
differ far more than potentials do; figures over seeds get a mean with its standard error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

from thalweg.errors import SettingsError
from thalweg.seeds import numpy_stream

_RESAMPLES_AT_ONCE = 2_000_000
"""Numbers drawn at a time by the bootstrap: 16 MB."""


def wilson_interval(right: float, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of a share p of which `right` of `total` independent draws were seen.

        (p̂ + z²/2n ± z sqrt(p̂ (1 − p̂)/n + z²/4n²)) / (1 + z²/n),   p̂ = right / n

    It holds its level at shares near 0 and 1 and for few draws, where p̂ ± z s does not.

    Args:
        right: how many were, 0 to `total`; a mean over seeds need not be whole.
        total: n, how many there were, 1 or more.
        confidence: level of the interval, in (0, 1).

    Returns:
        Lower and upper end, within [0, 1].

    Raises:
        SettingsError: an argument outside its range.

    Source: Wilson, J. Am. Stat. Assoc. 22, 209 (1927); the form of Newcombe, Stat. Med. 17, 857 (1998),
    method 3.
    """
    _check_confidence(confidence)
    if total < 1 or not 0 <= right <= total:
        raise SettingsError(f"{right} right of {total}: allowed is a total of 1 or more and 0 to that many right")
    z = float(ndtri(0.5 + 0.5 * confidence))
    share, z2 = right / total, z * z / total
    centre = share + z2 / 2
    half = z * math.sqrt(share * (1 - share) / total + z2 / (4 * total))
    low, high = (centre - half) / (1 + z2), (centre + half) / (1 + z2)
    # the ends are exact there; rounding would leave ±1e-17
    return (0.0 if right == 0 else low), (1.0 if right == total else high)


@dataclass(frozen=True)
class McNemar:
    """Two sets of verdicts on the same pairs."""

    both: int
    """Right in both."""
    first_only: int
    """Right in the first only."""
    second_only: int
    """Right in the second only."""
    neither: int
    """Right in neither."""
    p: float
    """Two-sided p value of the two being right equally often."""


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Test whether two sets of verdicts on the same pairs are right equally often, exactly.

    Only pairs on which they differ speak: of n = b + c such, b is binomial with one half, so

        p = min(1, 2 Σ_{k ≤ min(b, c)} C(n, k) / 2ⁿ)

    Args:
        first: one verdict per pair.
        second: verdicts on the same pairs in the same order.

    Raises:
        SettingsError: the two differ in length, or there is none.

    Source: McNemar, Psychometrika 12, 153 (1947); the exact conditional form, as in Fagerland, Lydersen and
    Laake, BMC Med. Res. Methodol. 13, 91 (2013).
    """
    count = _paired(first, second)
    both = sum(1 for a, b in zip(first, second, strict=True) if a and b)
    b = sum(map(bool, first)) - both
    c = sum(map(bool, second)) - both
    n = b + c
    tail = sum(math.comb(n, k) for k in range(min(b, c) + 1))  # whole numbers: exact for any n
    return McNemar(both, b, c, count - both - n, min(1.0, 2 * tail / 2**n))


def sign_flip(differences: Sequence[int]) -> float:
    """Test whether two arms do equally well on the same structures, each seen under several seeds, exactly.

    D_i is by how many seeds more the first arm is right on structure i. If the two are alike on it, D_i is as likely
    as −D_i, whatever its seeds have in common, so

        p = P(|Σ ε_i D_i| ≥ |Σ D_i|),   ε_i = ±1 with one half each

    found by convolution. With one seed D_i is −1, 0 or 1 and this is McNemar's exact p; with several, McNemar's test
    of all (structure, seed) together would take them for independent and be too sure.

    Args:
        differences: D_i, one whole number per structure.

    Raises:
        SettingsError: there is none.

    Source: Fisher, The Design of Experiments (1935), section 21, the randomisation test of paired differences; why
    clusters matter to McNemar's test: Durkalski, Palesch, Lipsitz and Rust, Stat. Med. 22, 2417 (2003).
    """
    if not len(differences):
        raise SettingsError("there are no structures to compare: give one difference for each, at least one")
    reach = sum(map(abs, differences))
    chance = np.zeros(2 * reach + 1)  # of the sum −reach … reach
    chance[reach] = 1.0
    for size in filter(None, map(abs, differences)):
        chance = (np.roll(chance, size) + np.roll(chance, -size)) / 2  # the ends are 0, so nothing comes round
    least = abs(sum(differences))
    if least == 0:
        return 1.0
    return float(min(1.0, chance[: reach - least + 1].sum() + chance[reach + least :].sum()))


@dataclass(frozen=True)
class MeanDifference:
    """Mean of first minus second over pairs."""

    mean: float
    """Mean difference."""
    interval: tuple[float, float]
    """Percentile interval of the mean."""
    pairs: int
    """How many pairs there were."""


def bootstrap_difference(
    first: Sequence[float],
    second: Sequence[float],
    *,
    seed: int,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> MeanDifference:
    """Return the mean of first − second with its bootstrap interval; whole pairs are drawn again.

    The interval is that between the (1 ∓ confidence)/2 quantiles of the means of `resamples` draws of as
    many pairs with replacement. It needs no normal distribution, but for few pairs (below about 20) it is
    too narrow.

    Args:
        first: one finite value per pair.
        second: values of the same pairs in the same order.
        seed: root of the random stream.
        confidence: level of the interval, in (0, 1).
        resamples: how many draws, 100 or more.

    Raises:
        SettingsError: fewer than two pairs, lengths that differ, a value that is not finite, or an argument
            outside its range.

    Source: Efron, Ann. Stat. 7, 1 (1979); Efron and Tibshirani, An Introduction to the Bootstrap (1993),
    section 13.3, the percentile interval.
    """
    _check_confidence(confidence)
    count = _paired(first, second)
    if count < 2:
        raise SettingsError(f"{count} pair to bootstrap: allowed is 2 or more; one says nothing about the spread")
    if resamples < 100:
        raise SettingsError(f"resamples is {resamples}: allowed is 100 or more, e.g. 10000")
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    strange = np.flatnonzero(~np.isfinite(difference))
    if len(strange):
        raise SettingsError(
            f"pair {strange[0]} has the values {first[strange[0]]} and {second[strange[0]]}: allowed are "
            "finite numbers; leave out pairs with a missing value, and say how many"
        )
    stream = numpy_stream(seed, "paired bootstrap")
    at_once = max(1, _RESAMPLES_AT_ONCE // count)
    means = [
        difference[stream.integers(count, size=(min(at_once, resamples - done), count))].mean(axis=1)
        for done in range(0, resamples, at_once)
    ]
    low, high = np.quantile(np.concatenate(means), [0.5 - 0.5 * confidence, 0.5 + 0.5 * confidence])
    return MeanDifference(float(difference.mean()), (float(low), float(high)), count)


@dataclass(frozen=True)
class SeedMean:
    """A figure over seeds."""

    mean: float
    """Mean over seeds."""
    standard_error: float | None
    """Standard error of the mean; None for a single seed."""
    interval: tuple[float, float] | None
    """Student's interval of the mean; None for a single seed."""
    seeds: int
    """How many there were."""


def mean_over_seeds(values: Sequence[float], *, confidence: float = 0.95) -> SeedMean:
    """Return mean, standard error s / √n with s² = Σ (x − x̄)² / (n − 1), and interval x̄ ± t s / √n.

    Args:
        values: one finite value per seed.
        confidence: level of the interval, in (0, 1); t is Student's quantile for n − 1 degrees of freedom.

    Raises:
        SettingsError: no value, one that is not finite, or a confidence outside its range.

    Source: Student, Biometrika 6, 1 (1908).
    """
    _check_confidence(confidence)
    x = np.asarray(values, dtype=np.float64)
    if len(x) == 0 or not np.isfinite(x).all():
        raise SettingsError(f"values over seeds are {list(values)}: allowed are one or more finite numbers")
    mean, n = float(x.mean()), len(x)
    if n == 1:
        return SeedMean(mean, None, None, 1)
    error = float(x.std(ddof=1)) / math.sqrt(n)
    half = float(stdtrit(n - 1, 0.5 + 0.5 * confidence)) * error
    return SeedMean(mean, error, (mean - half, mean + half), n)


def _paired(first: Sequence[object], second: Sequence[object]) -> int:
    if len(first) != len(second) or not len(first):
        raise SettingsError(f"{len(first)} values beside {len(second)}: give one of each for every pair, at least one")
    return len(first)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise SettingsError(f"confidence is {confidence}: allowed is a share between 0 and 1, e.g. 0.95")
