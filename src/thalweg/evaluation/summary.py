"""What the records of a study come to: verdicts first, then a row per arm; `results.json` as the demo's, and more.

Can be made of what is there so far; what is missing is said, and claims that need it stay open. Figures of an arm
over seeds: counts are sums, so that their ratio is the mean share, with the mean per seed and its standard error
beside them; ΔQ and times are means, bytes the largest. The Wilson interval of a share takes the structures for the
draws, and structures times seeds only where each seed has structures of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from thalweg.errors import RunFolderError
from thalweg.evaluation.arms import read_record
from thalweg.evaluation.protocol import BASE, ArmPlan, Protocol
from thalweg.evaluation.registration import Registration, checked
from thalweg.evaluation.statistics import mean_over_seeds, wilson_interval
from thalweg.evaluation.study_folder import StudyFolder
from thalweg.evaluation.verdicts import LEVEL, Measured, compare, cost_figures, judge
from thalweg.storage import atomic_write
from thalweg.training.route_settings import route_values

TIE_RULE = (
    "A difference counts only if it stands out of both kinds of chance: the 95 % Student interval over seeds of the "
    "per-seed difference excludes zero, and over structures the exact sign-flip test (McNemar's, with the seeds of a "
    f"structure kept together) has p < {LEVEL}, or for ΔQ the 95 % bootstrap interval excludes zero. Otherwise it is a "
    "tie. Memory and time are judged over seeds alone. A bound is a tie where it lies inside the interval over seeds."
)
"""The rule in words, as results carry it."""

Record = dict[str, Any]


def summarise_study(path: str | Path) -> Path:
    """Write `results.json` of a study from the records there are, and return its path.

    Raises:
        SettingsError: not registered, a protocol changed since, or arms that were judged on other structures.
        RunFolderError: no record yet, or one of another registration.
        CheckpointError: a record is damaged.
        OutputError: it cannot be written.
    """
    folder = StudyFolder(Path(path))
    registration = checked(folder.path)
    records = read_records(folder, registration)
    if not any(records.values()):
        raise RunFolderError(f"{folder.path} has no records yet: make them with thalweg study run {folder.path}")
    results = _results(folder, registration, records)
    atomic_write(folder.results, json.dumps(results, indent=1, ensure_ascii=False) + "\n", overwrite=True)
    return folder.results


def read_records(folder: StudyFolder, registration: Registration) -> dict[str, dict[int, Record]]:
    """Return the records of a study by arm and seed.

    Raises:
        RunFolderError: one belongs to another registration.
        CheckpointError: one is damaged.
    """
    protocol = registration.protocol
    found: dict[str, dict[int, Record]] = {arm.name: {} for arm in protocol.arms}
    for arm in protocol.arms:
        for seed in protocol.seeds:
            record = folder.read(folder.record(seed, arm.name), registration.hash)
            if record is not None:
                found[arm.name][seed] = record
    return found


def _results(folder: StudyFolder, registration: Registration, records: Mapping[str, Mapping[int, Record]]) -> Record:
    protocol = registration.protocol
    arms = {name: {s: Measured.from_record(r) for s, r in seeds.items()} for name, seeds in records.items()}
    every = [record for seeds in records.values() for record in seeds.values()]
    settings = protocol.model_dump(mode="json", exclude={"hypotheses", "kill", "title", "question"})
    return {
        "schema": 1,
        "title": protocol.title,
        "question": protocol.question,
        "command": f"thalweg study run {folder.path.name or '.'}",
        "version": registration.code.version,
        "date": max(record["date"] for record in every),
        "machine": every[0]["machine"],
        "registration": {"hash": registration.hash, "date": registration.date, "code": asdict(registration.code)},
        "codes": sorted({_code(record) for record in every}),
        "complete": _complete(folder, registration, records),
        "tie_rule": TIE_RULE,
        "hypotheses": [judge(claim, arms, protocol.seeds).record() for claim in protocol.hypotheses],
        "kill": [judge(claim, arms, protocol.seeds).record() for claim in protocol.kill],
        "settings": dict(sorted(settings.items(), key=lambda item: item[0] != "tune")),
        "pairs": {
            "train": protocol.data.pairs,
            "held_out": every[0]["evaluation"]["basins_total"],
            "testbed": protocol.data.testbed,
            "basins_found": None,
        },
        "rule": protocol.rule,
        "seconds": sum(record["seconds"] for record in every),
        "arms": [_arm(arm, records[arm.name], arms, protocol) for arm in protocol.arms],
        "probe": folder.read(folder.probe, registration.hash),
        "same_start": _same_start(records, protocol),
        "anew": protocol.data.anew,
    }


def _code(record: Record) -> str:
    code = record["code"]
    return f"{code['version']} {code['commit'] or code['source']}"


def _complete(folder: StudyFolder, registration: Registration, records: Mapping[str, Mapping[int, Record]]) -> Record:
    """Return how many runs there are, and which failed in the last attempt."""
    protocol = registration.protocol
    failed = []
    for arm in protocol.arms:
        for seed in protocol.seeds:
            found = None if seed in records[arm.name] else read_record(folder.failure(seed, arm.name))
            if found is not None:
                failed.append({"arm": arm.name, "seed": seed, "reason": found["failed"]})
    return {
        "finished": sum(len(seeds) for seeds in records.values()),
        "total": len(protocol.arms) * len(protocol.seeds),
        "failed": failed,
    }


def _same_start(records: Mapping[str, Mapping[int, Record]], protocol: Protocol) -> bool:
    """Return whether all arms of each seed began from the same bits of base and data."""
    starts = [{(r[seed]["start"], r[seed]["data"]) for r in records.values() if seed in r} for seed in protocol.seeds]
    return all(len(found) <= 1 for found in starts)


def _arm(
    plan: ArmPlan, records: Mapping[int, Record], arms: Mapping[str, Mapping[int, Measured]], protocol: Protocol
) -> Record:
    """Return a row: what every arm of a comparison has, and what only seeds can give."""
    told: Record = {
        "name": plan.name,
        "route": None if plan.route is None else route_values(plan.route),
        "matching": None if plan.matching is None else plan.matching.model_dump(mode="json"),
        "tune": plan.tune,
        "seeds": len(records),
    }
    if not records:
        return told
    evaluations = [record["evaluation"] for record in records.values()]
    right, totals = ([e[key] for e in evaluations] for key in ("basins_right", "basins_total"))
    total = totals[0]  # of all seeds, but where each draws its own and a draw gives fewer minima than were asked for
    over_seeds = mean_over_seeds([float(count) for count in right])
    training = [record["training"] for record in records.values() if record["training"] is not None]
    told |= {
        "basins_right": sum(right),
        "basins_total": sum(totals),
        "basins_right_mean": over_seeds.mean,
        "basins_right_se": over_seeds.standard_error,
        "basins_right_by_seed": {str(seed): count for seed, count in zip(records, right, strict=True)},
        "held_out": total,
        "basins_interval": list(
            wilson_interval(sum(right), sum(totals)) if protocol.data.anew else wilson_interval(over_seeds.mean, total)
        ),
        "basins_by_threshold": _added([e["basins_by_threshold"] for e in evaluations]),
        "outcomes": _added([e["outcomes"] for e in evaluations]),
        "wrong_same_energy": _mean([e["wrong_same_energy"] for e in evaluations]),
        **_displacements(evaluations, anew=protocol.data.anew),
        "updates": training[0]["updates"] if training else None,
        "skipped_updates": sum(t["skipped_updates"] for t in training) if training else None,
        "saved_bytes": _largest([t.get("saved_bytes") for t in training]),
        "peak_bytes": _largest([t.get("peak_bytes") for t in training]),
        "seconds": _mean([t["seconds"] for t in training]),
        "extra_labels": next(iter(records.values()))["extra_labels"],
        "cost": _costs([record["cost"] for record in records.values()]),
        "certificates": _certificates([record["certificates"] for record in records.values()]),
    }
    return told | (_beside_base(plan.name, arms) if plan.name != BASE else {})


def _displacements(evaluations: Sequence[Record], *, anew: bool) -> Record:
    """Return ΔQ of each structure, a mean over the seeds that share it, and summaries; None where a seed has none."""
    by_pair = [[pair["dq"] for pair in evaluation["pairs"]] for evaluation in evaluations]
    return {
        "dq_mean": _mean([e["dq_mean"] for e in evaluations]),
        "dq_median": _mean([e["dq_median"] for e in evaluations]),
        "dq_missing": sum(e["dq_missing"] for e in evaluations),
        "dq": list(chain(*by_pair)) if anew else [_mean(list(values)) for values in zip(*by_pair, strict=True)],
    }


def _beside_base(name: str, arms: Mapping[str, Mapping[int, Measured]]) -> Record:
    """Return what tuning gained over the base of the same seed."""
    base = arms.get(BASE, {})
    here = {seed: found for seed, found in arms[name].items() if seed in base}
    if not here:
        return {}
    gains = [found.evaluation.improvement_over(base[seed].evaluation) for seed, found in here.items()]
    basins, dq = compare(here, base, "basins_right"), compare(here, base, "dq_mean")
    return {
        "improved_share": sum(gain.share_improved for gain in gains) / len(gains),
        "mcnemar_p": None if basins is None else basins.p,
        "mcnemar_p_pooled": None if basins is None else basins.p_pooled,
        "basins_difference": None if basins is None else asdict(basins.over_seeds),
        "dq_difference": None if dq is None else dq.over_seeds.mean,
        "dq_difference_interval": None if dq is None or dq.over_structures is None else list(dq.over_structures),
    }


def _added(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for found in counts:
        total.update(found)
    return dict(total)


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean, None where any is missing: an average over fewer would not be the same quantity."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found and len(found) == len(values) else None


def _largest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _costs(costs: Sequence[Mapping[str, Any] | None]) -> dict[str, float | None] | None:
    """Return the mean over seeds of each figure; None where a seed has none."""
    found = [cost_figures(cost) for cost in costs if cost is not None]
    if not found or len(found) < len(costs):
        return None
    return {key: _mean([cost.get(key) for cost in found]) for key in found[0]}


def _certificates(totals: Sequence[Mapping[str, Any] | None]) -> Record | None:
    found = [total for total in totals if total is not None]
    if not found:
        return None
    curvatures = [t["lowest_curvature"] for t in found if t["lowest_curvature"] is not None]
    return {
        "took_part": sum(t["took_part"] for t in found),
        "total": sum(t["total"] for t in found),
        "worst_residual": _largest([t["worst_residual"] for t in found]),
        "lowest_curvature": min(curvatures, default=None),
        "reasons": _added([t["reasons"] for t in found]),
    }
