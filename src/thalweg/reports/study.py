"""Reading the results of a study, and saying them: verdicts first, each one plain sentence; then rows for tables.

The fields of results.json are described in docs/study.md; what is not measured is a dash. Reads the folder only.
Called by the page of a study and the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from thalweg.errors import RunFolderError
from thalweg.reports import formats, run
from thalweg.reports.run import Count, DialPoint, Number, Share, parsed, read_json
from thalweg.reports.sentences import route_in_words

REFERENCE = "reference"
"""Name of the row that no arm is."""

_SURFACE = "reference."
_SIZES = ("errors.frames", "errors.atoms")


class SeedMean(run.Record):
    """A mean over seeds."""

    mean: float
    interval: tuple[float, float] | None = None


class Judged(run.Record):
    """A claim and what became of it."""

    id: str
    says: str
    verdict: Literal["holds", "fails", "tie", "open"]
    sentence: str


class StudyArm(run.Arm):
    """An arm over all seeds: counts are sums, ΔQ and time means, bytes the largest."""

    matching: dict[str, Any] | None = None
    tune: dict[str, Any] = Field(default_factory=dict)
    seeds: int = 0
    held_out: Count = None
    basins_right_mean: Number = None
    basins_right_se: Number = None
    basins_right_by_seed: dict[str, int] = Field(default_factory=dict)
    basins_difference: SeedMean | None = None
    dq_difference: Number = None
    dq_difference_interval: tuple[float, float] | None = None
    mcnemar_p_pooled: Share | None = None
    extra_labels: Count = None
    cost: dict[str, Number] | None = None


class Failed(run.Record):
    """A run that failed."""

    arm: str
    seed: int
    reason: str


class Complete(run.Record):
    """How much of a study there is."""

    finished: int
    total: int
    failed: tuple[Failed, ...] = ()


class Code(run.Record):
    """Which code registered the study."""

    version: str
    commit: str | None = None


class Registered(run.Record):
    """The registration."""

    hash: str
    date: str
    code: Code


class Probed(run.Record):
    """Memory and time of one gradient by every route."""

    structures: int
    points: tuple[DialPoint, ...]
    left_out: tuple[str, ...] = ()


class StudyResults(run.Results):
    """The contents of results.json of a study."""

    question: str = ""
    registration: Registered
    codes: tuple[str, ...] = ()
    complete: Complete
    tie_rule: str
    hypotheses: tuple[Judged, ...] = ()
    kill: tuple[Judged, ...] = ()
    arms: tuple[StudyArm, ...]
    probe: Probed | None = None
    same_start: bool = True
    anew: bool = False


def read_study(folder: str | Path) -> StudyResults:
    """Read results.json of a study.

    Raises:
        RunFolderError: it is missing or cannot be understood.
    """
    path = Path(folder) / "results.json"
    content = read_json(path)
    if content is None:
        raise RunFolderError(f"{folder} has no results.json: make it with thalweg study report {folder}")
    return parsed(StudyResults, content, path)


def verdict_sentences(results: StudyResults) -> list[str]:
    """Return how much there is, then the verdict on each hypothesis and each kill condition."""
    complete = results.complete
    lines = []
    if complete.finished < complete.total:
        lines.append(f"{complete.finished} of {complete.total} runs are there; what needs the others is open.")
    ruled = {"holds": "holds", "fails": "fails", "tie": "is a tie", "open": "is open"}
    killed = {"holds": "is met", "fails": "is not met", "tie": "is not met: a tie", "open": "is open"}
    lines += [
        f"{claim.id} {ruled[claim.verdict]}: {_stopped(claim.says)} {claim.sentence}" for claim in results.hypotheses
    ]
    lines += [
        f"Kill condition {claim.id} {killed[claim.verdict]}: {_stopped(claim.says)} {claim.sentence}"
        for claim in results.kill
    ]
    if not results.hypotheses and not results.kill:
        lines.append("The protocol names no hypothesis and no kill condition, so there is no verdict.")
    return lines


def notes(results: StudyResults) -> list[str]:
    """Return the rule of ties and what else bounds the verdicts."""
    claims = len(results.hypotheses) + len(results.kill)
    told = [
        results.tie_rule,
        f"{claims} claims were registered on {results.registration.date} as {results.registration.hash}, before "
        "anything was run; each is judged at its own 5 %, nothing corrects for their number.",
        "A tie is no proof that two arms are alike: the interval says which difference stays possible.",
        "Every seed has frames, pairs and held-out structures of its own, so intervals over seeds hold that chance too."
        if results.anew
        else "Held-out structures are the same for all seeds, so a Wilson interval is that of so many structures.",
        "Unconverged relaxations count as not right and stay in every denominator.",
    ]
    told += [f"{fault.arm} of seed {fault.seed} failed: {fault.reason}." for fault in results.complete.failed]
    if not results.same_start:
        told.append(
            "Within a seed not all arms began from the same bits of base and data: part of them was made again "
            "elsewhere, where rounding differs."
        )
    if len(results.codes) > 1:
        told.append(f"The records come from more than one state of the code: {', '.join(results.codes)}.")
    return told


def columns(results: StudyResults) -> list[tuple[str, str]]:
    """Return heading and unit of each column of the table of arms."""
    return [
        ("arm", ""),
        ("right", "mean ± s.e."),
        ("of", "structures"),
        ("interval", "95 %, Wilson"),
        ("over base", "95 %, seeds"),
        ("p", "structures"),
        ("ΔQ mean", "amu^½ Å"),
        ("ΔQ median", "amu^½ Å"),
        ("ΔQ over base", "95 %, structures"),
        ("unconverged", ""),
        ("saved", "MB"),
        ("peak", "MB"),
        ("time", "s"),
        ("extra labels", ""),
        ("seeds", ""),
    ]


def _stopped(says: str) -> str:
    """Return a claim's words with one full stop."""
    return says.rstrip(". ") + "."


def rows(results: StudyResults) -> list[tuple[str, ...]]:
    """Return the cells of the table of arms as text, in the order of `columns`."""
    return [_row(arm) for arm in results.arms]


def cost_rows(results: StudyResults) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return the figures of the cost of tuning, and those of each arm and of the reference surface."""
    costs = {arm.name: arm.cost or {} for arm in results.arms}
    every = [name for cost in costs.values() for name, value in cost.items() if value is not None]
    names = [n for n in dict.fromkeys(every) if not n.startswith(_SURFACE) and n not in _SIZES]
    cells = [(arm, *(formats.figure(cost.get(name)) for name in names)) for arm, cost in costs.items()]
    surface = next((cost for cost in costs.values() if any(n.startswith(_SURFACE) for n in cost)), None)
    if names and surface is not None:
        same = [surface.get(name.replace("crystal.", _SURFACE)) if "crystal." in name else None for name in names]
        cells.append((REFERENCE, *map(formats.figure, same)))
    return [name.partition(".")[2].replace("_", " ") or name for name in names], cells


def _row(arm: StudyArm) -> tuple[str, ...]:
    beside = None if arm.basins_difference is None else arm.basins_difference
    return (
        arm.name,
        _plus_minus(arm.basins_right_mean, arm.basins_right_se),
        formats.MISSING if arm.held_out is None else str(arm.held_out),
        formats.MISSING
        if arm.basins_interval is None
        else f"{formats.percent(arm.basins_interval[0])}–{formats.percent(arm.basins_interval[1])} %",
        formats.MISSING if beside is None else _between(beside.mean, beside.interval, 1),
        formats.probability(arm.mcnemar_p),
        formats.number(arm.dq_mean),
        formats.number(arm.dq_median),
        _between(arm.dq_difference, arm.dq_difference_interval, 2),
        formats.fraction(arm.unconverged, arm.relaxed),
        formats.megabytes(arm.saved_bytes),
        formats.megabytes(arm.peak_bytes),
        formats.seconds(arm.seconds),
        formats.MISSING if not arm.extra_labels else f"{arm.extra_labels:,}",
        str(arm.seeds),
    )


def _plus_minus(mean: float | None, error: float | None) -> str:
    told = formats.number(mean, 1)
    return told if error is None else f"{told} ± {formats.number(error, 1)}"


def _between(mean: float | None, interval: tuple[float, float] | None, digits: int) -> str:
    if mean is None:
        return formats.MISSING
    told = f"{mean:+.{digits}f}"
    return told if interval is None else f"{told} ({interval[0]:+.{digits}f} to {interval[1]:+.{digits}f})"


def sweep_rows(results: StudyResults) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return thresholds and, for each arm, right structures per seed at each of them."""
    thresholds = sorted({t for arm in results.arms for t in arm.basins_by_threshold or {}}, key=float)
    cells = []
    for arm in results.arms:
        counts = [(arm.basins_by_threshold or {}).get(t) for t in thresholds]
        per_seed = [None if count is None or not arm.seeds else count / arm.seeds for count in counts]
        cells.append((arm.name, *(formats.number(value, 1) for value in per_seed)))
    return [f"{t} Å" for t in thresholds], cells


def seed_rows(results: StudyResults) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return seeds and, for each arm, right structures in each of them."""
    seeds = sorted({seed for arm in results.arms for seed in arm.basins_right_by_seed}, key=int)
    cells = []
    for arm in results.arms:
        counts = [arm.basins_right_by_seed.get(seed) for seed in seeds]
        cells.append((arm.name, *(formats.MISSING if count is None else str(count) for count in counts)))
    return [f"seed {seed}" for seed in seeds], cells


def what_arms_are(results: StudyResults) -> list[tuple[str, ...]]:
    """Return for each arm what it differentiates or fits, and what it is told otherwise than the others."""
    told: list[tuple[str, ...]] = []
    for arm in results.arms:
        way = route_in_words(arm.route)
        if arm.matching is not None:
            labels = {"ends": "the ends of the training pairs", "path": "the reference paths of the training pairs"}
            source = labels.get(str(arm.matching.get("labels")), str(arm.matching.get("labels")))
            way = f"fitted on, {arm.matching.get('updates')} updates, with labels of {source}"
        own = ", ".join(f"{key} {value}" for key, value in _flat(arm.tune).items()) or "nothing"
        told.append((arm.name, way, own))
    return told


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def study_lines(results: StudyResults) -> list[str]:
    """Return the verdicts and a short table, for a console."""
    chosen = (0, 1, 2, 4, 5, 9, 10, 12)
    heads = [heading for heading, _ in columns(results)]
    table = [heads, *rows(results)]
    cells = [[row[k] for k in chosen] for row in table]
    widths = [max(len(row[k]) for row in cells) for k in range(len(chosen))]
    lines = []
    for name, *others in cells:
        right = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *right]))
    return [*verdict_sentences(results), "", *lines]
