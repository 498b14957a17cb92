"""Measure the regime map of a potential on a set of pairs: the four coordinates, one after the other.

    pairs → walks X_0 … X_T, X* → forces, valleys, landing, departure → limits → verdict and suggested horizon

With a reference all four are measured. Without one, from end points only, forces need a forces column on the starts,
valleys come from pairs of one parent or from the potential itself, starts are judged by the distance rule, and
the valley's choice by perturbed copies. Called by the command line.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from thalweg.errors import SettingsError
from thalweg.evaluation.basins import BasinRule, CrystalQuench, Distance, Quench, home, in_double
from thalweg.evaluation.regime.collected import Collected
from thalweg.evaluation.regime.coordinate import Measurement
from thalweg.evaluation.regime.horizon import check_budget, reach_of, suggest
from thalweg.evaluation.regime.regime_map import RegimeMap
from thalweg.evaluation.regime.settings import MapSettings
from thalweg.evaluation.regime.valleys import ValleyRow, measure_valleys, valleys_of, valleys_of_parents
from thalweg.evaluation.regime.verdict import judge
from thalweg.evaluation.regime.walks import evaluating, in_chunks, perturbed
from thalweg.gradients.planning import measure_costs
from thalweg.potentials.contract import Potential
from thalweg.relaxation.path import Path
from thalweg.relaxation.stability import safe_alpha
from thalweg.structures.pairs import Pairs, refuse_duplicates, refuse_strained

COUNT, COUNT_ALONE = 40, 16
"""Pairs looked at by default with and without a reference; some two minutes for 64 atoms on one core."""


def measure_map(
    potential: Potential,
    pairs: Pairs,
    settings: MapSettings,
    *,
    reference: Potential | None = None,
    budget: float | None = None,
    count: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> RegimeMap:
    """Measure the four coordinates and judge them.

    Args:
        potential: the base whose training is considered.
        pairs: starts and reference minima; the first `count` of them are looked at.
        settings: the path, the sizes and the limits.
        reference: the reference surface, where there is one.
        budget: MB for backward, to which departures or decisions are compared; None compares with the whole path.
        count: how many pairs; None takes 40, without a reference 16.
        say: told one line at each stage.

    Raises:
        SettingsError: no pairs, or a count or budget outside its range.
        StructureError: an id that occurs twice, or a pair whose two cells differ on a path that keeps the cell.
        PotentialError: an element that the potential or the reference does not know.
    """
    began = time.perf_counter()
    pairs = _checked(potential, pairs, settings, reference, budget, count)
    rule = _rule(settings, reference)
    with evaluating(potential):
        path = _path(potential, pairs, settings, say)
        say(f"relaxing {len(pairs)} starts along {path.steps} updates and to their minima")
        found = Collected.of(potential, pairs, path, rule, reference, settings, say)
        say("relaxing perturbed starts")
        valleys = _valleys(potential, pairs, path, rule, reference, settings)
    say(f"measuring memory and time of a batch of {min(settings.batch, len(pairs))}")
    batch = pairs.starts.select(range(min(settings.batch, len(pairs))))
    costs = measure_costs(potential, batch, path)
    reach = reach_of(costs, path, budget, len(batch))
    short = found.shortness(settings)
    coordinates = judge(
        found.forces(seed=settings.seed),
        valleys,
        found.landing(),
        short,
        limits=settings.limits,
        reach=reach.longest,
    )
    return RegimeMap(
        coordinates=coordinates,
        decisions=found.decisions(),
        steps=path.steps,
        rule=rule.kind,
        alpha=path.update.alpha,
        reach=reach,
        suggestion=suggest(costs, path, short.figure, reach),
        settings=settings.model_dump(mode="json"),
        seconds=time.perf_counter() - began,
    )


def _checked(
    potential: Potential,
    pairs: Pairs,
    settings: MapSettings,
    reference: Potential | None,
    budget: float | None,
    count: int | None,
) -> Pairs:
    """Refuse before anything is run; return the pairs that are looked at."""
    check_budget(budget)
    if count is not None and count < 1:
        raise SettingsError(f"count is {count}: allowed is 1 pair or more, e.g. {COUNT}")
    if len(pairs) == 0:
        raise SettingsError("there are no pairs to measure on: give at least one")
    if not settings.relaxation.coordinates.moves_cell:
        refuse_strained(pairs)
    refuse_duplicates(pairs.ids, "pair")
    potential.check(pairs.starts)
    if reference is not None:
        reference.check(pairs.starts)
    wanted = count if count is not None else COUNT if reference is not None else COUNT_ALONE
    return pairs.select(range(min(wanted, len(pairs))))


def _rule(settings: MapSettings, reference: Potential | None) -> BasinRule:
    """Return the rule by which starts are judged: that of the reference, where there is one."""
    if reference is None:
        return Distance(settings.threshold)
    kind = CrystalQuench if settings.relaxation.coordinates.moves_cell else Quench
    return kind(settings.threshold)


def _path(potential: Potential, pairs: Pairs, settings: MapSettings, say: Callable[[str], None]) -> Path:
    """Return the path, its step size measured at minima where it was left open."""
    told = settings.relaxation
    if told.alpha is not None:
        return told.path()
    few = pairs.minima.select(range(min(settings.minima, len(pairs)))).to(*home(potential, pairs.minima))
    alpha = safe_alpha(potential, few, coordinates=told.coordinates)
    say(f"alpha = {alpha:.4g} Å²/eV, measured on {len(few)} minima")
    return told.path(alpha)


def _valleys(
    potential: Potential,
    pairs: Pairs,
    path: Path,
    rule: BasinRule,
    reference: Potential | None,
    settings: MapSettings,
) -> Measurement:
    """Count minima around the starts: on the reference, else from pairs of one parent, else on the potential itself."""
    if reference is None:
        rows = valleys_of_parents(pairs, settings.threshold)
        if rows:
            how = f"reference minima of the starts of each parent that has several ({len(rows)} in all)"
            return measure_valleys(rows, how, seed=settings.seed)
    around: list[ValleyRow] = []
    members = settings.valley_copies + 1
    surface = potential if reference is None else in_double(reference)
    for places in in_chunks(pairs.starts, max(1, settings.max_atoms // members)):
        starts = pairs.starts.select(places)
        copies = perturbed(
            starts, settings.valley_deviation, members, seed=settings.seed, purpose="regime valleys", first_as_is=True
        )
        if isinstance(rule, Quench):
            ends = rule.quench(surface, copies)
        else:
            ends = path.run(potential, copies.to(*home(potential, copies)), skip=path.steps)
        around += valleys_of(ends, members, settings.threshold)
    where = "on the reference" if reference is not None else "by the potential itself, whose landscape this then is"
    how = (
        f"minima reached from each start and {settings.valley_copies} copies of it moved by "
        f"{settings.valley_deviation} Å, relaxed {where}"
    )
    return measure_valleys(around, how, seed=settings.seed)
