"""What the walks of all pairs gave, a row a pair, and the measurements made of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from thalweg.evaluation.basins import BasinRule, Quench, Verdict, home, in_double
from thalweg.evaluation.regime.coordinate import Measurement
from thalweg.evaluation.regime.decision import OnItself, OnReference, decision_steps, measure_decision, updates_of
from thalweg.evaluation.regime.departure import InRightBasin, departure_steps, measure_departure
from thalweg.evaluation.regime.forces import ForceRow, forces_along, forces_at_starts, measure_forces
from thalweg.evaluation.regime.holding import starts_that_hold
from thalweg.evaluation.regime.landing import measure_landing
from thalweg.evaluation.regime.regime_map import Decision
from thalweg.evaluation.regime.settings import MapSettings
from thalweg.evaluation.regime.walks import Walks, in_chunks, walk
from thalweg.evaluation.result import SAME_ENERGY
from thalweg.potentials.contract import Potential
from thalweg.relaxation.path import Path
from thalweg.structures.pairs import Pairs

COARSE = (0, 5, 10, 20, 40, 75)
"""Updates looked at without a reference, where each costs ten relaxations a structure."""


@dataclass(frozen=True)
class Row:
    """What became of one pair."""

    id: str
    verdict: Verdict
    energy_difference: float
    """Of the quenched end less the quenched minimum, eV; NaN where not compared."""
    decision: float | None
    """Update; infinity where later than the last, None where the path has no final basin."""
    departure: float | None
    """Update; infinity where later than the last, None where not looked for: without a reference, or landed right."""
    holds: bool | None
    """Whether the reference keeps its minimum where the start is moved a little; None without a reference."""
    forces: ForceRow | None


@dataclass(frozen=True)
class Collected:
    """The rows of all pairs, in their order."""

    rows: tuple[Row, ...]
    rule: str
    with_reference: bool
    forces_where: str
    """At which points forces were compared, in words."""

    @staticmethod
    def of(
        potential: Potential,
        pairs: Pairs,
        path: Path,
        rule: BasinRule,
        reference: Potential | None,
        settings: MapSettings,
        say: Callable[[str], None],
    ) -> Collected:
        """Walk, compare forces, judge and look for decisions, as many atoms at a time as the settings allow."""
        rows: list[Row] = []
        for places in in_chunks(pairs.starts, settings.max_atoms):
            chunk = pairs.select(places)
            walks = walk(potential, chunk.starts.to(*home(potential, chunk.starts)), path)
            say(f"looking for the decisions of {len(chunk)} paths")
            rows += _rows(walks, chunk, rule, reference, settings)
        where = "along its own path" if reference is not None else "at the starts alone"
        return Collected(tuple(rows), rule.kind, reference is not None, where)

    def forces(self, *, seed: int) -> Measurement:
        """Return the coordinate 'forces right'."""
        return measure_forces([row.forces for row in self.rows], self.forces_where, seed=seed)

    def landing(self) -> Measurement:
        """Return the coordinate 'base lands wrong'."""
        wrong = [row.energy_difference for row in self.rows if row.verdict is Verdict.WRONG]
        same = sum(abs(difference) < SAME_ENERGY for difference in wrong) if self.with_reference else None
        holds = [bool(row.holds) for row in self.rows] if self.with_reference else None
        return measure_landing([row.verdict for row in self.rows], same, self.rule, holds=holds)

    def shortness(self, settings: MapSettings) -> Measurement:
        """Return the coordinate 'short relaxation': departures with a reference, decisions without."""
        if self.with_reference:
            left = [row for row in self.rows if row.departure is not None]
            departures = [row.departure for row in left if row.departure is not None]
            decisions = [math.inf if row.decision is None else row.decision for row in left]
            return measure_departure(departures, decisions, settings.limits.quantile)
        return self._decided_alone(settings)

    def _decided_alone(self, settings: MapSettings) -> Measurement:
        """Return the quantile of decisions: of the pairs that land wrong, of all where those are few."""
        known = [row for row in self.rows if row.decision is not None]
        wrong = [row for row in known if row.verdict is Verdict.WRONG]
        few = len(wrong) < settings.limits.fewest
        steps = [math.inf if row.decision is None else row.decision for row in (known if few else wrong)]
        whose = (
            f"all {len(known)} paths, as fewer than {settings.limits.fewest} land wrong"
            if few
            else (f"the {len(wrong)} paths that land wrong")
        )
        late = sum(math.isinf(step) for step in steps)
        lost = len(self.rows) - len(known)
        without = f"; {lost} paths have no final basin and are left out" if lost else ""
        how = f"{_by_copies(settings)}; of {whose}, {late} are decided later than the last update{without}"
        return measure_decision(steps, settings.limits.quantile_alone, how)

    def decisions(self) -> tuple[Decision, ...]:
        """Return when the valley of each pair was decided, for the record."""
        return tuple(Decision(row.id, row.decision, row.departure, row.verdict.value, row.holds) for row in self.rows)


def _by_copies(settings: MapSettings) -> str:
    return (
        f"first update of {', '.join(map(str, COARSE))} from which {100 * settings.decision_share:.0f} % of "
        f"{settings.decision_copies} copies of X_t, moved by {settings.decision_deviation} Å and relaxed by the "
        "potential itself, end where the path does"
    )


def _rows(walks: Walks, pairs: Pairs, rule: BasinRule, reference: Potential | None, settings: MapSettings) -> list[Row]:
    """Return the rows of a chunk."""
    steps = walks.path.steps
    comparison = rule.compare(walks.ends, pairs.minima, reference=reference, energy_minimum=pairs.energy_minimum)
    verdicts = comparison.verdicts(rule.threshold)
    left: dict[int, float] = {}
    holds: list[bool] | list[None] = [None] * len(pairs)
    if isinstance(rule, Quench) and reference is not None:
        grid = updates_of(steps)
        forces = forces_along(walks, in_double(reference), grid)
        asked = OnReference(walks, reference, rule, max_atoms=settings.max_atoms)
        found = decision_steps(asked.judged, grid, asked)
        wrong = [k for k, verdict in enumerate(verdicts) if verdict is Verdict.WRONG]
        inside = InRightBasin(walks, reference, pairs.minima, rule, max_atoms=settings.max_atoms)
        left = departure_steps(wrong, grid, inside)
        holds = starts_that_hold(
            reference,
            pairs,
            walks.path,
            rule,
            copies=settings.holding_copies,
            deviation=settings.holding_deviation,
            seed=settings.seed,
            max_atoms=settings.max_atoms,
        )
    else:
        forces = forces_at_starts(walks.potential, pairs)
        alone = OnItself(
            walks,
            copies=settings.decision_copies,
            share=settings.decision_share,
            deviation=settings.decision_deviation,
            threshold=settings.threshold,
            seed=settings.seed,
            max_atoms=settings.max_atoms,
        )
        found = decision_steps(alone.judged, updates_of(steps, COARSE), alone, refine=False)
    difference = comparison.energy_difference.tolist()
    return [
        Row(name, verdicts[k], difference[k], found.get(k), left.get(k), holds[k], forces[k])
        for k, name in enumerate(pairs.ids)
    ]
