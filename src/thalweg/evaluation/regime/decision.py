"""Short relaxation, seen from the end of the path: the update at which its valley is decided.

The decision step of a structure is the first t from which X_t belongs for good to the basin that its path ends in:

    decision = min { t : X_t', for every t' ≥ t, settles in the basin of X* }

`settles` is asked in one of two ways. With a reference: X_t, quenched on the reference surface, ends where X*, quenched
there, does. Without: of slightly perturbed copies of X_t, relaxed on by the potential itself, nine in ten end at X*.
A structure undecided at X_T has a decision of infinity ('later than the last update').

'For good' asks about all later updates, so a bisection will not do. The grid is walked from X_T backwards, each
structure up to the first update from which it settles elsewhere; the updates between that one and the next of the grid
are walked in the same way. A structure that leaves the basin and comes back between two points of the grid goes unseen:
of 40 paths on silicon, looked at after every update, that was one (66 instead of 44).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from thalweg.evaluation.basins import BasinRule, Distance, Quench, in_double
from thalweg.evaluation.regime.coordinate import Measurement
from thalweg.evaluation.regime.intervals import quantile_figure
from thalweg.evaluation.regime.walks import Walks, in_chunks, perturbed
from thalweg.potentials.contract import Potential
from thalweg.relaxation.loop import Relaxation
from thalweg.relaxation.outcome import Outcome
from thalweg.structures.batch import Structures

Settles = Callable[[Sequence[tuple[int, int]]], list[bool]]
"""Asked with (structure, update) pairs; says of each whether it settles in the basin of that structure's end."""

UPDATES = "updates"
"""Unit of decision steps."""

GRID = (0, 2, 5, 10, 15, 20, 30, 40, 50, 60, 75)
"""Updates looked at first; further ones follow every 25."""


def updates_of(steps: int, grid: Sequence[int] = GRID) -> tuple[int, ...]:
    """Return the grid within a path of so many updates; its last one is always there."""
    further = range(grid[-1] + 25, steps + 1, 25)
    return tuple(sorted({t for t in (*grid, *further) if t <= steps} | {0, steps}))


def decision_steps(
    structures: Sequence[int], grid: Sequence[int], settles: Settles, *, refine: bool = True
) -> dict[int, float]:
    """Return the decision step of each structure; infinity where it is undecided at the last update of the grid.

    Args:
        structures: which structures, as `settles` names them.
        grid: updates, ascending.
        settles: see `Settles`.
        refine: also walk the updates between two of the grid; else the later of the two is given.
    """
    found = dict.fromkeys(structures, math.inf)
    bracket: dict[int, int] = {}  # the last update of the grid that settles elsewhere
    going = list(structures)
    for update in reversed(grid):
        held = settles([(k, update) for k in going]) if going else []
        for k, same in zip(going, held, strict=True):
            if same:
                found[k] = update
            else:
                bracket[k] = update
        going = [k for k, same in zip(going, held, strict=True) if same]
    if refine:
        _refine(found, bracket, settles)
    return found


def _refine(found: dict[int, float], bracket: dict[int, int], settles: Settles) -> None:
    """Walk backwards from each decision to the grid point before it, in place."""
    going = [k for k in bracket if found[k] - 1 > bracket[k] and math.isfinite(found[k])]
    while going:
        held = settles([(k, int(found[k]) - 1) for k in going])
        for k, same in zip(going, held, strict=True):
            if same:
                found[k] -= 1
        going = [k for k, same in zip(going, held, strict=True) if same and found[k] - 1 > bracket[k]]


class OnReference:
    """X_t and X*, both quenched on the reference surface, coincide.

    A quench of X_t that does not converge has not settled there, so it can only put a decision off.
    """

    def __init__(self, walks: Walks, reference: Potential, rule: Quench, *, max_atoms: int = 4096) -> None:
        self.walks, self.rule, self.max_atoms = walks, rule, max_atoms
        self.reference = in_double(reference)
        ends = rule.quench(self.reference, walks.ends.structures)
        self.ends = ends.structures
        self.judged = [k for k in walks.converged if ends.outcomes[k] is Outcome.CONVERGED]
        """Structures whose end is a basin: it converged, and so did its quench."""

    def __call__(self, where: Sequence[tuple[int, int]]) -> list[bool]:
        """Answer as `Settles`."""
        states = self.walks.places(where)
        answers: list[bool] = []
        for chunk in in_chunks(states, self.max_atoms):
            quenched = self.rule.quench(self.reference, states.select(chunk))
            ends = self.ends.select([where[place][0] for place in chunk])
            answers += ended_at(quenched, ends, self.rule)
        return answers


class OnItself:
    """Of slightly perturbed copies of X_t, relaxed by the potential's own finisher, nine in ten end at X*."""

    def __init__(
        self,
        walks: Walks,
        *,
        copies: int = 10,
        share: float = 0.9,
        deviation: float = 0.02,
        threshold: float = 0.2,
        seed: int = 0,
        max_atoms: int = 4096,
    ) -> None:
        self.walks, self.copies, self.share, self.deviation = walks, copies, share, deviation
        self.threshold, self.seed, self.max_atoms = threshold, seed, max_atoms
        self.judged = walks.converged
        """Structures whose end is a minimum."""

    def __call__(self, where: Sequence[tuple[int, int]]) -> list[bool]:
        """Answer as `Settles`."""
        states = self.walks.places(where)
        answers: list[bool] = []
        for chunk in in_chunks(states, max(1, self.max_atoms // self.copies)):
            shaken = perturbed(
                states.select(chunk),
                self.deviation,
                self.copies,
                seed=self.seed,
                purpose=f"regime decision {where[chunk[0]][1]}",
            )
            path = self.walks.path
            relaxed = path.run(self.walks.potential, shaken, skip=path.steps)
            ends = self.walks.ends.structures.select([where[k][0] for k in chunk for _ in range(self.copies)])
            settled = torch.tensor(ended_at(relaxed, ends, Distance(self.threshold)))
            back = settled.reshape(-1, self.copies).sum(dim=1)
            answers += [count >= self.share * self.copies - 1e-9 for count in back.tolist()]
        return answers


def ended_at(relaxed: Relaxation, targets: Structures, rule: BasinRule) -> list[bool]:
    """Return which relaxations converged within the rule's threshold of their target, as the rule compares them."""
    near = (rule.apart(relaxed.structures, targets) < rule.threshold).tolist()
    return [a and outcome is Outcome.CONVERGED for a, outcome in zip(near, relaxed.outcomes, strict=True)]


def measure_decision(steps: Sequence[float], share: float, how: str) -> Measurement:
    """Return the coordinate from the decision steps of the structures that are looked at, where there is no reference.

    Args:
        steps: one a structure; infinity where it is later than the last update.
        share: which quantile is judged.
        how: how it was measured and of which structures, in words.
    """
    name = f"update by which {100 * share:.0f} % are decided"
    figure = quantile_figure(name, steps, share, UPDATES)
    if figure is None:
        return Measurement(None, "", "no relaxation of the potential converged, so no path has a final basin")
    half = quantile_figure("update by which half are decided", steps, 0.5, UPDATES)
    return Measurement(figure, how, beside=() if half is None else (half,))
