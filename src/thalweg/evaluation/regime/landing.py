"""Base lands wrong: the share of starts that the potential takes into another basin than the reference did.

Every pair is in the denominator. A relaxation that did not converge, or could not be judged, may belong to either side:
the lower end of the interval counts it as not wrong and the upper end as wrong, so a potential whose relaxations fail
is not taken for one that lands right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from thalweg.evaluation.basins import Verdict
from thalweg.evaluation.regime.coordinate import Figure, Measurement
from thalweg.evaluation.regime.intervals import share_figure
from thalweg.evaluation.statistics import wilson_interval


def measure_landing(verdicts: Sequence[Verdict], same_energy: int | None, rule: str) -> Measurement:
    """Return the coordinate from the verdict on each pair.

    Args:
        verdicts: one a pair, at least one.
        same_energy: wrong ones whose quenched energy is that of the minimum; None where none were compared.
        rule: name of the basin rule.
    """
    found, total = Counter(verdicts), len(verdicts)
    beside = [share_figure("right", found[Verdict.RIGHT], total)]
    beside += [
        share_figure(verdict.value, found[verdict], total)
        for verdict in (Verdict.UNCONVERGED, Verdict.UNJUDGED)
        if found[verdict]
    ]
    if same_energy is not None:
        beside.append(share_figure("wrong, of another energy", found[Verdict.WRONG] - same_energy, total))
    mixed = "" if rule == "quench" else "; without a reference a right basin whose floor lies elsewhere counts as wrong"
    wrong, unknown = found[Verdict.WRONG], found[Verdict.UNCONVERGED] + found[Verdict.UNJUDGED]
    low, high = wilson_interval(wrong, total)[0], wilson_interval(wrong + unknown, total)[1]
    either = f"; {unknown} more that did not converge or could not be judged widen the interval" if unknown else ""
    return Measurement(
        Figure("share that lands wrong", wrong / total, (low, high), "", total),
        f"{wrong} of {total} starts end in another basin than the reference's, by the {rule} rule{mixed}{either}",
        beside=tuple(beside),
    )
