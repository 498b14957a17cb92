"""Structures as metatomic systems with the neighbour lists a model asks for, and its answers as predictions.

Called by the export, which compares the file it wrote with the potential, and by the adapter, which opens such files.
Vectors between atoms carry the graph to positions and cell. Lattice vectors along directions that are not periodic are
zero in a system, as metatomic wants them.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.errors import PotentialError
from thalweg.potentials.contract import Prediction
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges, find_edges

_SAMPLES = ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"]


def needs_metatomic() -> None:
    """Refuse to go on without the package.

    Raises:
        PotentialError: it cannot be imported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, says torch; the package compiles some
            import metatomic.torch  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # a library built for another torch raises the latter two
        reason = " ".join(str(error).split())[:200]
        raise PotentialError(
            f"metatomic cannot be imported ({reason}): install it with pip install 'thalweg[metatomic]'"
        ) from None


def longest_cutoff(model: Any) -> float:
    """Return the longest cutoff of the lists that a model asks for, Å; 0 where it asks for none."""
    return max((float(o.engine_cutoff("Angstrom")) for o in model.requested_neighbor_lists()), default=0.0)


def systems_of(model: Any, structures: Structures, edges: Edges) -> list[Any]:
    """Return one metatomic `System` per structure, with every list that a model asks for.

    Args:
        model: a loaded `AtomisticModel`.
        structures: the batch; positions and cell keep their graph.
        edges: its neighbour list at `longest_cutoff` or beyond.
    """
    from metatomic.torch import System

    vectors = edges.vectors(structures)
    owner = structures.owner[edges.centre]
    systems = []
    for k, (start, stop) in enumerate(zip(structures.offsets[:-1], structures.offsets[1:], strict=True)):
        pbc = structures.pbc[k]
        system = System(
            types=structures.numbers[start:stop].to(torch.int32),
            positions=structures.positions[start:stop],
            cell=torch.where(pbc[:, None], structures.cell[k], 0.0),
            pbc=pbc,
        )
        mine = owner == k
        pairs = torch.stack([edges.centre[mine] - start, edges.neighbour[mine] - start], dim=1)
        whole = torch.cat([pairs, edges.shift[mine].long()], dim=1)
        for options in model.requested_neighbor_lists():
            system.add_neighbor_list(options, _listed(options, vectors[mine], whole))
        systems.append(system)
    return systems


def _listed(options: Any, vectors: Float[Tensor, "edges 3"], whole: Tensor) -> Any:
    from metatensor.torch import Labels, TensorBlock

    wanted = vectors.detach().square().sum(dim=1) <= float(options.engine_cutoff("Angstrom")) ** 2
    if not options.full_list:  # of both directions of a pair the one whose first differing number is positive
        signs = torch.cat([(whole[:, 1] - whole[:, 0])[:, None], whole[:, 2:]], dim=1).sign()
        wanted &= (signs * torch.tensor([8, 4, 2, 1], device=whole.device)).sum(dim=1) > 0
    return TensorBlock(
        values=vectors[wanted].unsqueeze(2),
        samples=Labels(_SAMPLES, whole[wanted].to(torch.int32)),
        components=[Labels(["xyz"], torch.arange(3, device=whole.device).unsqueeze(1))],
        properties=Labels(["distance"], torch.zeros((1, 1), dtype=torch.int64, device=whole.device)),
    )


def ask_energy(model: Any, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
    """Return energies, eV, with their graph.

    Args:
        model: a loaded `AtomisticModel`.
        structures: the batch.
        edges: as `systems_of` takes them.
    """
    from metatomic.torch import ModelEvaluationOptions, ModelOutput

    outputs = {"energy": ModelOutput(unit="eV", sample_kind="system")}
    options = ModelEvaluationOptions(length_unit="Angstrom", outputs=outputs, selected_atoms=None)
    # unoptimised: the first calls took 0.03 s in place of 0.8 s, later ones the same, and edges change at every step
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        found = model(systems_of(model, structures, edges), options, check_consistency=True)
    energy: Tensor = found["energy"].block().values.squeeze(1)
    return energy


def ask_metatomic(model: Any, structures: Structures, *, stress: bool = False) -> Prediction:
    """Return what a model says of a batch to an engine: forces and stress by gradient.

    Args:
        model: a loaded `AtomisticModel`.
        structures: the batch, in the floating type of the model.
        stress: also return the stress.
    """
    edges = find_edges(structures, longest_cutoff(model) or 1.0)
    strain = torch.eye(3, dtype=structures.dtype).repeat(len(structures), 1, 1).requires_grad_()
    start = structures.positions.clone().requires_grad_()
    symmetric = 0.5 * (strain + strain.transpose(1, 2))
    moved = structures.with_positions((start.unsqueeze(1) @ symmetric[structures.owner]).squeeze(1))
    energy = ask_energy(model, moved.with_cell(structures.cell @ symmetric), edges)
    gradients = torch.autograd.grad(energy.sum(), [start, strain])
    volume = torch.linalg.det(structures.cell).abs()[:, None, None]
    return Prediction(energy.detach(), -gradients[0], gradients[1] / volume if stress else None)
