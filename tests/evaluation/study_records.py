"""Arms of studies made up from lists of right and wrong, for verdicts, summaries and reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thalweg.evaluation.pair_result import PairResult
from thalweg.evaluation.result import Evaluation
from thalweg.evaluation.verdicts import Measured


def evaluation(right: Sequence[bool], dq: Sequence[float | None] | None = None) -> Evaluation:
    """An evaluation of structures 0, 1, …; None in `dq` is an exploded one."""
    values = [1.0] * len(right) if dq is None else dq
    pairs = tuple(
        PairResult(
            id=f"s{k:03d}",
            verdict="right" if good else "unconverged" if q is None else "wrong",
            outcome="exploded" if q is None else "converged",
            displacement=None if q is None else 0.0,
            energy_difference=None,
            dq=q,
            energy=None,
            steps=10,
            fmax=0.001,
            right_at=(good,) * 5,
        )
        for k, (good, q) in enumerate(zip(right, values, strict=True))
    )
    return Evaluation("quench", {"threshold": 0.2}, pairs, 1.0, 1.0, 10)


def measured(right: Sequence[bool], dq: Sequence[float | None] | None = None, **figures: float | None) -> Measured:
    return Measured(evaluation(right, dq), figures)


def first(count: int, total: int = 40) -> list[bool]:
    """The first `count` of `total` right."""
    return [k < count for k in range(total)]


def record(registration: str, seed: int, arm: str, right: Sequence[bool], *, trained: bool = True) -> dict[str, Any]:
    """A record as a finished arm leaves it."""
    training = {"updates": 3, "skipped_updates": 0, "seconds": 7.0, "saved_bytes": 5_000_000, "peak_bytes": 9_000_000}
    return {
        "schema": 1,
        "registration": registration,
        "date": f"2026-11-20T00:00:0{seed}+00:00",
        "code": {"version": "0.1.0", "source": "s", "commit": None},
        "machine": {"processor": "made up"},
        "seed": seed,
        "arm": arm,
        "route": None,
        "matching": None,
        "tune": {},
        "training": training if trained else None,
        "extra_labels": 0,
        "certificates": None,
        "start": f"start-{seed}",
        "data": "data",
        "seconds": 8.0,
        "cost": None,
        "evaluation": evaluation(right).record(),
    }
