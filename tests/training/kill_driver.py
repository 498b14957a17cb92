"""Kills a tuning run with replay at random moments and resumes it; prints what came of it as JSON. Run as a script.

Each run is a forked child, so that imports are paid once. The parent never computes with torch before forking.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from tests.training import problems

from thalweg.seeds import numpy_stream
from thalweg.training.tuning import tune

UPDATES = 8


def child(folder: Path) -> int:
    """Start a run in a child and return its process id."""
    process = os.fork()
    if process == 0:
        torch.set_num_threads(1)
        status = 1
        try:
            told = problems.settings(folder, "replay={share: 0.4, batch: 3}")
            data = problems.pairs(6, 1), problems.pairs(3, 2)
            tune(told, problems.base(), *data, replay=problems.frames(5, 3))
            status = 0
        finally:
            os._exit(status)
    return process


def run_out(folder: Path) -> None:
    """Run to the end."""
    _, status = os.waitpid(child(folder), 0)
    if status != 0:
        raise SystemExit(f"the run in {folder} ended with status {status}")


def recorded(folder: Path) -> list[int]:
    """Return the updates of the whole lines of metrics."""
    file = folder / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [json.loads(line)["update"] for line in lines]


def kill_after(process: int, folder: Path, update: int, delay: float) -> bool:
    """Kill a child `delay` seconds after it recorded `update`; return whether that stopped it."""
    while update not in recorded(folder):
        if os.waitpid(process, os.WNOHANG) != (0, 0):
            raise SystemExit(f"the run in {folder} ended before update {update}")
        time.sleep(0.002)
    time.sleep(delay)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return os.WIFSIGNALED(status)


def same_tensors(a: Path, b: Path) -> bool:
    """Return whether two checkpoints hold the same bits; their headers differ in seconds."""
    left, right = load_file(a), load_file(b)
    return left.keys() == right.keys() and all(left[k].numpy().tobytes() == right[k].numpy().tobytes() for k in left)


def main(root: Path, kills: int) -> None:
    """Run once undisturbed and `kills` times with a kill; report whether the ends are the same."""
    whole = root / "whole"
    run_out(whole)
    lines = problems.records(whole / "metrics.jsonl")
    length = sum(line.get("seconds", 0.0) for line in lines) / UPDATES
    stream = numpy_stream(5, "kill moments")
    trials = []
    for k in range(kills):
        folder = root / f"killed-{k}"
        update, delay = int(stream.integers(0, UPDATES)), float(stream.uniform(0.0, length))
        killed = kill_after(child(folder), folder, update, delay)
        finished = (folder / "results.json").exists()
        seen = recorded(folder)[-1]
        run_out(folder)
        trials.append(
            {
                "after": update,
                "seen": seen,
                "killed": killed and not finished,
                "same": all(
                    (folder / name).read_bytes() == (whole / name).read_bytes()
                    for name in ("model.safetensors", "best.safetensors")
                )
                and same_tensors(folder / "checkpoint.safetensors", whole / "checkpoint.safetensors"),
                "updates": recorded(folder),
                "certificates": (folder / "certificates.jsonl").read_text().count("\n"),
            }
        )
    print(json.dumps(trials))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
