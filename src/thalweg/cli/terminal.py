"""What commands say on standard output."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thalweg.training.processes import Report
    from thalweg.training.run import RunResult


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def say_left_out(notes: Sequence[str], skipped: Sequence[tuple[str, str]], most: int = 30) -> None:
    """Say what a reader noted and skipped: each on a line, or, beyond `most` lines, each reason once with its count."""
    for lines, kind in (
        ([f"note: {note}" for note in notes], [re.sub(r"[-+.\d]*\d", "…", note) for note in notes]),
        (
            [f"skipped {place}: {reason}" for place, reason in skipped],
            [re.sub(r"[-+.\d]*\d", "…", r) for _, r in skipped],
        ),
    ):
        if len(lines) <= most:
            for line in lines:
                say(line)
            continue
        counts = Counter(kind)
        for line, alike in zip(lines, kind, strict=True):
            if counts[alike]:
                say(f"{counts.pop(alike)} times: {line}" if counts[alike] > 1 else line)


def say_result(result: RunResult) -> None:
    """Say where the model is, and whether some updates learnt nothing."""
    idle, updates = result.results["skipped_updates"], result.results["updates"]
    if idle:
        say(
            f"{idle} of {updates} updates changed nothing: see 'skipped' and 'reasons' in {result.folder}/metrics.jsonl"
        )
    say(f"{'already finished' if result.already_finished else 'wrote'}: {result.best}")


def show_progress(report: Report) -> None:
    """Say how an update went, on one line."""
    record: dict[str, Any] = report.record
    told = [f"update {report.update} of {report.updates}"]
    told += [f"{key} {record[key]:.4g}" for key in ("loss", "gradient_norm") if record.get(key) is not None]
    if record.get("took_part") is not None:
        why = ", ".join(f"{count} {reason}" for reason, count in (record.get("reasons") or {}).items())
        told.append(f"{record['took_part']} of {record['structures']} took part{f' ({why})' if why else ''}")
    if record.get("skipped"):
        told.append(f"skipped: {record['skipped']}")
    held = record.get("validation")
    if held and "right" in held:
        told.append(f"validation {held['right']} of {held['total']} right")
    say(", ".join(told))
