"""`Evaluation`: what a potential made of a set of pairs, a record each and all summaries of them.

Only the records are stored, so a summary cannot disagree with its pairs and an evaluation read back from a
file is the one that was written. Nothing is dropped: an unconverged pair stays in every denominator, a ΔQ
that does not exist is None (null), is counted, and stands above every number in medians and quantiles.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg.errors import SettingsError
from thalweg.evaluation.basins import THRESHOLDS, Verdict
from thalweg.evaluation.comparison import Improvement, check_same_pairs, improvement
from thalweg.evaluation.pair_result import PairResult
from thalweg.evaluation.statistics import wilson_interval
from thalweg.relaxation.outcome import Outcome

SAME_ENERGY = 0.01
"""Energies within this are the same, eV; minima of one surface that are not alike differ by more."""

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Shares at which the distribution of ΔQ is reported."""


@dataclass(frozen=True)
class Evaluation:
    """A potential on a set of pairs."""

    rule: str
    """The basin rule: 'quench', 'crystal' or 'distance'."""
    rule_settings: Mapping[str, Any]
    """Every setting of the rule, its threshold among them."""
    pairs: tuple[PairResult, ...]
    """One per pair, in the order of the pairs."""
    seconds: float
    """Wall time of the potential's relaxations."""
    seconds_judging: float
    """Wall time of the basin test and ΔQ."""
    force_calls: int
    """Structures that the potential evaluated, summed over its calls."""
    against_base: Improvement | None = None
    """The same pairs beside the base's, where a base was given."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the pairs."""
        return tuple(pair.id for pair in self.pairs)

    @property
    def right(self) -> tuple[bool, ...]:
        """Whether each pair is right."""
        return tuple(pair.right for pair in self.pairs)

    @property
    def basins_right(self) -> int:
        """Pairs in the right basin."""
        return sum(self.right)

    @property
    def basins_total(self) -> int:
        """All pairs, the unconverged and the unjudged among them."""
        return len(self.pairs)

    @property
    def basins_interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of the share of right basins: over the draw of pairs, not over seeds."""
        return wilson_interval(self.basins_right, self.basins_total)

    @property
    def basins_by_threshold(self) -> dict[str, int]:
        """Pairs in the right basin at each threshold of the sweep, keyed by the threshold in Å."""
        return {str(t): sum(p.right_at[k] for p in self.pairs) for k, t in enumerate(THRESHOLDS)}

    @property
    def verdicts(self) -> dict[str, int]:
        """How many pairs have each verdict, zeros included."""
        found = Counter(pair.verdict for pair in self.pairs)
        return {verdict.value: found[verdict.value] for verdict in Verdict}

    @property
    def wrong_same_energy(self) -> int | None:
        """Wrong pairs whose energy agrees with the minimum's within 0.01 eV on one surface.

        After a quench such an end is, as a rule, the same defect at another site or turned by a symmetry of
        the crystal: another basin, but one whose energy a user may be content with. None where no energies
        were compared.
        """
        differences = [(pair.verdict, pair.energy_difference) for pair in self.pairs]
        if all(difference is None for _, difference in differences):
            return None
        return sum(v == Verdict.WRONG and d is not None and abs(d) < SAME_ENERGY for v, d in differences)

    @property
    def outcomes(self) -> dict[str, int]:
        """How many of the potential's relaxations ended in each way, zeros included."""
        found = Counter(pair.outcome for pair in self.pairs)
        return {outcome.label: found[outcome.label] for outcome in Outcome}

    @property
    def dq(self) -> tuple[float | None, ...]:
        """ΔQ of each pair, amu^½ Å; None where it does not exist."""
        return tuple(pair.dq for pair in self.pairs)

    @property
    def dq_missing(self) -> int:
        """Pairs without a ΔQ; the mean leaves them out."""
        return sum(value is None for value in self.dq)

    @property
    def dq_mean(self) -> float | None:
        """Mean ΔQ over the pairs that have one, amu^½ Å; to be read with `dq_missing`. None if none has."""
        found = [value for value in self.dq if value is not None]
        return float(np.mean(found)) if found else None

    @property
    def dq_median(self) -> float | None:
        """Median ΔQ over all pairs, a missing one above every number; None where it falls among those."""
        return quantile_with_missing(self.dq, 0.5)

    @property
    def dq_quantiles(self) -> dict[str, float | None]:
        """Quantiles of ΔQ as the median, keyed by their share."""
        return {str(share): quantile_with_missing(self.dq, share) for share in QUANTILES}

    @property
    def steps_median(self) -> float:
        """Median number of moves over all pairs."""
        return float(np.median([pair.steps for pair in self.pairs]))

    def improvement_over(self, base: Evaluation, *, seed: int = 0) -> Improvement:
        """Compare with an evaluation of the base on the same pairs by the same rule, pair by pair.

        Args:
            base: what it is judged against; its pairs may come in another order.
            seed: root of the stream of the bootstrap.

        Raises:
            SettingsError: the pairs or the basin rules of the two differ.
        """
        base.check_comparable(self.ids, self.rule, self.rule_settings)
        return improvement(self.pairs, base.pairs, seed=seed)

    def check_comparable(self, ids: Sequence[str], rule: str, rule_settings: Mapping[str, Any]) -> None:
        """Refuse to be the base of an evaluation on other pairs or by another rule.

        Raises:
            SettingsError: naming a pair that only one of them has, or both rules.
        """
        check_same_pairs(ids, self.ids)
        if (rule, dict(rule_settings)) != (self.rule, dict(self.rule_settings)):
            raise SettingsError(
                f"basins are counted by {rule} {dict(rule_settings)} here and by {self.rule} "
                f"{dict(self.rule_settings)} in the base: evaluate both by one rule"
            )

    def record(self) -> dict[str, Any]:
        """Return summaries and pairs as JSON types; `from_record` reads it back."""
        return {
            "rule": self.rule,
            "rule_settings": dict(self.rule_settings),
            "basins_right": self.basins_right,
            "basins_total": self.basins_total,
            "basins_interval": list(self.basins_interval),
            "basins_by_threshold": self.basins_by_threshold,
            "verdicts": self.verdicts,
            "wrong_same_energy": self.wrong_same_energy,
            "outcomes": self.outcomes,
            "dq_mean": self.dq_mean,
            "dq_missing": self.dq_missing,
            "dq_median": self.dq_median,
            "dq_quantiles": self.dq_quantiles,
            "steps_median": self.steps_median,
            "seconds": self.seconds,
            "seconds_judging": self.seconds_judging,
            "force_calls": self.force_calls,
            "against_base": None if self.against_base is None else self.against_base.record(),
            "pairs": [pair.record() for pair in self.pairs],
        }

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Evaluation:
        """Read back what `record` gave.

        Raises:
            SettingsError: a key is missing.
        """
        try:
            base = record["against_base"]
            return Evaluation(
                rule=record["rule"],
                rule_settings=dict(record["rule_settings"]),
                pairs=tuple(PairResult.from_record(values) for values in record["pairs"]),
                seconds=record["seconds"],
                seconds_judging=record["seconds_judging"],
                force_calls=record["force_calls"],
                against_base=None if base is None else Improvement.from_record(base),
            )
        except KeyError as error:
            raise SettingsError(
                f"the record of an evaluation has no {error.args[0]!r}: give one that Evaluation.record() wrote"
            ) from error


def quantile_with_missing(values: Sequence[float | None], share: float) -> float | None:
    """Return a quantile (linear between neighbours) in which a missing value stands above every number.

    Args:
        values: numbers, or None where there is none.
        share: of the values below it, 0 to 1.

    Returns:
        The quantile, or None where it depends on a missing value or there are no values.
    """
    found = sorted(value for value in values if value is not None)
    if not values:
        return None
    place = share * (len(values) - 1)
    low, high = math.floor(place), math.ceil(place)
    if high >= len(found):
        return None
    return float(found[low] + (place - low) * (found[high] - found[low]))
