"""From departures or decisions to a horizon: what fits the budget, which K is suggested and at what price."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from thalweg.errors import SettingsError
from thalweg.evaluation.regime.coordinate import Figure
from thalweg.gradients.planning import Costs, choose_way
from thalweg.gradients.split import Split
from thalweg.relaxation.path import Path


@dataclass(frozen=True)
class Reach:
    """How far back from the start a budget lets gradients see."""

    budget: float | None
    """MB (10⁶ bytes) for backward; None where none was given."""
    longest: int
    """Longest horizon of the split that fits in any way; the whole path without a budget, 0 where none fits."""
    longest_stored: int
    """Longest whose graphs can all be stored."""
    batch: int
    """Structures a gradient is taken of."""

    def record(self) -> dict[str, Any]:
        """Return every field as JSON types."""
        return asdict(self)

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Reach:
        """Read back what `record` gave; a missing key raises KeyError."""
        return Reach(**{field.name: record[field.name] for field in fields(Reach)})


@dataclass(frozen=True)
class Suggestion:
    """The horizon that the paths ask for, and its price."""

    horizon: int
    """K."""
    stored_bytes: int
    """Kept for backward with every graph stored."""
    recomputed_bytes: int
    """Kept with each update recomputed."""
    stored_seconds: float
    """Of one gradient of the batch, every graph stored."""
    recomputed_seconds: float
    """Of one gradient of the batch, each update recomputed."""
    plan: str | None
    """What the planner chose for the budget, in a line; None without a budget."""

    def record(self) -> dict[str, Any]:
        """Return every field as JSON types."""
        return asdict(self)

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Suggestion:
        """Read back what `record` gave; a missing key raises KeyError."""
        return Suggestion(**{field.name: record[field.name] for field in fields(Suggestion)})


def check_budget(budget: float | None) -> None:
    """Refuse a budget that is not above 0.

    Raises:
        SettingsError: naming it.
    """
    if budget is not None and not 0 < budget < math.inf:
        raise SettingsError(f"budget is {budget}: allowed are MB above 0, e.g. 2000")


def reach_of(costs: Costs, path: Path, budget: float | None, batch: int) -> Reach:
    """Return how long a horizon fits.

    Args:
        costs: of a gradient of one batch.
        path: the relaxation; no horizon is longer than its updates.
        budget: MB for backward, or None for no bound.
        batch: structures in the batch.
    """
    if budget is None:
        return Reach(None, path.steps, path.steps, batch)
    allowed = int(budget * 1e6)
    fitting = (
        k for k in range(path.steps, 0, -1) if choose_way(costs, path, Split(k), allowed, batch).fits
    )  # bytes grow with K: the first found is the longest
    longest = next(fitting, 0)
    stored = [
        k for k in range(1, longest + 1) if costs.forecast(Split(k, recompute=False), path).saved_bytes <= allowed
    ]
    return Reach(budget, longest, max(stored, default=0), batch)


def suggest(costs: Costs, path: Path, figure: Figure | None, reach: Reach) -> Suggestion | None:
    """Return the horizon that reaches the stated share of departures or decisions, with its price.

    There is none (None) where neither was measured, where the share falls at the start already (nothing to steer), and
    where it falls later than any horizon that fits.
    """
    if figure is None or not 1 <= figure.value <= reach.longest:
        return None
    horizon = int(figure.value)
    stored = costs.forecast(Split(horizon, recompute=False), path)
    again = costs.forecast(Split(horizon, recompute=True), path)
    plan = None
    if reach.budget is not None:
        plan = choose_way(costs, path, Split(horizon), int(reach.budget * 1e6), reach.batch).sentence
    return Suggestion(horizon, stored.saved_bytes, again.saved_bytes, stored.seconds, again.seconds, plan)
