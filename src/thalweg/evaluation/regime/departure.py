"""Short relaxation, seen from the start: the update at which a path leaves the right basin.

The departure of a structure is the first t from which on the reference would no longer take X_t to its minimum:

    departure = min { t : X_t, relaxed on by the reference along the same path, does not end in the reference minimum }

By the same path, since a basin belongs to (surface, update, α): a quench from X_0 by another relaxer misses the minimum
in a tenth of the starts on silicon. So every start begins in the right basin, and a path that lands wrong leaves it
somewhere. Up to its departure a window shows no error of valley, from there on a loss on X_K does: so the suggested
horizon is the update by which half of the paths that land wrong have left. The decision (`decision`) is another thing:
when the basin of the *end* is entered for good, which on silicon is most often after the last update.

The grid is walked from X_0 on, then the updates between the last point inside and the first outside; an excursion
between two points of the grid goes unseen. A departure of infinity is later than the last update, in the finisher.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from thalweg.evaluation.basins import BasinRule, in_double
from thalweg.evaluation.regime.coordinate import Measurement
from thalweg.evaluation.regime.decision import UPDATES, Settles, ended_at
from thalweg.evaluation.regime.intervals import quantile_figure
from thalweg.evaluation.regime.walks import Walks, in_chunks
from thalweg.potentials.contract import Potential
from thalweg.structures.batch import Structures


class InRightBasin:
    """X_t, relaxed on by the reference along the same path, ends in the reference minimum.

    A relaxation that does not converge counts as outside: nobody can say that it is right.
    """

    def __init__(
        self, walks: Walks, reference: Potential, minima: Structures, rule: BasinRule, *, max_atoms: int = 4096
    ) -> None:
        self.walks, self.minima, self.rule, self.max_atoms = walks, minima, rule, max_atoms
        self.reference = in_double(reference)

    def __call__(self, where: Sequence[tuple[int, int]]) -> list[bool]:
        """Answer as `Settles`, of the reference minimum."""
        states = self.walks.places(where).to("cpu", torch.float64)
        answers: list[bool] = []
        for chunk in in_chunks(states, self.max_atoms):
            relaxed = self.walks.path.run(self.reference, states.select(chunk))
            minima = self.minima.select([where[place][0] for place in chunk])
            answers += ended_at(relaxed, minima, self.rule)
        return answers


def departure_steps(structures: Sequence[int], grid: Sequence[int], inside: Settles) -> dict[int, float]:
    """Return the departure of each structure; infinity where it is inside at every update of the grid.

    Args:
        structures: which structures, as `inside` names them.
        grid: updates, ascending.
        inside: see `InRightBasin`.
    """
    found = dict.fromkeys(structures, math.inf)
    last: dict[int, int] = {}  # the last update of the grid inside
    going = list(structures)
    for update in grid:
        held = inside([(k, update) for k in going]) if going else []
        for k, same in zip(going, held, strict=True):
            if same:
                last[k] = update
            else:
                found[k] = update
        going = [k for k, same in zip(going, held, strict=True) if same]
    asked = {k: last[k] + 1 for k in last if last[k] + 1 < found[k] < math.inf}
    while asked:
        held = inside(list(asked.items()))
        for (k, update), same in zip(list(asked.items()), held, strict=True):
            if not same:
                found[k] = update
            if same and update + 1 < found[k]:
                asked[k] = update + 1
            else:
                del asked[k]
    return found


def measure_departure(departures: Sequence[float], decisions: Sequence[float], share: float) -> Measurement:
    """Return the coordinate from the paths that land wrong.

    Args:
        departures: one a path; infinity where it is later than the last update.
        decisions: decision steps of the same paths, given beside.
        share: which quantile of departures is judged.
    """
    name = f"update by which {100 * share:.0f} % have left the right basin"
    figure = quantile_figure(name, departures, share, UPDATES)
    if figure is None:
        return Measurement(None, "", "no path lands wrong, so none leaves the right basin")
    late = sum(math.isinf(step) for step in departures)
    how = (
        "first update at which X_t, relaxed on by the reference, does not end in the reference minimum; of "
        f"the {len(departures)} paths that land wrong {late} leave it later than the last update; looked for at a grid "
        "and then at every update between two of its points"
    )
    decided = quantile_figure("update by which half are decided for good", decisions, 0.5, UPDATES)
    return Measurement(figure, how, beside=() if decided is None else (decided,))
