"""What commands say on standard output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thalweg.training.processes import Report
    from thalweg.training.run import RunResult


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


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
