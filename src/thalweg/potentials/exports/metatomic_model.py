"""A potential as a metatomic model: one TorchScript file for LAMMPS, i-PI, ASE and what else speaks metatomic.

The network within is traced (`metatomic_trace`), so that no architecture is written a second time. Where an atom's
energy has a reach, the model gives energies per atom and declares the reach as interaction range; every other one
declares an infinite range, so that no program divides its atoms among processes.

The one output is the energy, eV: forces and stress are derivatives the program takes. The neighbour list asked for is
full, strict, and reaches the cutoff. The file is loaded again and compared with the potential on structures of other
sizes than traced before it takes its name. The package is imported when asked for. There is no
`from __future__ import annotations` here: metatomic compares the annotations of `forward` as objects.
"""

import copy
import math
import tempfile
import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional  # noqa: UP035  (TorchScript and metatomic know these alone)

import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from thalweg.errors import PotentialError
from thalweg.potentials.adapters.code import one_line
from thalweg.potentials.adapters.metatomic_energy import MetatomicEnergy
from thalweg.potentials.adapters.metatomic_systems import ask_metatomic, needs_metatomic
from thalweg.potentials.contract import ConservativePotential, Potential
from thalweg.potentials.exports.metatomic_trace import (
    AGREEMENT,
    UNTRACED,
    interaction_range,
    require_usable,
    trace,
    witnesses,
)
from thalweg.storage import atomic_write
from thalweg.structures.batch import Structures


def metatomic_model(potential: Potential) -> Any:
    """Return a metatomic `AtomisticModel` that answers with a copy of a potential, in evaluation mode, on the CPU.

    Args:
        potential: a potential in float32 or float64.

    Raises:
        PotentialError: metatomic is not installed, or the potential cannot be traced or used elsewhere.
    """
    needs_metatomic()
    frozen = copy.deepcopy(potential).to("cpu").eval().requires_grad_(False)
    if isinstance(frozen, MetatomicEnergy):
        return frozen.model  # with the parameters it has learnt
    from metatomic.torch import AtomisticModel, ModelCapabilities, ModelMetadata, ModelOutput

    home = next((t for t in (*potential.parameters(), *potential.buffers()) if t.is_floating_point()), None)
    if home is None or home.dtype not in AGREEMENT:
        raise PotentialError(
            f"a {potential.kind} potential {'without tensors' if home is None else f'in {home.dtype}'} is no metatomic "
            "model: allowed are float32 and float64, convert it with .to(dtype=...)"
        )
    reach = interaction_range(potential)
    outputs = {"energy": ModelOutput(unit="eV", sample_kind="atom" if math.isfinite(reach) else "system")}
    known = ", ".join(chemical_symbols[z] for z in potential.species)
    return AtomisticModel(
        _module(require_usable(frozen, home.dtype), home.dtype).eval(),
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
    for name, frame in witnesses(potential):
        structures = Structures.from_atoms(frame, dtype=dtype, ids=[name])
        stress = bool(structures.pbc.all())
        try:
            wanted = original(structures, stress=stress)
        except PotentialError:
            continue  # what the potential itself refuses
        try:
            found = ask_metatomic(model, structures, stress=stress)
        except (RuntimeError, torch.jit.Error) as error:
            last = str(error).strip().splitlines()[-1]  # above it stands where in the TorchScript it happened
            raise PotentialError(f"{UNTRACED % potential.kind} ({name}: {last})") from error
        compared += 1
        for what in ("energy", "forces", "stress"):
            is_, was = getattr(found, what), getattr(wanted, what)
            if was is not None and not bool((is_ - was).abs().max() <= AGREEMENT[dtype] * (1 + was.abs().max())):
                raise PotentialError(f"{UNTRACED % potential.kind} ({what} of {name} differ from it)")
    if not compared:
        raise PotentialError(f"{UNTRACED % potential.kind} (it refuses every structure to compare with)")


def _module(potential: ConservativePotential, dtype: torch.dtype) -> nn.Module:
    """Return the module that metatomic calls: systems in, tensor maps out."""
    from metatensor.torch import Labels, TensorBlock, TensorMap
    from metatomic.torch import ModelOutput, NeighborListOptions, System

    network = trace(potential, dtype)

    class ThalwegModel(nn.Module):
        """A potential of thalweg; TorchScript finds the types of a signature by the names of the body: `annotate`."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.local = math.isfinite(interaction_range(potential))
            self.neighbours = NeighborListOptions(
                cutoff=potential.cutoff, full_list=True, strict=True, requestor="thalweg"
            )

        def requested_neighbor_lists(self) -> List[NeighborListOptions]:  # noqa: UP006
            """Return the one list it needs."""
            return torch.jit.annotate(List[NeighborListOptions], [self.neighbours])  # noqa: UP006

        def evaluate(self, system: System) -> Tensor:
            """Return the energies of a system, as `Traced`."""
            system = torch.jit.annotate(System, system)
            listed = system.get_neighbor_list(self.neighbours).samples.values
            return self.network(system.positions, system.cell, system.pbc, system.types, listed)

        def forward(
            self,
            systems: List[System],  # noqa: UP006
            outputs: Dict[str, ModelOutput],  # noqa: UP006
            selected_atoms: Optional[Labels],  # noqa: UP045
        ) -> Dict[str, TensorMap]:  # noqa: UP006
            """Return the energy of systems or of atoms in them; see metatomic's ModelInterface."""
            if selected_atoms is not None and not self.local:
                atoms_given = 0
                for system in torch.jit.annotate(List[System], systems):  # noqa: UP006
                    atoms_given += system.positions.shape[0]
                if selected_atoms.values.shape[0] != atoms_given:  # LAMMPS in one process selects every atom
                    raise ValueError("this model has no energies per atom: give it whole systems, in one process")
            outputs = torch.jit.annotate(Dict[str, ModelOutput], outputs)  # noqa: UP006
            energies: List[Tensor] = []  # noqa: UP006
            atoms: List[Tensor] = []  # noqa: UP006
            for k, system in enumerate(torch.jit.annotate(List[System], systems)):  # noqa: UP006
                energy = self.evaluate(system)
                chosen = torch.arange(system.positions.shape[0], device=system.positions.device)
                if selected_atoms is not None:
                    mine = selected_atoms.column("system") == k
                    chosen = selected_atoms.column("atom")[mine].to(torch.int64)
                atoms.append(torch.stack([torch.full_like(chosen, k), chosen], dim=1))
                energies.append(energy[chosen] if self.local else energy)
            if "energy" not in outputs:
                return torch.jit.annotate(Dict[str, TensorMap], {})  # noqa: UP006
            if outputs["energy"].sample_kind == "atom":
                values, samples = torch.cat(energies), Labels(["system", "atom"], torch.cat(atoms))
            else:
                values = torch.stack([energy.sum() for energy in energies])
                rows = torch.arange(len(systems), device=values.device).unsqueeze(1)
                samples = Labels(["system"], rows)
            zero = torch.zeros((1, 1), dtype=torch.int64, device=values.device)
            block = TensorBlock(values.unsqueeze(1), samples, [], Labels(["energy"], zero))
            return {"energy": TensorMap(Labels(["_"], zero), [block])}

    return ThalwegModel()
