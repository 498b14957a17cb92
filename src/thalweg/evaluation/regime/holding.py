"""Starts that hold: the reference keeps its minimum where the start is moved a little.

A start *holds* if every one of a few copies of it, moved by less than an atom's zero-point motion and relaxed by the
reference along the same path, ends in the reference minimum. A start that does not hold has its valley by chance: no
potential, however good, can be expected to find it. Of silicon's defects seven starts in ten hold, of titanium with an
adsorbate nine, of crystals with a free cell six (`benchmarks/holding.py`). Called by `collected`.
"""

from __future__ import annotations

from thalweg.evaluation.basins import BasinRule, in_double
from thalweg.evaluation.regime.decision import ended_at
from thalweg.evaluation.regime.walks import in_chunks, perturbed
from thalweg.potentials.contract import Potential
from thalweg.relaxation.path import Path
from thalweg.structures.pairs import Pairs


def starts_that_hold(
    reference: Potential,
    pairs: Pairs,
    path: Path,
    rule: BasinRule,
    *,
    copies: int,
    deviation: float,
    seed: int,
    max_atoms: int = 4096,
) -> list[bool]:
    """Return which starts hold; a copy whose relaxation does not converge does not.

    Args:
        reference: the surface that the minima are of.
        pairs: starts and reference minima.
        path: how to relax.
        rule: by which ends are compared with minima.
        copies: how many of each start.
        deviation: standard deviation of each coordinate of a copy, Å.
        seed: root of the streams, which are keyed by id and copy.
        max_atoms: most atoms relaxed at once.
    """
    exact, held = in_double(reference), []
    for places in in_chunks(pairs.starts, max(1, max_atoms // copies)):
        chunk = pairs.select(places)
        moved = perturbed(chunk.starts, deviation, copies, seed=seed, purpose="regime holding")
        ends = path.run(exact, moved)
        targets = chunk.minima.select([k for k in range(len(chunk)) for _ in range(copies)])
        there = ended_at(ends, targets, rule)
        held += [all(there[copies * k : copies * (k + 1)]) for k in range(len(chunk))]
    return held
