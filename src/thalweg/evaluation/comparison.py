"""Two evaluations on the same pairs, structure by structure: what tuning gained over the base it began from.

A mean alone hides that some structures got better and others worse, so both are counted. The p value is
McNemar's exact one on right and wrong basins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from thalweg.errors import SettingsError
from thalweg.evaluation.pair_result import PairResult
from thalweg.evaluation.statistics import bootstrap_difference, mcnemar


@dataclass(frozen=True)
class Improvement:
    """A potential beside a base on the same pairs; improvement is ΔQ of the base less ΔQ of the potential."""

    share_improved: float
    """Share of all pairs whose ΔQ fell; a missing ΔQ is worse than any number."""
    share_worsened: float
    """Share of all pairs whose ΔQ rose."""
    dq_pairs: int
    """Pairs with a ΔQ in both; the next three are over these."""
    dq_improvement_median: float | None
    """Median improvement, amu^½ Å."""
    dq_improvement_mean: float | None
    """Mean improvement, amu^½ Å."""
    dq_improvement_interval: tuple[float, float] | None
    """Bootstrap 95 % interval of the mean improvement; None for fewer than two pairs."""
    basins_base: int
    """Right basins of the base."""
    basins_gained: int
    """Pairs right here and not in the base."""
    basins_lost: int
    """Pairs right in the base and not here."""
    mcnemar_p: float
    """Two-sided exact p value of both being right equally often."""

    def record(self) -> dict[str, Any]:
        """Return every field as JSON types."""
        interval = self.dq_improvement_interval
        return {**asdict(self), "dq_improvement_interval": None if interval is None else list(interval)}

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Improvement:
        """Read back what `record` gave; a missing key raises KeyError."""
        plain = {field.name: record[field.name] for field in fields(Improvement)}
        interval = plain["dq_improvement_interval"]
        return Improvement(**{**plain, "dq_improvement_interval": None if interval is None else tuple(interval)})


def improvement(now: Sequence[PairResult], base: Sequence[PairResult], *, seed: int = 0) -> Improvement:
    """Compare results with those of a base on the same pairs, matched by id.

    Args:
        now: what is judged; at least one.
        base: what it is judged against.
        seed: root of the stream of the bootstrap.

    Raises:
        SettingsError: the pairs differ.
    """
    check_same_pairs([pair.id for pair in now], [pair.id for pair in base])
    of_base = {pair.id: pair for pair in base}
    beside = [(of_base[pair.id], pair) for pair in now]
    both = [(b.dq, a.dq) for b, a in beside if b.dq is not None and a.dq is not None]
    gains = [b - a for b, a in both]
    spread = None
    if len(both) > 1:
        spread = bootstrap_difference([b for b, _ in both], [a for _, a in both], seed=seed)
    counts = mcnemar([a.right for _, a in beside], [b.right for b, _ in beside])
    return Improvement(
        share_improved=sum(_less(a.dq, b.dq) for b, a in beside) / len(now),
        share_worsened=sum(_less(b.dq, a.dq) for b, a in beside) / len(now),
        dq_pairs=len(gains),
        dq_improvement_median=float(np.median(gains)) if gains else None,
        dq_improvement_mean=float(np.mean(gains)) if gains else None,
        dq_improvement_interval=None if spread is None else spread.interval,
        basins_base=counts.both + counts.second_only,
        basins_gained=counts.first_only,
        basins_lost=counts.second_only,
        mcnemar_p=counts.p,
    )


def check_same_pairs(ids: Sequence[str], base: Sequence[str]) -> None:
    """Refuse two evaluations that are not of the same pairs.

    Raises:
        SettingsError: naming a pair that only one of them has.
    """
    here, there = set(ids), set(base)
    for names, where in ((here - there, "these pairs"), (there - here, "the base's evaluation")):
        if names:
            raise SettingsError(
                f"pair {min(names)!r} is only in {where} ({len(here)} pairs here, {len(there)} in the base, "
                f"{len(here & there)} in common): evaluate the base on the same pairs"
            )


def _less(one: float | None, other: float | None) -> bool:
    """Return whether one ΔQ is below another; a missing one is above every number."""
    if one is None:
        return False
    return other is None or one < other
