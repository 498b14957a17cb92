"""A potential as a metatomic model: one TorchScript file for LAMMPS, i-PI, ASE and what else speaks metatomic.

The energy is traced with atoms and edges as inputs of any number, so that no architecture is written a second time.
A potential whose energy is a sum over atoms of what lies within its reach is traced atom by atom: every atom is taken
for a structure of its own, with the edges that leave it, and its energy is then that atom's share. Such a model
gives energies per atom and has the reach as interaction range. Every other potential is traced as a whole and
declares an infinite range, so that no program divides its atoms among processes.

    energy                   eV; per atom where there is a reach, else per system
    non_conservative_force   eV/Å; of direct potentials alone, whose energy is then cut off from the positions, so that
                             a program that would take its gradient for the forces stops

Forces and stress of the others are derivatives the program takes: vectors between atoms are formed anew from
positions, cell and the whole-number shifts of the requested list (full, strict, at the cutoff, in Å).

A trace keeps what the example had of sizes and branches where it should not; so the file is loaded again and compared
with the potential on structures of other sizes before it takes its name. The package is imported when asked for.
There is no `from __future__ import annotations` here: metatomic compares the annotations of `forward` as objects.
"""

import copy
import math
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Dict, List, Optional  # noqa: UP035  (TorchScript and metatomic know these alone)

import torch
from ase import Atoms
from ase.data import chemical_symbols
from torch import Tensor, nn

from thalweg.errors import PotentialError
from thalweg.potentials.adapters.code import one_line
from thalweg.potentials.adapters.metatomic_energy import MetatomicEnergy
from thalweg.potentials.adapters.metatomic_systems import ask_metatomic, needs_metatomic
from thalweg.potentials.contract import Potential
from thalweg.seeds import numpy_stream
from thalweg.storage import atomic_write
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

LAYERED = ("painn", "schnet", "equivariant")
"""Kinds whose energy is a sum over atoms that reaches layers × cutoff."""
ONE_SHELL = ("stillinger-weber",)
"""Kinds whose energy is a sum over atoms that reaches the cutoff."""

_AGREEMENT = {torch.float64: 1e-9, torch.float32: 1e-4}
"""How far the file may be off, relative to the largest value; gross faults are orders above, rounding below."""


def interaction_range(potential: Potential) -> float:
    """Return how far an atom's energy reaches, Å; infinite where nothing is known of it or it is not local."""
    if potential.kind in LAYERED:
        return float(potential.settings["layers"] * potential.cutoff)
    return potential.cutoff if potential.kind in ONE_SHELL else math.inf


class Traced(nn.Module):
    """The network as a function of the tensors of one system; what is traced."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential
        self.local = math.isfinite(interaction_range(potential))

    def forward(
        self, positions: Tensor, cell: Tensor, pbc: Tensor, types: Tensor, listed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return energies, eV, one per atom (local) or one in all, and forces, eV/Å, none of conservative potentials.

        Args:
            positions: Cartesian, Å, shape (atoms, 3).
            cell: lattice vectors as rows, Å, shape (3, 3).
            pbc: which directions are periodic, shape (3,).
            types: atomic numbers, any integers, shape (atoms,).
            listed: pairs in any order, whole numbers: first atom, second atom, shift of the second, shape (edges, 5).
        """
        listed = listed.to(torch.int64)
        listed = listed[torch.argsort(listed[:, 0], stable=True)]
        edges = Edges(listed[:, 0], listed[:, 1], listed[:, 2:].to(positions.dtype))
        count = positions.shape[0] if self.local else 1
        atoms = torch.arange(positions.shape[0], device=positions.device)
        structures = Structures(
            positions=positions,
            numbers=types.to(torch.int64),
            cell=cell.unsqueeze(0).expand(count, 3, 3),
            pbc=pbc.unsqueeze(0).expand(count, 3),
            owner=atoms if self.local else torch.zeros_like(atoms),
            free=torch.ones_like(positions, dtype=torch.bool),
            ids=("system",),
        )
        if self.potential.conservative:
            return self.potential.energy(structures, edges), positions.new_zeros((0, 3))  # type: ignore[operator]
        found = self.potential(structures, edges=edges)
        return found.energy, found.forces


def metatomic_model(potential: Potential) -> Any:
    """Return a metatomic `AtomisticModel` that answers with a copy of a potential, in evaluation mode, on the CPU.

    Args:
        potential: a potential in float32 or float64.

    Raises:
        PotentialError: metatomic is not installed, or the potential cannot be traced.
    """
    needs_metatomic()
    frozen = copy.deepcopy(potential).to("cpu").eval().requires_grad_(False)
    if isinstance(frozen, MetatomicEnergy):
        return frozen.model  # with the parameters it has learnt
    from metatomic.torch import AtomisticModel, ModelCapabilities, ModelMetadata, ModelOutput

    home = next((t for t in (*potential.parameters(), *potential.buffers()) if t.is_floating_point()), None)
    if home is None or home.dtype not in _AGREEMENT:
        raise PotentialError(
            f"a {potential.kind} potential {'without tensors' if home is None else f'in {home.dtype}'} is no metatomic "
            "model: allowed are float32 and float64, convert it with .to(dtype=...)"
        )
    reach = interaction_range(potential)
    outputs = {"energy": ModelOutput(unit="eV", sample_kind="atom" if math.isfinite(reach) else "system")}
    if not potential.conservative:
        outputs["non_conservative_force"] = ModelOutput(unit="eV/Angstrom", sample_kind="atom")
    known = ", ".join(chemical_symbols[z] for z in potential.species)
    return AtomisticModel(
        _module(frozen, home.dtype).eval(),
        ModelMetadata(name=f"thalweg {potential.kind}", description=f"{potential.kind} potential of {known}"),
        ModelCapabilities(
            outputs=outputs,
            atomic_types=list(potential.species),
            interaction_range=reach,
            length_unit="Angstrom",
            supported_devices=["cpu"],  # what is traced on a device stays there
            dtype=str(home.dtype).removeprefix("torch."),
        ),
    )


def write_metatomic(path: str | Path, potential: Potential, *, overwrite: bool = False) -> None:
    """Write a potential as a metatomic model file, whole or not at all.

    Args:
        path: the file, by custom with the ending .pt.
        potential: as for `metatomic_model`.
        overwrite: replace a file that is there.

    Raises:
        PotentialError: as `metatomic_model`, or the file does not answer as the potential does.
        OutputError: the file exists and `overwrite` is False, or it cannot be written.
    """
    model = metatomic_model(potential)
    with tempfile.TemporaryDirectory() as folder:
        beside = Path(folder) / "model.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, says torch; metatomic is made of it
            try:
                model.save(str(beside))
            except RuntimeError as error:
                raise PotentialError(f"a {potential.kind} potential cannot be saved: {one_line(error)}") from error
        check_file(beside, potential)
        atomic_write(path, beside.read_bytes(), overwrite=overwrite)


def check_file(path: Path, potential: Potential) -> None:
    """Refuse a model file that does not answer as a potential does, on structures it was not traced with.

    Raises:
        PotentialError: naming the structure and the quantity.
    """
    from metatomic.torch import load_atomistic_model

    model, compared = load_atomistic_model(str(path)), 0
    dtype = getattr(torch, model.capabilities().dtype)
    original = copy.deepcopy(potential).to("cpu").eval()
    for name, frame in _witnesses(potential):
        structures = Structures.from_atoms(frame, dtype=dtype, ids=[name])
        stress = potential.conservative and bool(structures.pbc.all())
        try:
            wanted = original(structures, stress=stress)
        except PotentialError:
            continue  # what the potential itself refuses
        try:
            found = ask_metatomic(model, structures, stress=stress)
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1]  # above it stands where in the TorchScript it happened
            raise PotentialError(f"{_UNTRACED % potential.kind} ({name}: {last})") from error
        compared += 1
        for what in ("energy", "forces", "stress"):
            is_, was = getattr(found, what), getattr(wanted, what)
            if was is not None and not bool((is_ - was).abs().max() <= _AGREEMENT[dtype] * (1 + was.abs().max())):
                raise PotentialError(f"{_UNTRACED % potential.kind} ({what} of {name} differ from it)")
    if not compared:
        raise PotentialError(f"{_UNTRACED % potential.kind} (it refuses every structure to compare with)")


_UNTRACED = (
    "a %s potential cannot be exported to metatomic: its trace does not answer as it does; write its energy with "
    "tensor operations and .shape, no len(), int() or branches on values"
)


def _witnesses(potential: Potential) -> Iterator[tuple[str, Atoms]]:
    """Yield a lone atom, a pair, clusters and cells of the known elements, in orders of their own."""
    rng = numpy_stream(3, "structures to compare an export on")
    bond = min(2.4, 0.6 * max(potential.cutoff, 2.5))
    for name, count, side in (
        ("a lone atom", 1, None),
        ("a pair", 2, None),
        ("a cluster of 7", 7, None),
        ("a cell of 1", 1, 1.1),
        ("a cell of 4", 4, 1.9),
        ("a cell of 9", 9, 2.6),
    ):
        numbers = rng.choice(potential.species, count)
        grid = [[i, j, k] for i in range(3) for j in range(3) for k in range(3)][:count]
        positions = bond * (grid + 0.08 * rng.standard_normal((count, 3)))
        cell = None if side is None else bond * (side * torch.eye(3).numpy() + 0.05 * rng.standard_normal((3, 3)))
        yield name, Atoms(numbers, positions, cell=cell, pbc=side is not None)


def _trace(potential: Potential, dtype: torch.dtype) -> tuple[torch.jit.ScriptModule, bool]:
    """Return the traced network, and whether it takes structures without a cell."""
    frames = dict(_witnesses(potential))
    network, needs_cell, fault = Traced(potential), False, ""
    for name in ("a cluster of 7", "a cell of 9", "a cell of 4", "a pair", "a lone atom"):
        structures = Structures.from_atoms(frames[name], dtype=dtype)
        edges = potential.edges(structures)
        listed = torch.cat([edges.centre[:, None], edges.neighbour[:, None], edges.shift.long()], dim=1)
        given = (structures.positions, structures.cell[0], structures.pbc[0], structures.numbers, listed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the tracer's doubts are settled by check_file
                found = torch.jit.trace(network, given, check_trace=False)
        except PotentialError as error:  # too many atoms for it, or no cell
            needs_cell, fault = needs_cell or "periodic" in str(error), str(error)
            continue
        except Exception as error:  # tracing other people's modules raises whatever it likes
            raise PotentialError(f"{_UNTRACED % potential.kind} ({one_line(error)})") from error
        return found, needs_cell
    raise PotentialError(f"{_UNTRACED % potential.kind} ({fault})")


def _module(potential: Potential, dtype: torch.dtype) -> nn.Module:
    """Return the module that metatomic calls: systems in, tensor maps out."""
    from metatensor.torch import Labels, TensorBlock, TensorMap
    from metatomic.torch import ModelOutput, NeighborListOptions, System

    network, needs_cell = _trace(potential, dtype)

    class ThalwegModel(nn.Module):
        """A potential of thalweg as metatomic calls it."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.local = math.isfinite(interaction_range(potential))
            self.needs_cell = needs_cell
            self.neighbours = NeighborListOptions(
                cutoff=potential.cutoff, full_list=True, strict=True, requestor="thalweg"
            )

        def requested_neighbor_lists(self) -> List[NeighborListOptions]:  # noqa: UP006
            """Return the one list it needs."""
            return torch.jit.annotate(List[NeighborListOptions], [self.neighbours])  # noqa: UP006

        def evaluate(self, system: System) -> tuple[Tensor, Tensor]:
            """Return energies and forces of a system, as `Traced`."""
            if self.needs_cell and not bool(system.pbc.all()):
                raise ValueError("this model needs a cell that is periodic along all three directions")
            system = torch.jit.annotate(System, system)  # as in forward
            listed = system.get_neighbor_list(self.neighbours).samples.values
            return self.network(system.positions, system.cell, system.pbc, system.types, listed)

        def forward(
            self,
            systems: List[System],  # noqa: UP006
            outputs: Dict[str, ModelOutput],  # noqa: UP006
            selected_atoms: Optional[Labels],  # noqa: UP045
        ) -> Dict[str, TensorMap]:  # noqa: UP006
            """Return the energy and, of direct potentials, the forces of systems; see metatomic's ModelInterface."""
            if selected_atoms is not None and not self.local:
                raise ValueError("this model has no energies per atom: give it whole systems, in one process")
            energies: List[Tensor] = []  # noqa: UP006
            forces: List[Tensor] = []  # noqa: UP006
            atoms: List[Tensor] = []  # noqa: UP006
            totals: List[Tensor] = []  # noqa: UP006
            # TorchScript finds the types of a signature by the names of the body, hence annotate
            outputs = torch.jit.annotate(Dict[str, ModelOutput], outputs)  # noqa: UP006
            for k, system in enumerate(torch.jit.annotate(List[System], systems)):  # noqa: UP006
                energy, force = self.evaluate(system)
                chosen = torch.arange(system.positions.shape[0], device=system.positions.device)
                if selected_atoms is not None:
                    mine = selected_atoms.column("system") == k
                    chosen = selected_atoms.column("atom")[mine].to(torch.int64)
                atoms.append(torch.stack([torch.full_like(chosen, k), chosen], dim=1))
                forces.append(force)
                if self.local:
                    energy = energy[chosen]
                energies.append(energy)
                totals.append(energy.sum().unsqueeze(0))
            device = systems[0].positions.device
            rows = torch.arange(len(systems), device=device).unsqueeze(1)
            zero = torch.zeros((1, 1), dtype=torch.int64, device=device)
            samples = Labels(["system", "atom"], torch.cat(atoms))
            result: Dict[str, TensorMap] = {}  # noqa: UP006
            if "energy" in outputs:
                if outputs["energy"].sample_kind == "atom":
                    block = TensorBlock(torch.cat(energies).unsqueeze(1), samples, [], Labels(["energy"], zero))
                else:
                    whole = Labels(["system"], rows)
                    block = TensorBlock(torch.cat(totals).unsqueeze(1), whole, [], Labels(["energy"], zero))
                result["energy"] = TensorMap(Labels(["_"], zero), [block])
            if "non_conservative_force" in outputs:
                xyz = Labels(["xyz"], torch.arange(3, device=device).unsqueeze(1))
                named = Labels(["non_conservative_force"], zero)
                block = TensorBlock(torch.cat(forces).unsqueeze(2), samples, [xyz], named)
                result["non_conservative_force"] = TensorMap(Labels(["_"], zero), [block])
            return result

    return ThalwegModel()
