"""The store for labelled frames beside ASE's databases: random reads, waiting, size, memory of opening.

    python benchmarks/store.py [--count 100000] [--folder DIR]

makes frames of OMat24-like sizes (1 to 160 atoms, about 20 on average, fifteen elements, periodic cells, stresses),
writes them as extended XYZ, as a store (float32 and float64), as an ASE database in SQLite and as `.aselmdb` (with
ase-db-backends, which must be installed), and reads the same random frames from each, interleaved. Prints a table of
ratios against targets and writes benchmarks/results/store.json. One thread. Seconds are medians of repetitions, and
ratios of reads are of CPU seconds, because other work on the machine hardly changes those.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures
from thalweg.structures.extended_xyz import block_text
from thalweg.structures.pairs import Frames
from thalweg.structures.store import Store, open_store
from thalweg.structures.store.writing import StoreWriter
from thalweg.training.force_matching import train_stored
from thalweg.training.loading import load_settings
from thalweg.training.settings import StoreTrainSettings

RESULTS = Path(__file__).parent / "results" / "store.json"
PART = 1000
SEEDS = {"sizes": 1, "frames": 2}
BATCH = 32
VERDICT = {True: "met", False: "missed", None: ""}
ELEMENTS = (1, 3, 6, 8, 11, 13, 14, 22, 26, 29, 38, 47, 56, 74, 82)
Clock = dict[str, float]


@dataclass(frozen=True)
class Row:
    """One target and what was measured."""

    what: str
    value: float
    target: str
    met: bool | None
    note: str


def sizes(count: int) -> np.ndarray:
    """Return numbers of atoms: log-normal, 1 to 160, mean about 20."""
    drawn = np.exp(numpy_stream(SEEDS["sizes"], "store benchmark sizes").normal(2.72, 0.75, count))
    return np.clip(np.rint(drawn), 1, 160).astype(int)


def make(first: int, counts: np.ndarray) -> Frames:
    """Return frames on a distorted lattice, one parent to four frames, with made-up labels of the usual lengths."""
    stream, total, frames = numpy_stream(SEEDS["frames"], "store benchmark", first), int(counts.sum()), len(counts)
    edge = np.ceil(np.cbrt(counts)).astype(int)
    sites = np.concatenate([2.6 * np.argwhere(np.ones((e, e, e)))[:n] for e, n in zip(edge, counts, strict=True)])
    stress = 0.01 * stream.standard_normal((frames, 3, 3))
    structures = Structures(
        positions=torch.tensor(sites + 0.2 * stream.standard_normal((total, 3))),
        numbers=torch.tensor(stream.choice(ELEMENTS, total)),
        cell=torch.tensor(2.6 * edge[:, None, None] * np.eye(3) + 0.05 * stream.standard_normal((frames, 3, 3))),
        pbc=torch.ones((frames, 3), dtype=torch.bool),
        owner=torch.repeat_interleave(torch.arange(frames), torch.tensor(counts)),
        free=torch.ones((total, 3), dtype=torch.bool),
        ids=tuple(f"frame-{first + k:07d}" for k in range(frames)),
    )
    energy = -4.0 * counts + stream.standard_normal(frames)
    parents = tuple(f"parent-{(first + k) // 4:07d}" for k in range(frames))
    forces = torch.tensor(stream.standard_normal((total, 3)))
    return Frames(structures, torch.tensor(energy), forces, parents, torch.tensor(stress + stress.transpose(0, 2, 1)))


def made(folder: Path, counts: np.ndarray) -> dict[str, int]:
    """Write the frames into the folder unless it holds these very frames already; return the bytes of each layout.

    `made.json` appears last and says what was made, so a folder that a kill left half written is begun anew.
    """
    done, key = folder / "made.json", {"frames": len(counts), "atoms": int(counts.sum()), "seeds": SEEDS}
    if done.exists():
        told = json.loads(done.read_text())
        if told["key"] != key:
            raise SystemExit(f"{folder} holds {told['key']}, wanted is {key}: give another --folder")
        return told["bytes"]
    for name in ("store-float32", "store-float64", "store-float32.part", "store-float64.part"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("extxyz", "db", "aselmdb", "aselmdb-lock"):
        (folder / f"frames.{name}").unlink(missing_ok=True)
    sizes_of = write(folder, counts)
    done.write_text(json.dumps({"key": key, "bytes": sizes_of}))
    return sizes_of


def write(folder: Path, counts: np.ndarray) -> dict[str, int]:
    """Write the frames in every layout; return the bytes of each."""
    writers = {d: StoreWriter(folder / f"store-{d}", d, {}) for d in ("float32", "float64")}
    with (
        (folder / "frames.extxyz").open("w") as text,
        connect(folder / "frames.db") as sqlite,
        connect(folder / "frames.aselmdb", type="aselmdb") as lmdb,
    ):
        for first in range(0, len(counts), PART):
            frames = make(first, counts[first : first + PART])
            for writer in writers.values():
                writer.append(frames, {})
            for k, atoms in enumerate(frames.structures.to_atoms()):
                rows = slice(*frames.structures.offsets[k : k + 2])
                labels = {"energy": frames.energy[k], "forces": frames.forces[rows], "stress": frames.stress[k]}
                words = {"id": frames.ids[k], "parent": frames.parents[k]}
                text.write(block_text(frames.structures, k, words=words, **labels))
                voigt = frames.stress[k].numpy()[(0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]
                atoms.info.clear()
                atoms.calc = SinglePointCalculator(
                    atoms, energy=float(frames.energy[k]), forces=frames.forces[rows].numpy(), stress=voigt
                )
                sqlite.write(atoms, parent=frames.parents[k])
                lmdb.write(atoms, parent=frames.parents[k])
            print(f"  made {min(first + PART, len(counts))} of {len(counts)}", flush=True)
    stores = {f"store {d}": writer.finish("made up").bytes for d, writer in writers.items()}
    files = {name: (folder / f"frames.{name}").stat().st_size for name in ("extxyz", "db")}
    return {**stores, **files, "aselmdb": lmdb_bytes(folder / "frames.aselmdb")}


def lmdb_bytes(file: Path) -> int:
    """Return the bytes of an LMDB that are in use; the file itself is as large as the map that was asked for."""
    return file.stat().st_blocks * 512


def timed(readers: dict[str, Callable[[np.ndarray], None]], total: int, reads: int, repeats: int) -> dict[str, Clock]:
    """Return the median CPU and wall seconds a frame; every repetition reads other frames, the same by each reader.

    Readers take turns at beginning, because whoever reads after a slow one finds nothing in the processor's caches.
    """
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
    for repeat in range(repeats + 1):
        chosen = numpy_stream(3, "store benchmark reads", repeat).integers(0, total, reads)
        turn = repeat % len(readers)
        order = list(readers.items())
        for name, read in order[turn:] + order[:turn]:
            wall, cpu = time.perf_counter(), time.process_time()
            read(chosen)
            spent[name].append(((time.process_time() - cpu) / reads, (time.perf_counter() - wall) / reads))
    return {
        name: {"cpu": statistics.median(c for c, _ in s[1:]), "wall": statistics.median(w for _, w in s[1:])}
        for name, s in spent.items()
    }


def readers(folder: Path, stack: ExitStack) -> dict[str, Callable[[np.ndarray], None]]:
    """Return what reads frames of a set of places, each into what its users work on: Frames or Atoms.

    Held open, as a context manager, a database is spared a connection or transaction a read; ASE's way without one is
    measured for SQLite too.
    """
    mapped, loaded = open_store(folder / "store-float32"), open_store(folder / "store-float32", in_memory=True)
    plain = connect(folder / "frames.db")
    sqlite = stack.enter_context(connect(folder / "frames.db"))
    lmdb = stack.enter_context(connect(folder / "frames.aselmdb", type="aselmdb", readonly=True))

    def batches(store: Store) -> Callable[[np.ndarray], None]:
        return lambda chosen: each(store.select, np.split(chosen, range(BATCH, len(chosen), BATCH)))

    def rows(database: Any) -> Callable[[np.ndarray], None]:
        return lambda chosen: each(lambda k: database.get_atoms(id=k + 1), chosen.tolist())

    return {
        f"store, mapped, batches of {BATCH}": batches(mapped),
        f"store, in memory, batches of {BATCH}": batches(loaded),
        "store, mapped, one by one": lambda chosen: each(mapped.__getitem__, chosen.tolist()),
        "ASE SQLite, as connect gives it": rows(plain),
        "ASE SQLite, held open": rows(sqlite),
        "aselmdb, held open": rows(lmdb),
    }


def each(read: Callable[[Any], object], places: Sequence[Any]) -> None:
    """Read one place after the other and drop what was read, as training does."""
    for place in places:
        read(place)


OPENING = """
import os, sys
from pathlib import Path
import psutil
from thalweg.structures.store import open_store
warm = open_store(sys.argv[2])
del warm
before = psutil.Process().memory_info().rss
store = open_store(sys.argv[1])
print(psutil.Process().memory_info().rss - before)
"""


def opening(path: Path, small: Path) -> int:
    """Return by how many bytes a fresh process grows when it opens a store, after it opened a small one."""
    command = [sys.executable, "-c", OPENING, str(path), str(small)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def waiting(folder: Path, kept: str, updates: int, *, ahead: bool = True) -> dict[str, Any]:
    """Train a small PaiNN and return the median share of a step that waited for data.

    Without `ahead` no batch is prepared beside the step before, so that all of reading and neighbour search is waiting.
    """
    told = load_settings(
        StoreTrainSettings,
        None,
        [
            f"out={folder / f'run-{kept}'}",
            "overwrite=true",
            "potential={kind: painn, channels: 32, layers: 2, cutoff: 5.0}",
            f"optimiser={{updates: {updates}, warmup: 2, batch: 16}}",
            f"validate_every={max(updates // 6, 1)}",
            f"checkpoint_every={updates}",
            f"store={{validation: 0, frames: 2000, in_memory: {kept}, ahead: {str(ahead).lower()}}}",
            "device.accelerator=cpu",
        ],
    )
    result = train_stored(told, folder / "store-float32")
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    shares = [line["waiting"] for line in lines if line.get("waiting") is not None]
    return {"share": statistics.median(shares[1:] or shares), "shares": shares, "updates": updates}


def small_store(folder: Path) -> Path:
    """Make a store of 100 frames, to compare the memory of opening with."""
    if not (folder / "small").exists():
        writer = StoreWriter(folder / "small", "float32", {})
        writer.append(make(0, sizes(100)), {})
        writer.finish("made up")
    return folder / "small"


def judge(measured: dict[str, Any]) -> list[Row]:
    """Return the table."""
    reads, size = measured["reads"], measured["bytes"]
    ways = (f"mapped, batches of {BATCH}", f"in memory, batches of {BATCH}", "mapped, one by one")
    rows = []
    for name, factor in (
        ("ASE SQLite, as connect gives it", 50),
        ("ASE SQLite, held open", 50),
        ("aselmdb, held open", 10),
    ):
        for how in ways:
            ours = reads[f"store, {how}"]["cpu"]
            ratio = reads[name]["cpu"] / ours
            note = f"{reads[name]['cpu'] * 1e6:.0f} µs against {ours * 1e6:.1f} µs a frame"
            rows.append(Row(f"random reads, {name} / store, {how}", ratio, f">= {factor}", ratio >= factor, note))
    for kept, found in measured["waiting"].items():
        share = found["share"]
        note = f"in_memory {kept}, 16 frames a step, PaiNN 32 x 2"
        rows.append(Row("share of a step that waits", share, "<= 0.03", share <= 0.03, note))
    alone = measured["waiting, nothing prepared ahead"]["share"]
    rows.append(Row("the same, nothing prepared beside the step", alone, "none", None, "reading and neighbour search"))
    for name in ("float32", "float64"):
        ratio = size[f"store {name}"] / size["extxyz"]
        rows.append(Row(f"size, store {name} / extended XYZ", ratio, "<= 0.5", ratio <= 0.5, f"{size['extxyz']} bytes"))
    grown, least = measured["opening"]["whole"], measured["opening"]["small"]
    note = f"{grown} bytes for {measured['count']} frames, {least} for 100"
    rows.append(
        Row(
            "memory of opening, more than for 100 frames (MiB)",
            (grown - least) / 2**20,
            "<= 1",
            grown - least <= 2**20,
            note,
        )
    )
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="kept and used again; a temporary one otherwise")
    parser.add_argument("--reads", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--updates", type=int, default=60)
    told = parser.parse_args()
    if importlib.util.find_spec("ase_db_backends") is None:
        raise SystemExit("reading .aselmdb needs ase-db-backends: install it beside ase")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = told.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        counts = sizes(told.count)
        size = made(folder, counts)
        load = os.getloadavg()
        small = small_store(folder)
        with ExitStack() as stack:
            reads = timed(readers(folder, stack), told.count, told.reads, told.repeats)
        measured: dict[str, Any] = {
            "count": told.count,
            "atoms": int(counts.sum()),
            "largest": int(counts.max()),
            "bytes": size,
            "reads": reads,
            "opening": {"whole": opening(folder / "store-float32", small), "small": opening(small, small)},
            "waiting": {kept: waiting(folder, kept, told.updates) for kept in ("auto", "false")},
            "waiting, nothing prepared ahead": waiting(folder, "auto", told.updates, ahead=False),
        }
    rows = judge(measured)
    for row in rows:
        print(f"{row.what:66s} {row.value:9.3f}  {row.target:8s} {VERDICT[row.met]:7s} {row.note}")
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    memory = psutil.virtual_memory().total
    machine = {"cpus": os.cpu_count(), "memory": memory, "load_before": load, "load_after": os.getloadavg()}
    command = f"python benchmarks/store.py --count {told.count} --reads {told.reads} --repeats {told.repeats}"
    RESULTS.write_text(
        json.dumps(
            {
                "command": f"{command} --updates {told.updates}",
                "aselmdb": "ase-db-backends, as its users read it",
                "versions": versions,
                "machine": machine,
                "rows": [asdict(row) for row in rows],
                "measured": measured,
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
