"""The engine's promises, measured: what gradients keep and how long they take, beside backpropagation that stores all.

    python benchmarks/engine.py [--quick]

prints a table of ratios against their targets and writes benchmarks/results/engine.json (--quick writes nothing).
One thread; seconds are medians of interleaved repetitions, CPU and wall, and ratios are of CPU seconds, because
other work on the machine hardly changes those. Bytes are counted exactly (saved-tensor hooks).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path as FilePath

import psutil
import torch
from ase.build import bulk

from thalweg.allocator import keep_freed_memory
from thalweg.gradients import AdjointSettings, Implicit, Split, Unrolled
from thalweg.gradients.planning import gradient, measure_costs, saved_bytes
from thalweg.potentials.contract import Potential
from thalweg.potentials.painn import PaiNN
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relaxation import Descent, Path, relax
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Frames
from thalweg.testbeds import TESTBEDS
from thalweg.training.force_matching import train
from thalweg.training.settings import MatchingOptimiserSettings, PotentialSettings, TrainSettings

RESULTS = FilePath(__file__).parent / "results" / "engine.json"
STEPS = 75
PATH = Path(Descent(alpha=0.03), steps=STEPS)
SPLIT = Split(horizon=20, adjoint=AdjointSettings(tolerance=1e-4))
FASTEST = replace(SPLIT, recompute=False, shortcut=True)
Clock = dict[str, float]


@dataclass(frozen=True)
class Row:
    """One promise."""

    what: str
    ours: float
    theirs: float
    ratio: float
    target: str
    met: bool
    unit: str
    wall_ratio: float | None = None


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller batches, fewer repetitions; nothing is written")
    quick = parser.parse_args().quick
    keep_freed_memory()
    torch.set_num_threads(1)
    began = time.perf_counter()
    starts = TESTBEDS["silicon"]().make(8, 1).starts.to(dtype=torch.float32)
    potential = trained()
    rows: list[Row] = []
    parts: list[Callable[[], list[Row]]] = [
        lambda: bytes_against_plain(potential, starts.select([0, 1]) if quick else starts),
        bytes_against_steps,
        lambda: seconds_against_plain(potential, starts.select([0, 1]) if quick else starts, 1 if quick else 2),
        lambda: forecast(potential, starts.select([0, 1])),
        lambda: loop_overhead(potential, starts, 3 if quick else 5),
        lambda: size(potential, (64, 512) if quick else (64, 512, 1728, 4096)),
    ]
    for part in parts:
        for row in part():
            rows.append(row)
            print(line(row), flush=True)
        gc.collect()
    seconds = time.perf_counter() - began
    print(f"{sum(row.met for row in rows)} of {len(rows)} met, {seconds:.0f} s")
    if not quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(record(rows, seconds), indent=1) + "\n", encoding="utf-8")


def trained() -> PaiNN:
    """Return the demonstration's base: 32 channels, 2 layers, 200 updates on 200 frames."""
    import tempfile

    frames: Frames = TESTBEDS["silicon"]().frames(200, 0)
    with tempfile.TemporaryDirectory() as folder:
        told = TrainSettings(
            potential=PotentialSettings(kind="painn"),
            optimiser=MatchingOptimiserSettings(updates=200, learning_rate=3e-3, warmup=30),
            out=FilePath(folder) / "base",
        )
        train(told, frames)
        from thalweg.potentials.files import load_potential

        found = load_potential(FilePath(folder) / "base" / "model.safetensors")
    if not isinstance(found, PaiNN):
        raise TypeError(f"the base is a {type(found).__name__}")
    return found


def bytes_against_plain(potential: Potential, starts: Structures) -> list[Row]:
    """Bytes of the recomputed split against plain BPTT."""
    plain = saved_bytes(potential, starts, PATH, Unrolled(recompute=False))
    gc.collect()
    ours = saved_bytes(potential, starts, PATH, SPLIT)
    what = f"bytes, split K=20 recomputed over plain BPTT T=75, batch {len(starts)}"
    return [row(what, ours, plain, "at most 1/15", 0, 1 / 15)]


def bytes_against_steps() -> list[Row]:
    """Bytes at T = 750 over T = 75, states aside, where both end in one minimum: bytes follow its neighbours."""
    potential = StillingerWeber.from_published("Si")
    crystal = bulk("Si", cubic=True) * (2, 2, 2)
    crystal.positions += 0.01 * numpy_stream(0, "engine", "crystal").standard_normal(crystal.positions.shape)
    starts = Structures.from_atoms(crystal)
    slow = Path(Descent(alpha=3e-3), fmax=1e-4)
    state = starts.positions.numel() * 8
    rows = []
    for name in ("implicit", "split K=20 recomputed", "BPTT recomputed, states aside"):
        saved = {}
        for steps in (STEPS, 10 * STEPS):
            held = steps - 1  # one state fewer than all: then no neighbour lists are kept beside them
            route = {"implicit": Implicit(), "split K=20 recomputed": Split(20)}.get(name, Unrolled(states=held))
            aside = held * state if isinstance(route, Unrolled) else 0
            saved[steps] = saved_bytes(potential, starts, replace(slow, steps=steps), route) - aside
        what = f"bytes, {name}: T=750 over T=75"
        rows.append(row(what, saved[10 * STEPS], saved[STEPS], "1 within 1 %", 0.99, 1.01))
    return rows


def seconds_against_plain(potential: Potential, starts: Structures, repetitions: int) -> list[Row]:
    """Seconds of recomputed BPTT and of a split over plain BPTT, PaiNN; and of recomputed BPTT, Stillinger–Weber."""
    ways = {"plain": Unrolled(recompute=False), "recomputed": Unrolled(), "split": SPLIT, "fastest": FASTEST}
    runs = {name: (lambda route=route: gradient(potential, starts, PATH, route)) for name, route in ways.items()}
    cpu, wall = clock(runs, repetitions)
    analytic, double = StillingerWeber.from_published("Si"), starts.to(dtype=torch.float64)
    plain = {k: v for k, v in ways.items() if k in ("plain", "recomputed")}
    analytic_runs = {n: (lambda route=route: gradient(analytic, double, PATH, route)) for n, route in plain.items()}
    cpu_sw, wall_sw = clock(analytic_runs, repetitions)
    batch = f"batch {len(starts)}"
    return [
        timed(f"seconds, BPTT T=75 recomputed over plain, {batch}", cpu, wall, "recomputed", "plain", 1.35),
        timed(f"seconds, the same on Stillinger–Weber, {batch}", cpu_sw, wall_sw, "recomputed", "plain", 1.35),
        timed(f"seconds, split K=20 to fmax 0.005 over plain BPTT T=75, {batch}", cpu, wall, "split", "plain", 0.5),
        timed(f"seconds, the same with its shortcut, stored whole, {batch}", cpu, wall, "fastest", "plain", 0.5),
    ]


def forecast(potential: Potential, starts: Structures) -> list[Row]:
    """Seconds and bytes foretold over those measured."""
    costs = measure_costs(potential, starts, PATH)
    rows = []
    for route in (Unrolled(30, recompute=False), Unrolled(), Split(20)):
        told = costs.forecast(route, PATH)
        _, wall = clock({"measured": lambda route=route: gradient(potential, starts, PATH, route)}, 2)
        name = f"{route.kind} K={route.horizon or STEPS} {'recomputed' if route.recompute else 'plain'}"
        saved = saved_bytes(potential, starts, PATH, route)
        rows.append(row(f"bytes foretold over measured, {name}", told.saved_bytes, saved, "1 within 20 %", 0.8, 1.2))
        measured = wall["measured"]
        what = f"wall seconds foretold over measured, {name}"
        rows.append(row(what, told.seconds, measured, "1 within 20 %", 0.8, 1.2, "s"))
    return rows


def loop_overhead(potential: Potential, starts: Structures, repetitions: int) -> list[Row]:
    """Seconds of relaxing 64 structures over those of as many calls of the potential."""
    many = Structures.concatenate([starts] * 8)
    moves = 5
    update = Descent(alpha=1e-4)  # hardly moves, so that every call sees the same neighbours

    def calls() -> None:
        for _ in range(moves + 1):
            potential(many)

    runs = {"loop": lambda: relax(potential, many, update, fmax=1e-6, max_steps=moves), "calls": calls}
    cpu, wall = clock(runs, repetitions)
    return [timed("seconds, relaxation loop over bare calls, 64 structures", cpu, wall, "loop", "calls", 1.05)]


def size(potential: Potential, atoms: tuple[int, ...]) -> list[Row]:
    """CPU seconds per atom of a split gradient's parts at fixed T and K, against those of the smallest cell."""
    path = replace(PATH, steps=6, max_steps=0)
    rows, seconds = [], {}
    for count in atoms:
        crystal = bulk("Si", cubic=True) * ((round((count / 8) ** (1 / 3)),) * 3)
        crystal.positions += 0.05 * numpy_stream(0, "engine", count).standard_normal(crystal.positions.shape)
        single = Structures.from_atoms(crystal, dtype=torch.float32)
        cells = Structures.concatenate([single] * max(512 // count, 1))  # as much work in the smallest measurement
        cpu, _ = clock({"cell": lambda cells=cells: gradient(potential, cells, path, Unrolled())}, 3)
        seconds[count] = cpu["cell"] / len(cells.numbers)
    first = atoms[0]
    for count in atoms[1:]:
        what = f"seconds per atom, {count} atoms over {first}, T=K=6 recomputed"
        rows.append(row(what, seconds[count], seconds[first], "1 within 15 %", 0.85, 1.15, "s"))
    return rows


def clock(runs: dict[str, Callable[[], object]], repetitions: int) -> tuple[Clock, Clock]:
    """Return median CPU and wall seconds of each run; repetitions are interleaved."""
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            gc.collect()
            began, used = time.perf_counter(), time.process_time()
            run()
            cpu[name].append(time.process_time() - used)
            wall[name].append(time.perf_counter() - began)
    return tuple({name: statistics.median(found) for name, found in times.items()} for times in (cpu, wall))


def row(what: str, ours: float, theirs: float, target: str, low: float, high: float, unit: str = "bytes") -> Row:
    """Return a row from two figures and the range their ratio must lie in."""
    return Row(what, ours, theirs, ours / theirs, target, low <= ours / theirs <= high, unit)


def timed(what: str, cpu: Clock, wall: Clock, ours: str, theirs: str, most: float) -> Row:
    """Return a row of CPU seconds, with the ratio of wall seconds beside it."""
    found = row(what, cpu[ours], cpu[theirs], f"at most {most}", 0, most, "s")
    return replace(found, wall_ratio=wall[ours] / wall[theirs])


def line(row: Row) -> str:
    """Return a row of the table."""
    scale, unit = (1e6, "MB") if row.unit == "bytes" else (1.0, "s")
    wall = "" if row.wall_ratio is None else f" (wall {row.wall_ratio:.3f})"
    verdict = "met" if row.met else "MISSED"
    figures = f"{row.ours / scale:9.4g} {row.theirs / scale:9.4g} {unit:2}"
    return f"{row.what:68} {figures} {row.ratio:7.4f}{wall}  target {row.target}: {verdict}"


def record(rows: list[Row], seconds: float) -> dict[str, object]:
    """Return what is written."""
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    return {
        "command": " ".join(["python", *sys.argv]),
        "threads": torch.get_num_threads(),
        "machine": machine,
        "seconds": round(seconds, 1),
        "rows": [asdict(row) for row in rows],
    }


if __name__ == "__main__":
    main()
