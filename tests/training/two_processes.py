"""Tunes with replay once on one process and once on two and prints what differs as JSON. Run as a script."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tests.training import problems

from thalweg.errors import OutputError
from thalweg.training.run import RunResult
from thalweg.training.tuning import tune


def run(out: Path, devices: int) -> tuple[RunResult, list[int]]:
    """Tune on so many processes and return the result and the updates that were reported."""
    told = problems.settings(
        out,
        f"device.devices={devices}",
        "optimiser={updates: 3, batch: 3, warmup: 0, learning_rate: 1e-2}",
        "replay={share: 0.4, batch: 3}",
    )
    seen: list[int] = []
    data = problems.pairs(6, 1), problems.pairs(3, 2)
    frames = problems.frames(5, 3)
    result = tune(told, problems.base(), *data, replay=frames, progress=lambda report: seen.append(report.update))
    return result, seen


def lines(result: RunResult) -> list[dict[str, Any]]:
    """Return the metrics of the updates."""
    return problems.records(result.folder / "metrics.jsonl")[1:]


def main(root: Path) -> None:
    """Do all of it."""
    torch.set_num_threads(1)
    one, seen_by_one = run(root / "one", 1)
    two, seen_by_two = run(root / "two", 2)
    (root / "file").write_text("in the way")
    try:
        run(root / "file" / "run", 2)
    except OutputError as error:
        refused = str(error)
    left, right = load_file(one.model), load_file(two.model)
    start = problems.base().state_dict()
    print(
        json.dumps(
            {
                "difference": max(float((left[k] - right[k]).abs().max()) for k in left),
                "moved": max(float((left[k] - start[k]).abs().max()) for k in left),
                "seen": [seen_by_one, seen_by_two],
                "devices": [one.results["devices"], two.results["devices"]],
                "scores": [one.results["best_score"], two.results["best_score"]],
                "ids": [sorted(c["id"] for c in problems.records(r.folder / "certificates.jsonl")) for r in (one, two)],
                "refused": refused,
                "replay": [[x["replay_loss"] for x in lines(r)] for r in (one, two)],
                "weights": [r.results["replay_weight"] for r in (one, two)],
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
