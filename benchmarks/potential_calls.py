"""One call of our networks beside MACE, NequIP, SevenNet and CHGNet of like size: seconds and bytes kept for backward.

    python benchmarks/potential_calls.py [--quick] [--repeats N] [--merge results/OTHER.json]

The same cells of 64 silicon atoms, rattled, in batches of 1 and 8, in float32 and float64, all potentials with a cutoff
of 4.2 Å and our edges, found beforehand; CHGNet, which is called by its own package, with 4.2 Å and bonds of 3 Å, its
graphs made beforehand. Two calls: `forces` (energy and forces, no graph kept) and `loss` (the same with a graph, the
sum of squared forces, and its gradient to the parameters). Potentials take turns; the median of each is given, CPU
seconds for ratios and wall seconds beside. Bytes are those that autograd keeps for the backward of the loss, each
storage once.
A package that is not here is listed as missing. Where packages cannot live in one environment, run in each and merge
with `--merge`: ours are measured in each, and ratios are to ours of the same run. Parameters are fresh: nothing here
speaks of accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from ase.build import bulk
from torch import Tensor

from thalweg.errors import PotentialError
from thalweg.gradients.memory import SavedBytes
from thalweg.potentials import build_potential
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures

RESULTS = Path(__file__).parent / "results" / "potential_calls.json"
CUTOFF = 4.2
OURS = ("painn", "equivariant")
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "painn": ("painn", {"channels": 32}),
    "equivariant": ("equivariant", {"channels": 32, "l_max": 1}),
    "equivariant, l_max 2": ("equivariant", {"channels": 24, "l_max": 2}),
    "mace": ("mace", {"hidden_irreps": "8x0e+8x1o", "MLP_irreps": "8x0e", "radial_MLP": [32, 32]}),
    "nequip": ("nequip", {"config": {"num_layers": 2, "l_max": 1, "num_features": 16, "radial_mlp_width": 48}}),
    "sevennet": ("sevennet", {"config": {"channel": 12, "num_convolution_layer": 2, "lmax": 1}}),
}
PACKAGES = {"mace": "mace-torch", "nequip": "nequip", "sevennet": "sevenn", "chgnet": "chgnet"}
Call = Callable[[bool], tuple[Tensor, list[Tensor]]]
"""Given whether a graph is wanted: forces, and the parameters."""


def cells(count: int) -> Structures:
    frames = []
    for k in range(count):
        frame = bulk("Si", cubic=True) * (2, 2, 2)
        frame.positions += 0.05 * numpy_stream(5, "potential calls", k).standard_normal(frame.positions.shape)
        frames.append(frame)
    return Structures.from_atoms(frames)


def through_contract(name: str, batch: int, dtype: torch.dtype) -> Call:
    """Return the call of one of our kinds, adapters included."""
    kind, settings = SETTINGS[name]
    potential = build_potential(kind, {"species": [14], "cutoff": CUTOFF, **settings}).to(dtype)
    structures = cells(batch).to(dtype=dtype)
    edges, parameters = potential.edges(structures), list(potential.parameters())

    def call(graph: bool) -> tuple[Tensor, list[Tensor]]:
        return potential(structures, edges=edges, graph=graph).forces, parameters

    return call


def through_chgnet(name: str, batch: int, dtype: torch.dtype) -> Call:
    """Return the call of a fresh CHGNet by its own package."""
    from chgnet.model.model import CHGNet
    from pymatgen.io.ase import AseAtomsAdaptor

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        narrow = {f"{what}_fea_dim": 16 for what in ("atom", "bond", "angle")}
        narrow |= {"atom_conv_hidden_dim": 16, "bond_conv_hidden_dim": 16, "n_conv": 2}
        model = CHGNet(**narrow, mlp_hidden_dims=(16, 16), atom_graph_cutoff=CUTOFF, bond_graph_cutoff=3.0).to(dtype)
        frames = cells(batch).to_atoms()
        graphs = [model.graph_converter(AseAtomsAdaptor.get_structure(frame)) for frame in frames]
        for graph in graphs:
            graph.atom_frac_coord, graph.lattice = graph.atom_frac_coord.to(dtype), graph.lattice.to(dtype)
            graph.neighbor_image = graph.neighbor_image.to(dtype)
    finally:
        torch.set_default_dtype(before)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def call(graph: bool) -> tuple[Tensor, list[Tensor]]:
        torch.set_default_dtype(dtype)
        try:
            model.train(graph)  # CHGNet keeps the graph of its forces only while training
            found = model(graphs, task="ef")["f"]
        finally:
            torch.set_default_dtype(before)
        return torch.cat(list(found)), parameters

    return call


def loss(call: Call) -> None:
    forces, parameters = call(True)
    torch.autograd.grad(forces.square().sum(), parameters, allow_unused=True)


def kept(call: Call) -> int:
    """Return the bytes that forces with a graph and the backward of the loss keep at most at once."""
    with SavedBytes(call(False)[1]) as saved:
        loss(call)
    return saved.peak


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def measure(batch: int, dtype: torch.dtype, repeats: int, faults: dict[str, str]) -> list[dict[str, Any]]:
    """Return a row for each potential that is here; faults gain those that are not."""
    calls: dict[str, Call] = {}
    for name in (*SETTINGS, "chgnet"):
        package = PACKAGES.get(name)
        if package is not None and version(package) is None:
            faults[name] = f"missing: the package {package} is not in this environment"
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = (through_chgnet if name == "chgnet" else through_contract)(name, batch, dtype)
                loss(found)
            calls[name] = found
        except (PotentialError, RuntimeError, ImportError) as error:
            faults[name] = f"batch {batch}, {dtype}: {' '.join(str(error).split())[:200]}"
    seconds: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(repeats):
        for name, call in calls.items():
            for what, run in (("forces", lambda c: c(False)), ("loss", loss)):
                cpu, wall = time.process_time(), time.perf_counter()
                run(call)
                taken = (time.process_time() - cpu, time.perf_counter() - wall)
                seconds.setdefault((name, what), []).append(taken)
    rows = []
    for name, call in calls.items():
        row: dict[str, Any] = {"potential": name, "batch": batch, "dtype": str(dtype).removeprefix("torch.")}
        row["parameters"] = sum(p.numel() for p in call(False)[1])
        row["bytes_kept"] = kept(call)
        for what in ("forces", "loss"):
            cpu, wall = zip(*seconds[name, what], strict=True)
            row[f"{what}_cpu"], row[f"{what}_wall"] = statistics.median(cpu), statistics.median(wall)
        rows.append(row)
    return rows


def with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each row its figures over those of our two networks in the same batch and floating type."""
    for row in rows:
        like = {r["potential"]: r for r in rows if (r["batch"], r["dtype"]) == (row["batch"], row["dtype"])}
        for mine in OURS:
            if mine in like:
                keys = ("forces_cpu", "loss_cpu", "bytes_kept")
                row[f"over {mine}"] = {key: row[key] / like[mine][key] for key in keys}
    return rows


def say(rows: list[dict[str, Any]], faults: dict[str, str]) -> None:
    heads = ["potential", "parameters", "batch", "type", "forces, ms CPU (wall)", "loss, ms CPU (wall)", "kept, MB"]
    heads += [f"forces / loss / kept over {mine}" for mine in OURS]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for row in rows:
        line = [row["potential"], f"{row['parameters']:,}", str(row["batch"]), row["dtype"]]
        line += [f"{1e3 * row[f'{w}_cpu']:.1f} ({1e3 * row[f'{w}_wall']:.1f})" for w in ("forces", "loss")]
        line.append(f"{row['bytes_kept'] / 1e6:.1f}")
        for mine in OURS:
            line.append(" / ".join(f"{x:.2f}" for x in row.get(f"over {mine}", {}).values()) or "–")
        print("| " + " | ".join(line) + " |")
    for name, why in faults.items():
        print(f"{name}: {why}")


def main() -> None:
    parser = argparse.ArgumentParser(description="One call of our networks beside those of other packages.")
    parser.add_argument("--quick", action="store_true", help="batch 1, three repetitions, nothing written")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--merge", type=Path, help="keep what another environment wrote there beside this one")
    parser.add_argument("--out", type=Path, default=RESULTS)
    told = parser.parse_args()
    torch.set_num_threads(1)
    faults: dict[str, str] = {}
    rows = []
    for batch in (1,) if told.quick else (1, 8):
        for dtype in (torch.float32, torch.float64):
            rows += measure(batch, dtype, 3 if told.quick else told.repeats, faults)
    rows = with_ratios(rows)
    say(rows, faults)
    here = {
        "versions": {name: version(name) for name in (*PACKAGES.values(), "torch", "e3nn")},
        "python": platform.python_version(),
        "load": os.getloadavg(),
        "repeats": 3 if told.quick else told.repeats,
        "missing": faults,
        "rows": rows,
    }
    if told.quick:
        return
    runs = json.loads(told.merge.read_text(encoding="utf-8"))["runs"] if told.merge else []
    told.out.parent.mkdir(exist_ok=True)
    text = {"command": "python benchmarks/potential_calls.py", "machine": platform.machine(), "runs": [*runs, here]}
    told.out.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
