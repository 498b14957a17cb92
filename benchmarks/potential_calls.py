"""One call of our networks beside MACE, NequIP, SevenNet and CHGNet of like size: seconds and bytes kept for backward.

    python benchmarks/potential_calls.py [--quick] [--repeats N] [--merge results/OTHER.json]

The same cells of 64 silicon atoms (16 neighbours each), rattled, in batches of 1 and 8, in float32 and float64, all
potentials with two layers, 8 radial functions, a cutoff of 4.2 Å and our edges, found beforehand. Those with spherical
tensors are compared at one highest order l of features and at one number of parameters, about 20,000 and fewer. Ours
multiply two sums over neighbours, as MACE here does; NequIP and SevenNet take one. MACE's harmonics go to l = 2 in both
rows. CHGNet has bonds to 3 Å, through our adapter, which lays out bonds and angles in every call, and (float32 alone:
its graphs are made in float32) by its own package, graphs made beforehand.

Two calls: `forces` (energy and forces, no graph kept) and `loss` (the same with a graph, the sum of squared forces, and
its gradient to the parameters). Potentials take turns; the median of each is given, CPU seconds for ratios and wall
seconds beside. Bytes are those that autograd keeps for the backward of the loss, each storage once.
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
from typing import Any, NamedTuple

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
OURS = ("painn", "equivariant", "equivariant, l 2")


class Entry(NamedTuple):
    """What is measured under a name."""

    kind: str
    order: str
    """Highest order of features; of harmonics behind a comma where it differs."""
    settings: dict[str, Any]


def mace(channels: int, top: int, width: int) -> dict[str, Any]:
    hidden = "+".join(f"{channels}x{order}{'eo'[order % 2]}" for order in range(top + 1))
    return {"hidden_irreps": hidden, "MLP_irreps": f"{channels}x0e", "radial_MLP": [width, width]}


def nequip(features: int, top: int) -> dict[str, Any]:
    return {"config": {"num_layers": 2, "l_max": top, "num_features": features, "radial_mlp_width": 48}}


def sevennet(channels: int, top: int) -> dict[str, Any]:
    return {"config": {"channel": channels, "num_convolution_layer": 2, "lmax": top}}


NARROW: dict[str, Any] = {f"{what}_fea_dim": 16 for what in ("atom", "bond", "angle")}
NARROW |= {"atom_conv_hidden_dim": 16, "bond_conv_hidden_dim": 16, "n_conv": 2, "mlp_hidden_dims": [16, 16]}
NARROW |= {"atom_graph_cutoff": CUTOFF, "bond_graph_cutoff": 3.0}
SETTINGS: dict[str, Entry] = {
    "painn": Entry("painn", "1", {"channels": 32}),
    "equivariant": Entry("equivariant", "1", {"channels": 32, "l_max": 1}),
    "equivariant, narrow": Entry("equivariant", "1", {"channels": 22, "l_max": 1}),
    "mace": Entry("mace", "1, 2", mace(8, 1, 32)),
    "nequip": Entry("nequip", "1", nequip(16, 1)),
    "nequip, wide": Entry("nequip", "1", nequip(23, 1)),
    "sevennet": Entry("sevennet", "1", sevennet(12, 1)),
    "sevennet, wide": Entry("sevennet", "1", sevennet(20, 1)),
    "equivariant, l 2": Entry("equivariant", "2", {"channels": 24, "l_max": 2}),
    "equivariant, l 2, narrow": Entry("equivariant", "2", {"channels": 19, "l_max": 2}),
    "equivariant, l 2, one sum": Entry("equivariant", "2", {"channels": 24, "l_max": 2, "correlation": 1}),
    "mace, l 2": Entry("mace", "2", mace(16, 2, 32)),
    "nequip, l 2": Entry("nequip", "2", nequip(16, 2)),
    "nequip, l 2, wide": Entry("nequip", "2", nequip(20, 2)),
    "sevennet, l 2, wide": Entry("sevennet", "2", sevennet(16, 2)),
    "chgnet": Entry("chgnet", "–", {"options": NARROW}),
}
OWN_WAY = "chgnet, its own way"
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
    kind, _, settings = SETTINGS[name]
    reach = {} if kind == "chgnet" else {"cutoff": CUTOFF}  # CHGNet's is among its options
    potential = build_potential(kind, {"species": [14], **reach, **settings}).to(dtype)
    structures = cells(batch).to(dtype=dtype)
    edges, parameters = potential.edges(structures), list(potential.parameters())

    def call(graph: bool) -> tuple[Tensor, list[Tensor]]:
        return potential(structures, edges=edges, graph=graph).forces, parameters

    return call


def through_chgnet(name: str, batch: int, dtype: torch.dtype) -> Call:
    """Return the call of a fresh CHGNet by its own package."""
    from chgnet.model.model import CHGNet
    from pymatgen.io.ase import AseAtomsAdaptor

    if dtype != torch.float32:
        raise PotentialError("its own package makes graphs in float32 alone: see the row through our adapter")
    torch.manual_seed(0)
    model = CHGNet(**NARROW)
    graphs = [model.graph_converter(AseAtomsAdaptor.get_structure(frame)) for frame in cells(batch).to_atoms()]
    parameters = [p for p in model.parameters() if p.requires_grad]

    def call(graph: bool) -> tuple[Tensor, list[Tensor]]:
        model.train(graph)  # CHGNet keeps the graph of its forces only while training
        return torch.cat(list(model(graphs, task="ef")["f"])), parameters

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
    for name in (*SETTINGS, OWN_WAY):
        package = PACKAGES.get(name.partition(",")[0])
        if package is not None and version(package) is None:
            faults[name] = f"missing: the package {package} is not in this environment"
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = (through_chgnet if name == OWN_WAY else through_contract)(name, batch, dtype)
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
        row: dict[str, Any] = {"potential": name, "order": SETTINGS[name].order if name in SETTINGS else "–"}
        row |= {"batch": batch, "dtype": str(dtype).removeprefix("torch.")}
        row["parameters"] = sum(p.numel() for p in call(False)[1])
        row["bytes_kept"] = kept(call)
        for what in ("forces", "loss"):
            cpu, wall = zip(*seconds[name, what], strict=True)
            row[f"{what}_cpu"], row[f"{what}_wall"] = statistics.median(cpu), statistics.median(wall)
        rows.append(row)
    return rows


def with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each row its figures over those of our networks in the same batch and floating type."""
    for row in rows:
        like = {r["potential"]: r for r in rows if (r["batch"], r["dtype"]) == (row["batch"], row["dtype"])}
        for mine in OURS:
            if mine in like:
                keys = ("forces_cpu", "loss_cpu", "bytes_kept")
                row[f"over {mine}"] = {key: row[key] / like[mine][key] for key in keys}
    return rows


def say(rows: list[dict[str, Any]], faults: dict[str, str]) -> None:
    heads = [
        "potential",
        "l",
        "parameters",
        "batch",
        "type",
        "forces, ms CPU (wall)",
        "loss, ms CPU (wall)",
        "kept, MB",
    ]
    heads += [f"forces / loss / kept over {mine}" for mine in OURS]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for row in rows:
        line = [row["potential"], row["order"], f"{row['parameters']:,}", str(row["batch"]), row["dtype"]]
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
