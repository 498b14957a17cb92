"""Many valleys: the number of minima within reach of a start.

Perturbed copies of a start, and the start itself, are relaxed; with p_b the share that ends in basin b,

    effective number = exp(H),     H = −Σ p_b ln p_b + (k − 1) / 2n

k the basins seen and n the members (the last term takes off the bias of few: Miller 1955, "Note on the bias of
information estimates"). One valley gives 1, two equal ones near 2. The mean over starts is judged.

Basins are told apart by geometry, as the basin rules do that count a start right or wrong: a symmetric copy of a
defect one site farther is another basin, and a potential that goes there is counted wrong. By energy those copies are
one level; that number stands beside, as the choice among valleys of different depth.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from thalweg.evaluation.regime.coordinate import Figure, Measurement
from thalweg.evaluation.regime.intervals import mean_figure
from thalweg.relaxation.loop import Relaxation
from thalweg.relaxation.outcome import Outcome
from thalweg.seeds import numpy_stream
from thalweg.structures.describe import ENERGY_GAP, energy_levels, geometric_basins
from thalweg.structures.pairs import Pairs

LEAST_OF_A_PARENT = 4
"""Starts of one parent from which on their reference minima say how many valleys there are."""
_RESAMPLES = 2000


@dataclass(frozen=True)
class ValleyRow:
    """The basins reached from around one start, a label a member."""

    geometric: tuple[int, ...]
    energetic: tuple[int, ...]
    """The same by energy; empty where energies are unknown."""
    lost: int
    """Members whose relaxation did not converge."""


def effective_number(labels: Sequence[Hashable]) -> float:
    """Return exp(H) of the labels, with the correction of Miller; at least 1 and at most the number of labels.

    Raises:
        ValueError: there are no labels.
    """
    counts = list(Counter(labels).values())
    n = sum(counts)
    if n == 0:
        raise ValueError("no labels: give at least one")
    entropy = -sum(c / n * math.log(c / n) for c in counts) + (len(counts) - 1) / (2 * n)
    return min(math.exp(entropy), float(n))


def valleys_of(ends: Relaxation, members: int, distance: float) -> list[ValleyRow]:
    """Group what perturbed copies relaxed to, `members` in a row belonging to one start.

    Args:
        ends: the relaxed copies of all starts.
        members: copies of each.
        distance: largest matched displacement (Å) within a basin.
    """
    rows = []
    for first in range(0, len(ends.outcomes), members):
        block = range(first, first + members)
        kept = [k for k in block if ends.outcomes[k] is Outcome.CONVERGED]
        energies = [float(ends.energy[k]) for k in kept]
        shapes = geometric_basins(ends.structures.select(kept), energies, distance, any_origin=False) if kept else []
        levels = energy_levels(energies, ENERGY_GAP)
        rows.append(ValleyRow(_labels([list(s) for s in shapes]), _labels(levels), members - len(kept)))
    return rows


def valleys_of_parents(pairs: Pairs, distance: float) -> list[ValleyRow]:
    """Group the reference minima of every parent that has at least `LEAST_OF_A_PARENT` starts in one cell."""
    rows = []
    for parent, count in Counter(pairs.parents).items():
        if count < LEAST_OF_A_PARENT:
            continue
        own = pairs.select([k for k, name in enumerate(pairs.parents) if name == parent])
        sizes = own.minima.counts
        if bool((sizes != sizes[0]).any()) or float((own.starts.cell - own.starts.cell[0]).abs().max()) > 1e-3:
            continue  # begun in different cells, so no minima of one landscape
        known = [] if own.energy_minimum is None else [e for e in own.energy_minimum.tolist() if e == e]
        energies: list[float | None] = list(known) if len(known) == count else [None] * count
        shapes = geometric_basins(own.minima, energies, distance, any_origin=False)
        levels = energy_levels(known, ENERGY_GAP) if len(known) == count else []
        rows.append(ValleyRow(_labels([list(s) for s in shapes]), _labels(levels), 0))
    return rows


def _labels(groups: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(label for label, group in enumerate(groups) for _ in group)


def measure_valleys(rows: Sequence[ValleyRow], how: str, *, seed: int) -> Measurement:
    """Return the coordinate from the groups of all starts.

    Args:
        rows: one a start (or a parent).
        how: how the minima were reached, in words.
        seed: root of the bootstrap.
    """
    told = [row for row in rows if len(row.geometric) > 1]
    if not told:
        return Measurement(None, "", "fewer than two perturbed starts of any structure reached a minimum")
    lost = sum(row.lost for row in rows)
    unreached = f"; {lost} relaxations did not converge and are left out" if lost else ""
    energetic = [row.energetic for row in told if row.energetic]
    beside = _figure("effective number of energies", energetic, seed) if len(energetic) == len(told) else None
    return Measurement(
        _figure("effective number of minima", [row.geometric for row in told], seed),
        f"{how}; basins by geometry, as starts are counted right or wrong{unreached}",
        beside=() if beside is None else (beside,),
    )


def _figure(name: str, groups: Sequence[tuple[int, ...]], seed: int) -> Figure | None:
    """Return the mean over groups; the interval of a single one draws its members again."""
    if len(groups) != 1:
        return mean_figure(name, [effective_number(group) for group in groups], "", seed=seed)
    labels = np.array(groups[0])
    stream = numpy_stream(seed, "regime valleys", name)
    drawn = [effective_number(stream.choice(labels, len(labels)).tolist()) for _ in range(_RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Figure(name, effective_number(labels.tolist()), (float(low), float(high)), "", len(labels))
