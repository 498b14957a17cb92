"""A potential as a model of torch-sim: batched dynamics and relaxations there, with this potential.

Written against `torch_sim.models.interface.ModelInterface` of releases 0.3 (Python 3.11) and 0.6 (Python 3.12 on).
A state has cells with lattice vectors as columns, ours are rows; its stress is ours. Outputs are detached unless
`retain_graph` is set: then energy, forces and stress carry the graph to parameters, positions and cell. The package
is imported when a model is asked for, never before.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from thalweg.errors import PotentialError
from thalweg.potentials.contract import Potential
from thalweg.potentials.opening import open_potential
from thalweg.structures.batch import Structures


def structures_of(state: Any) -> Structures:
    """Return the structures of a torch-sim state; positions and cell keep their graph."""
    positions, cell = state.positions, state.row_vector_cell
    count = cell.shape[0]
    pbc = torch.as_tensor(state.pbc, dtype=torch.bool, device=positions.device)
    return Structures(
        positions=positions,
        numbers=state.atomic_numbers.long(),
        cell=cell,
        pbc=pbc.expand(count, 3),
        owner=state.system_idx.long(),
        free=torch.ones_like(positions, dtype=torch.bool),
        ids=tuple(f"system {k}" for k in range(count)),
    )


def answer(potential: Potential, state: Any, *, forces: bool, stress: bool, graph: bool) -> dict[str, Tensor]:
    """Return what torch-sim asks of a model.

    Args:
        potential: what answers.
        state: a torch-sim `SimState`.
        forces: also return forces, eV/Å, shape (atoms, 3).
        stress: also return the stress, eV/Å³, shape (systems, 3, 3); NaN where a cell has no volume, for there is
            none.
        graph: keep the graph.

    Raises:
        PotentialError: an element that the potential never saw.
    """
    found = potential(structures_of(state), graph=graph, stress=stress)
    given = {"energy": found.energy}
    if forces:
        given["forces"] = found.forces
    if found.stress is not None:
        flat = torch.linalg.det(state.row_vector_cell.detach()).abs() < 1e-12
        given["stress"] = found.stress.masked_fill(flat[:, None, None], torch.nan)
    return given


def torch_sim_model(potential: Potential | str, *, stress: bool = True, retain_graph: bool = False) -> nn.Module:
    """Return a torch-sim model (`ModelInterface`) that answers with a potential; parameters are shared.

    Args:
        potential: a potential with at least one floating tensor, which gives device and floating type; or what
            `open_potential` takes, e.g. the path of a model file.
        stress: whether to compute the stress; a direct potential has none.
        retain_graph: whether outputs carry the graph.

    Raises:
        PotentialError: torch-sim is not installed, or a stress asked of a direct potential.
        CheckpointError: a model file that cannot be read.
    """
    try:
        from torch_sim.models.interface import ModelInterface
    except ImportError as error:
        raise PotentialError(
            f"torch-sim cannot be imported ({error}): install it with pip install 'thalweg[torch-sim]'"
        ) from None
    if isinstance(potential, str):
        potential = open_potential(potential)
    if stress and not potential.conservative:
        raise PotentialError(f"a {potential.kind} potential has no stress: give stress=False")
    return _model(potential, ModelInterface, stress=stress, retain_graph=retain_graph)


def _model(potential: Potential, interface: Any, *, stress: bool, retain_graph: bool) -> nn.Module:
    """Return an instance of a subclass of torch-sim's interface."""
    home = next(t for t in (*potential.parameters(), *potential.buffers()) if t.is_floating_point())

    class TorchSimModel(interface):  # type: ignore[misc]
        """A thalweg potential in torch-sim."""

        def __init__(self) -> None:
            super().__init__()
            self.potential = potential
            self.retain_graph = retain_graph
            self._device, self._dtype = home.device, home.dtype
            self._compute_forces, self._compute_stress = True, stress

        if potential.conservative:  # without a setter torch-sim itself says that there is no such switch, and sees it

            @interface.compute_stress.setter  # type: ignore[untyped-decorator]
            def compute_stress(self, compute_stress: bool) -> None:
                """Switch the stress."""
                self._compute_stress = compute_stress

        @interface.compute_forces.setter  # type: ignore[untyped-decorator]
        def compute_forces(self, compute_forces: bool) -> None:
            """Switch the forces."""
            self._compute_forces = compute_forces

        def forward(self, state: Any) -> dict[str, Tensor]:
            """Return energy and, where switched on, forces and stress of a state."""
            return answer(
                self.potential,
                state,
                forces=self._compute_forces,
                stress=self._compute_stress,
                graph=self.retain_graph,
            )

    return cast(nn.Module, TorchSimModel())
