"""Verdicts: does a registered claim hold, fail, or is it a tie? One rule for all, stated where results are.

Two things are drawn by chance, seeds and held-out structures, and a difference counts only if it stands out of both:

1. over seeds: the 95 % Student interval of the mean of the per-seed differences excludes zero;
2. over structures: for right or unconverged structures the exact sign-flip test (McNemar's, clustered by structure;
   `statistics.sign_flip`) has p < 0.05; for ΔQ the 95 % bootstrap interval over structures excludes zero. Memory and
   time are not per structure, so 1 stands alone.

Otherwise it is a tie, however the means compare. "Not fewer" holds with a tie too, which is no proof of equality: the
interval says what loss stays possible. A bound is met if the whole interval over seeds meets it, missed if the whole
interval misses it, and otherwise a tie; it is about these held-out structures. Seeds are Student's sample because a
seed draws a base, the order of batches, and all that follows; the arms of a seed share its base, so differences are
taken within seeds. Each claim is judged at its own 5 %: nothing corrects for their number, which is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from thalweg.evaluation.claims import BOUNDS, COMPARED, COST, METRICS, RATIOS, Claim
from thalweg.evaluation.result import Evaluation
from thalweg.evaluation.statistics import SeedMean, bootstrap_difference, mcnemar, mean_over_seeds, sign_flip
from thalweg.relaxation.outcome import Outcome
from thalweg.training.run_folder import flat

LEVEL = 0.05
"""p below which the test over structures counts."""

PER_STRUCTURE = ("basins_right", "unconverged")
"""Metrics that count structures."""

_EXACT = ("saved_bytes",)  # counted, not timed: one seed is enough


class Ruling(StrEnum):
    """What became of a claim."""

    HOLDS = "holds"
    FAILS = "fails"
    TIE = "tie"
    OPEN = "open"
    """Not all that it needs was measured."""


@dataclass(frozen=True)
class Measured:
    """An arm of one seed."""

    evaluation: Evaluation
    """Its held-out relaxations."""
    figures: Mapping[str, float | None]
    """Memory, time and `cost.` figures by metric."""

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Measured:
        """Read a record of a study."""
        training = record["training"] or {}
        figures = {name: training.get(name) for name in ("saved_bytes", "peak_bytes", "seconds")}
        figures |= {COST + name: value for name, value in cost_figures(record["cost"]).items()}
        return Measured(Evaluation.from_record(record["evaluation"]), figures)

    def value(self, metric: str) -> float | None:
        """Return a figure of the arm, None where it was not measured."""
        if metric in PER_STRUCTURE:
            return float(sum(self.marks(metric).values()))
        return self.evaluation.dq_mean if metric == "dq_mean" else self.figures.get(metric)

    def marks(self, metric: str) -> dict[str, bool]:
        """Return for each structure whether it is right, or unconverged."""
        if metric == "basins_right":
            return {pair.id: pair.right for pair in self.evaluation.pairs}
        return {pair.id: pair.outcome != Outcome.CONVERGED.label for pair in self.evaluation.pairs}


def cost_figures(cost: Mapping[str, Any] | None) -> dict[str, float | None]:
    """Return the numbers of a cost of tuning, at any depth, by dotted name; nothing where it was not measured."""
    found = flat(cost or {})
    return {name: value for name, value in found.items() if value is None or (isinstance(value, int | float) and name)}


Arms = Mapping[str, Mapping[int, Measured]]
"""What was measured, by arm and seed."""


@dataclass(frozen=True)
class Difference:
    """One arm beside another, over seeds and structures."""

    over_seeds: SeedMean
    """Of the per-seed differences, first less second."""
    p: float | None = None
    """Of the sign-flip test over structures; None where the metric does not count structures."""
    p_pooled: float | None = None
    """Of McNemar's test over all (structure, seed): for information, it is too sure."""
    over_structures: tuple[float, float] | None = None
    """Bootstrap interval over structures, for ΔQ."""

    @property
    def sign(self) -> int:
        """1 or −1 where the difference stands out of both kinds of chance, else 0: a tie."""
        interval, mean = self.over_seeds.interval, self.over_seeds.mean
        if interval is None or interval[0] <= 0 <= interval[1]:
            return 0
        if self.p is not None and self.p >= LEVEL:
            return 0
        if self.over_structures is not None and self.over_structures[0] <= 0 <= self.over_structures[1]:
            return 0
        return 1 if mean > 0 else -1


@dataclass(frozen=True)
class Judgement:
    """A claim and what became of it."""

    claim: Claim
    ruling: Ruling
    sentence: str
    """Why, in one plain sentence."""
    difference: Difference | None = None
    """Where two arms were compared."""

    def record(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        found = None if self.difference is None else asdict(self.difference)
        told = {**self.claim.model_dump(mode="json"), "verdict": self.ruling.value, "sentence": self.sentence}
        return {**told, "difference": found}


def judge(claim: Claim, arms: Arms, seeds: Sequence[int]) -> Judgement:
    """Judge a claim.

    Args:
        claim: what was registered.
        arms: what was measured so far.
        seeds: all that the protocol has; the claim is open until each was measured for each of its arms.

    Raises:
        SettingsError: two arms were not evaluated on the same structures.
    """
    missing = [f"{name} of seed {seed}" for name in claim.arms for seed in seeds if seed not in arms.get(name, {})]
    if missing:
        total = len(claim.arms) * len(seeds)
        return Judgement(
            claim, Ruling.OPEN, f"{total - len(missing)} of {total} runs are there; {missing[0]} is missing."
        )
    for name in claim.arms:
        if any(arms[name][seed].value(claim.metric) is None for seed in seeds):
            return Judgement(claim, Ruling.OPEN, f"{claim.metric} was not measured for {name}.")
    if len(seeds) < 2 and claim.metric not in _EXACT:
        return Judgement(
            claim, Ruling.OPEN, "One seed says nothing about the spread over seeds: two or more are needed."
        )
    return _compared(claim, arms, seeds) if claim.wanted in COMPARED else _bounded(claim, arms, seeds)


def compare(first: Mapping[int, Measured], second: Mapping[int, Measured], metric: str) -> Difference | None:
    """Compare two arms on the seeds that both have, first less second; None where nothing can be compared.

    Raises:
        SettingsError: the two were not evaluated on the same structures by the same rule.
    """
    seeds = [seed for seed in first if seed in second]
    couples = [(first[seed].value(metric), second[seed].value(metric)) for seed in seeds]
    found = [a - b for a, b in couples if a is not None and b is not None]
    if not found or len(found) < len(seeds):
        return None
    for seed in seeds:
        one, other = first[seed].evaluation, second[seed].evaluation
        other.check_comparable(one.ids, one.rule, one.rule_settings)
    if metric == "dq_mean":
        return _compared_dq([_dq_differences(first[seed], second[seed]) for seed in seeds])
    over_seeds = _settled(mean_over_seeds(found), metric)
    if metric in PER_STRUCTURE:
        marks = [(first[seed].marks(metric), second[seed].marks(metric)) for seed in seeds]
        gained: Counter[str] = Counter()
        for a, b in marks:  # seeds that share a structure stay together; those with draws of their own share none
            for name in a:
                gained[name] += int(a[name]) - int(b[name])
        pooled = mcnemar([right for a, _ in marks for right in a.values()], [b[name] for a, b in marks for name in a])
        return Difference(over_seeds, p=sign_flip(list(gained.values())), p_pooled=pooled.p)
    return Difference(over_seeds)


def _settled(over_seeds: SeedMean, metric: str) -> SeedMean:
    """Give a single value that was counted exactly an interval without width."""
    if over_seeds.interval is None and metric in _EXACT:
        return SeedMean(over_seeds.mean, 0.0, (over_seeds.mean, over_seeds.mean), over_seeds.seeds)
    return over_seeds


def _dq_differences(first: Measured, second: Measured) -> dict[str, float]:
    """Return ΔQ of the first less that of the second, for the structures that have both."""
    there = {pair.id: pair.dq for pair in second.evaluation.pairs}
    both = [(pair.id, pair.dq, there[pair.id]) for pair in first.evaluation.pairs]
    return {name: a - b for name, a, b in both if a is not None and b is not None}


def _compared_dq(by_seed: Sequence[Mapping[str, float]]) -> Difference | None:
    """Compare over seeds and, each structure with its mean over seeds, over structures."""
    if not all(by_seed):
        return None
    over_seeds = mean_over_seeds([sum(found.values()) / len(found) for found in by_seed])
    gathered: dict[str, list[float]] = {}
    for found in by_seed:
        for name, value in found.items():
            gathered.setdefault(name, []).append(value)
    means = [sum(values) / len(values) for values in gathered.values()]
    interval = None if len(means) < 2 else bootstrap_difference(means, [0.0] * len(means), seed=0).interval
    return Difference(over_seeds, over_structures=interval)


def _compared(claim: Claim, arms: Arms, seeds: Sequence[int]) -> Judgement:
    against = claim.against or ""
    first, second = ({seed: arms[name][seed] for seed in seeds} for name in (claim.arm, against))
    found = compare(first, second, claim.metric)
    if found is None:
        return Judgement(claim, Ruling.OPEN, f"{claim.metric} was not measured in all seeds.")
    wanted = 1 if claim.wanted in ("more", "not fewer") else -1
    sign = found.sign
    if claim.wanted.startswith("not "):
        ruling = Ruling.FAILS if sign == -wanted else Ruling.HOLDS
    else:
        ruling = {wanted: Ruling.HOLDS, -wanted: Ruling.FAILS}.get(sign, Ruling.TIE)
    tie = " The difference is a tie by the rule." if sign == 0 else ""
    each = [f"{name} {_mean(arms[name], claim.metric, seeds)}" for name in claim.arms]
    return Judgement(claim, ruling, f"{_of(claim, arms)}: {each[0]}, {each[1]}; {_spread(found, claim)}.{tie}", found)


def _bounded(claim: Claim, arms: Arms, seeds: Sequence[int]) -> Judgement:
    bound = claim.value if claim.value is not None else 0.0
    values = [_known(arms[claim.arm][seed], claim.metric) for seed in seeds]
    told = f"{_of(claim, arms)}: {claim.arm} {_mean(arms[claim.arm], claim.metric, seeds)}"
    if claim.wanted in RATIOS and claim.against is not None:
        beneath = [_known(arms[claim.against][seed], claim.metric) for seed in seeds]
        if 0 in beneath:
            return Judgement(claim, Ruling.OPEN, f"{claim.against} has {claim.metric} 0, so there is no ratio.")
        values = [a / b for a, b in zip(values, beneath, strict=True)]
        told += f", {claim.against} {_mean(arms[claim.against], claim.metric, seeds)}"
        told += f"; ratio {_number(sum(values) / len(values))}"
    over_seeds = _settled(mean_over_seeds(values), claim.metric)
    low, high = over_seeds.interval or (over_seeds.mean, over_seeds.mean)
    least = claim.wanted in (BOUNDS[0], RATIOS[1])
    meets, misses = (low >= bound, high < bound) if least else (high <= bound, low > bound)
    ruling = Ruling.HOLDS if meets else Ruling.FAILS if misses else Ruling.TIE
    tie = " The bound lies inside the interval: a tie." if ruling is Ruling.TIE else ""
    return Judgement(
        claim, ruling, f"{told} (95 % over seeds {_number(low)} to {_number(high)}), bound {bound:g}.{tie}"
    )


def _known(measured: Measured, metric: str) -> float:
    value = measured.value(metric)
    return float("nan") if value is None else value


def _of(claim: Claim, arms: Arms) -> str:
    words = METRICS.get(claim.metric, claim.metric)
    if claim.metric not in PER_STRUCTURE:
        return words[:1].upper() + words[1:]
    total = next(iter(arms[claim.arm].values())).evaluation.basins_total
    return f"{words[:1].upper() + words[1:]}, of {total}"


def _mean(arm: Mapping[int, Measured], metric: str, seeds: Sequence[int]) -> str:
    found = mean_over_seeds([_known(arm[seed], metric) for seed in seeds])
    error = "" if found.standard_error is None else f" ± {_number(found.standard_error)}"
    return f"{_number(found.mean)}{error}"


def _spread(found: Difference, claim: Claim) -> str:
    told = [f"difference {found.over_seeds.mean:+.3g}"]
    if found.over_seeds.interval is not None:
        told.append("95 % over seeds {:+.3g} to {:+.3g}".format(*found.over_seeds.interval))
    if found.p is not None:
        told.append(f"p over structures {'< 0.001' if found.p < 0.001 else f'{found.p:.2g}'}")
    if found.over_structures is not None:
        told.append("95 % over structures {:+.3g} to {:+.3g}".format(*found.over_structures))
    return f"{told[0]} ({', '.join(told[1:])})" if len(told) > 1 else told[0]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
