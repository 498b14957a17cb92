"""Kills a conversion with SIGKILL at given moments and takes it up again; prints what came of it as JSON. A script.

Each conversion is a forked child, so that imports are paid once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from thalweg.errors import StructureError
from thalweg.structures.store import convert, open_store


def child(source: Path, target: Path, part: int) -> int:
    """Start a conversion in a child and return its process id."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            convert(source, target, part=part)
            status = 0
        finally:
            os._exit(status)
    return process


def lines(target: Path) -> int:
    """Return the number of parts that the journal of an unfinished conversion counts."""
    journal = target.with_name(f"{target.name}.part") / "journal.jsonl"
    return journal.read_bytes().count(b"\n") - 2 if journal.exists() else 0


def opens(path: Path) -> bool:
    """Return whether a folder is taken for a store."""
    try:
        open_store(path).verify()
    except StructureError:
        return False
    return True


def main(source: Path, root: Path, kills: int) -> None:
    """Kill one conversion `kills` times, after ever more parts, then let it end."""
    target, trials = root / "killed", []
    for k in range(kills):
        process = child(source, target, 3)
        while lines(target) < 2 * k + 1:
            if os.waitpid(process, os.WNOHANG) != (0, 0):
                raise SystemExit("the conversion ended before it was killed")
            time.sleep(0.0005)
        time.sleep(0.003 * k)
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        part = target.with_name("killed.part")
        trials.append(
            {
                "killed": os.WIFSIGNALED(status),
                "parts": lines(target),
                "opens": opens(target) or opens(part),
            }
        )
    _, status = os.waitpid(child(source, target, 3), 0)
    print(json.dumps({"trials": trials, "status": status, "opens": opens(target)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
