"""Base lands wrong: the share of starts that the potential takes elsewhere though the reference's choice holds.

A start whose valley the reference itself changes when the start is moved a little (`holding`) can be lost by any
potential and won by none but by chance, so only starts that hold count as something to gain. Every pair is in the
denominator. A relaxation that did not converge, or could not be judged, may belong to either side: the lower end of
the interval counts it as not wrong and the upper end as wrong, so a potential whose relaxations fail is not taken for
one that lands right. Without a reference nobody can say which starts hold, and all count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from thalweg.evaluation.basins import Verdict
from thalweg.evaluation.regime.coordinate import Figure, Measurement
from thalweg.evaluation.regime.intervals import share_figure
from thalweg.evaluation.statistics import wilson_interval

_UNKNOWN = (Verdict.UNCONVERGED, Verdict.UNJUDGED)


def measure_landing(
    verdicts: Sequence[Verdict], same_energy: int | None, rule: str, *, holds: Sequence[bool] | None
) -> Measurement:
    """Return the coordinate from the verdict on each pair.

    Args:
        verdicts: one a pair, at least one.
        same_energy: wrong ones whose quenched energy is that of the minimum; None where none were compared.
        rule: name of the basin rule.
        holds: of each pair, whether the reference keeps its minimum from moved copies; None without a reference.
    """
    found, total = Counter(verdicts), len(verdicts)
    counted = found if holds is None else Counter(v for v, held in zip(verdicts, holds, strict=True) if held)
    beside = [share_figure("right", found[Verdict.RIGHT], total)]
    beside += [share_figure(verdict.value, found[verdict], total) for verdict in _UNKNOWN if found[verdict]]
    if holds is not None:
        beside.append(share_figure("wrong, held or not", found[Verdict.WRONG], total))
        beside.append(share_figure("starts that hold", sum(holds), total))
    if same_energy is not None:
        beside.append(share_figure("wrong, of another energy", found[Verdict.WRONG] - same_energy, total))
    wrong, unknown = counted[Verdict.WRONG], sum(counted[verdict] for verdict in _UNKNOWN)
    low, high = wilson_interval(wrong, total)[0], wilson_interval(wrong + unknown, total)[1]
    name = "share that lands wrong" if holds is None else "share that lands wrong and holds"
    figure = Figure(name, wrong / total, (low, high), "", total)
    return Measurement(figure, _how(found, wrong, unknown, rule, holds), beside=tuple(beside))


def _how(found: Counter[Verdict], wrong: int, unknown: int, rule: str, holds: Sequence[bool] | None) -> str:
    missed = found[Verdict.WRONG]
    how = f"{missed} of {found.total()} starts end in another basin than the reference's, by the {rule} rule"
    if holds is not None:
        how += (
            f"; {wrong} of them hold: the reference reaches its minimum also from slightly moved copies of the start, "
            f"as it does of {sum(holds)} starts in all"
        )
    if rule != "quench" and holds is None:
        how += "; without a reference a right basin whose floor lies elsewhere counts as wrong"
    if unknown:
        how += f"; {unknown} more that did not converge or could not be judged widen the interval"
    return how
