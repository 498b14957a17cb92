"""The sentences of a report, written from the numbers: what was asked, the verdict, what the result cannot say.

The verdict compares counts of right basins on the same held-out pairs. It says when two intervals overlap,
when an arm did worse than the base, and what a paired test found; where a number is missing it says so. All
text is plain: whoever puts it into a page escapes it.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

from thalweg.reports import formats
from thalweg.reports.run import Arm, Results

BASE = "base"
"""Name of the arm that is the shared potential without tuning."""

SIGNIFICANT = 0.05
"""p-value below which the paired test counts as evidence."""

_RULES = {
    "quench": "both final structures, relaxed tightly on the reference surface, coincide",
    "distance": "its largest matched displacement from the reference minimum is below the threshold",
}

_SETTINGS = {
    "seed": "seed {}",
    "batch": "batches of {}",
    "batch_size": "batches of {}",
    "learning_rate": "learning rate {}",
    "alpha": "step size α = {} Å²/eV",
    "steps": "{} updates of the relaxation",
    "fmax": "relaxed to fmax {} eV/Å",
    "max_steps": "at most {} steps of the finish",
}
"""Settings worth a word in the opening paragraph, by the last part of their name."""


def asked(results: Results) -> str:
    """Return in plain words what the run compared, on what and by which rule."""
    pairs, tuned = results.pairs, [arm for arm in results.arms if arm.route is not None]
    where = f"the {pairs.testbed} testbed" if pairs.testbed else "a testbed without a name"
    parts = [
        f"Pairs of a start and its reference minimum came from {where}: "
        f"{_count(pairs.train, 'pair')} for tuning, {_count(pairs.held_out, 'pair')} held out."
    ]
    if pairs.basins_found is not None:
        parts.append(f"The minima fall into {_count(pairs.basins_found, 'distinct basin')}.")
    if tuned:
        alike = len({arm.updates for arm in tuned}) == 1
        each = f", {_count(tuned[0].updates, 'training update')} each" if alike else ""
        parts.append(
            f"One base potential was tuned through relaxation in {_count(len(tuned), 'arm')}{each}: "
            f"{'; '.join(_describe(arm, with_updates=not alike) for arm in tuned)}."
        )
    if results.rule is not None:
        meaning = f": {_RULES[results.rule]}" if results.rule in _RULES else ""
        parts.append(f"A held-out start ends in the right basin by the rule “{results.rule}”{meaning}.")
    chosen = _chosen(results.settings)
    if chosen:
        parts.append(f"Settings: {', '.join(chosen)}.")
    return " ".join(parts)


def route_in_words(route: dict[str, Any] | None) -> str:
    """Return what a route differentiates, in a few words."""
    if route is None:
        return "not tuned"
    kind, horizon = route.get("kind"), route.get("horizon")
    kept = {"True": ", recomputed in backward", "False": ", all activations stored"}.get(
        str(route.get("recompute")), ""
    )
    if route.get("states") is not None:
        kept += f" from {route['states']} states"
    if kind == "implicit":
        return "the implicit gradient at the minimum"
    if kind == "unrolled":
        return ("every update differentiated" if horizon is None else f"the first {horizon} updates alone") + kept
    if kind == "split":
        return f"the first {horizon} updates{kept}, then the implicit gradient at the minimum"
    if kind == "phantom":
        return f"{route.get('updates')} updates differentiated at the minimum{kept}"
    return f"route {kind}"


def verdict(results: Results) -> list[str]:
    """Return the verdict, the main sentence first."""
    counted = [arm for arm in results.arms if arm.share is not None]
    base = next((arm for arm in counted if arm.name == BASE), None)
    tuned = sorted((arm for arm in counted if arm.name != BASE), key=_share, reverse=True)
    if not tuned:
        return ["Right basins were not measured for any tuned arm, so there is no verdict."]
    best = tuned[0]
    sentences = [_main(best, base)]
    if base is not None:
        sentences += _against_base(best, base)
        sentences += [_worse(arm, base) for arm in tuned if _share(arm) < _share(base)]
        level = [arm.name for arm in tuned[1:] if _share(arm) == _share(base)]
        if level:
            sentences.append(f"No better and no worse than the base: {', '.join(level)}.")
    sentences += [_open_order(best, arm) for arm in tuned[1:2]]
    sentences += _memory(best, tuned)
    if len({arm.basins_total for arm in counted}) > 1:
        sentences.append("The arms were not evaluated on the same number of structures: compare shares with care.")
    missing = [arm.name for arm in results.arms if arm.share is None]
    if missing:
        sentences.append(f"Right basins were not measured for {', '.join(missing)}.")
    return sentences


def paired_tests(results: Results) -> str | None:
    """Return the p-values of the paired tests against the base, None if there are none."""
    tested = [arm for arm in results.arms if arm.mcnemar_p is not None]
    if not tested:
        return None
    values = ", ".join(f"{arm.name} {formats.probability(arm.mcnemar_p)}" for arm in tested)
    several = ", not corrected for their number" if len(tested) > 1 else ""
    return f"McNemar test of right basins against the base, p{several}: {values}."


def limits(results: Results) -> list[str]:
    """Return what the result cannot say, with the numbers that bound it."""
    held_out = results.pairs.held_out
    found = [
        "The result holds for this testbed, this base potential, this update of the relaxation and this step size; "
        "a basin is defined for all of them together.",
        "The comparison is fair only if no arm's settings were searched more than another's; the run does not tell.",
        "The intervals cover the choice of held-out pairs, not the choice of seed: another training run of the same "
        "arm can change the order of arms whose intervals overlap.",
        "Unconverged relaxations count as not right and stay in every denominator.",
        "Saved is what backward keeps alive, counted exactly; peak is that of the device or the process and, on a CPU, "
        "includes everything else the process holds.",
    ]
    if held_out is not None and held_out < 100:
        found.insert(2, f"{held_out} held-out pairs leave a share uncertain by up to ±{_resolution(held_out)} points.")
    return found


def _resolution(pairs: int) -> int:
    """Return half the width of the 95 % interval of a share of one half, in points of percent."""
    return round(98 / sqrt(max(pairs, 1)))  # 100 · 1.96 · sqrt(1/4 n)


def _count(value: int | None, noun: str) -> str:
    if value is None:
        return f"an unrecorded number of {noun}s"
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def _describe(arm: Arm, *, with_updates: bool) -> str:
    made = f", {_count(arm.updates, 'training update')}" if with_updates else ""
    return f"{arm.name} ({route_in_words(arm.route)}{made})"


def _chosen(settings: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in settings.items():
        if isinstance(value, dict):
            found += [text for text in _chosen(value, f"{key}.") if text not in found]
        elif key in _SETTINGS and isinstance(value, int | float | str) and not isinstance(value, bool):
            found.append(_SETTINGS[key].format(value))
    return list(dict.fromkeys(found))


def _share(arm: Arm) -> float:
    return arm.share if arm.share is not None else -1.0


def _score(arm: Arm) -> str:
    share = formats.percent(_share(arm))
    interval = arm.basins_interval
    between = "" if interval is None else f", interval {formats.percent(interval[0])}–{formats.percent(interval[1])} %"
    return f"{arm.basins_right} of {arm.basins_total} ({share} %{between})"


def _overlap(a: Arm, b: Arm) -> bool | None:
    if a.basins_interval is None or b.basins_interval is None:
        return None
    return a.basins_interval[0] <= b.basins_interval[1] and b.basins_interval[0] <= a.basins_interval[1]


def _main(best: Arm, base: Arm | None) -> str:
    reached = f"{best.name} put {_score(best)} held-out starts into the right basin"
    if base is None:
        return f"{reached}. There is no base to compare with."
    if _share(best) > _share(base):
        return f"{reached}; the base, untuned, {_score(base)}."
    word = "as many as" if _share(best) == _share(base) else "fewer than"
    return (
        f"Tuning did not pay here: the best tuned arm, {best.name}, put {_score(best)} held-out starts into the right "
        f"basin, {word} the untuned base with {_score(base)}."
    )


def _against_base(best: Arm, base: Arm) -> list[str]:
    if _share(best) <= _share(base):
        return []
    overlap = _overlap(best, base)
    intervals = {
        True: "The two intervals overlap.",
        False: "The two intervals do not overlap.",
        None: "An interval is missing, so it is open how far chance reaches.",
    }[overlap]
    p = best.mcnemar_p
    if p is None:
        open_question = " The difference may be chance: no paired test was made." if overlap else ""
        return [intervals + open_question]
    strong = "is unlikely to be chance" if p < SIGNIFICANT else "may be chance"
    sign = "" if p < 0.001 else "= "
    return [f"{intervals} On the same starts the difference {strong} (McNemar, p {sign}{formats.probability(p)})."]


def _worse(arm: Arm, base: Arm) -> str:
    return (
        f"{arm.name} did worse than the base: {arm.basins_right} of {arm.basins_total} right, not {base.basins_right}."
    )


def _open_order(best: Arm, second: Arm) -> str:
    if _share(best) == _share(second):
        return f"{best.name} and {second.name} are level."
    told = f"The next best arm is {second.name} with {second.basins_right} of {second.basins_total}"
    overlap = _overlap(best, second)
    if overlap is None:
        return f"{told}; without both intervals their order is open."
    return f"{told}; their intervals {'overlap, so their order is open' if overlap else 'do not overlap'}."


def _memory(best: Arm, tuned: list[Arm]) -> list[str]:
    measured = [arm for arm in tuned if arm.saved_bytes]
    largest = max(measured, key=lambda arm: arm.saved_bytes or 0.0, default=None)
    if not best.saved_bytes or largest is None or largest.saved_bytes is None:
        return []
    own = f"{best.name} kept {formats.megabytes(best.saved_bytes)} MB for backward"
    if largest is best:
        return [f"{own}, the most of all arms."] if len(measured) > 1 else [f"{own}."]
    ratio = largest.saved_bytes / best.saved_bytes
    return [f"{own}, {largest.name} {formats.megabytes(largest.saved_bytes)} MB ({ratio:.1f} times as much)."]
