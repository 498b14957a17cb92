"""Specimens: for every kind of potential a small one that has minima, made in seconds, and starts near them.

What verification needs of a potential is a stable minimum within reach, and random parameters have none. Forces
are linear in the weights of the last map, F = Σ_k w_k F_k, so those alone are fitted, by ridge regression on the
responses F_k of the other, random parameters, to Stillinger–Weber forces on rattled cells of silicon. A kind that
feels where it stands in space learns a trap as well: a spring from every atom to its site. Nothing about the
accuracy of a kind follows from this. Called by `thalweg verify KIND` and by tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from jaxtyping import Float
from torch import Tensor

from thalweg.errors import SettingsError, nearest_known
from thalweg.evaluation.certify import small_crystals
from thalweg.evaluation.lookups import LOOKUPS
from thalweg.potentials import POTENTIALS, build_potential
from thalweg.potentials.adapters.torch_energy import TorchEnergy
from thalweg.potentials.contract import Potential
from thalweg.potentials.layers import Linear
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

SPRING = 12.0
"""Stiffness of the trap, eV/Å²: translations are then stiff enough for a rough fit to keep the minimum."""
_RIDGE = 1e-6
"""Regularisation, as a share of the mean square of a response."""


@dataclass(frozen=True)
class Recipe:
    """How a specimen of a kind is made."""

    settings: dict[str, Any]
    """Small sizes; the species is silicon."""
    head: str
    """Name of the last linear map, in whose weights forces are linear."""
    trap: int | None = None
    """Atoms of the cell of a kind that is pinned in space (8 cubic, 2 primitive); None for one that is not."""
    frames: int = 40
    """Cells that it is fitted to."""


_MESSAGES: dict[str, Any] = {"species": [14], "channels": 16}
RECIPES: dict[str, Recipe] = {
    "painn": Recipe(_MESSAGES, "readout.outer"),
    "equivariant": Recipe({"species": [14], "channels": 8}, "readout.outer"),
    "schnet": Recipe(_MESSAGES, "readout.outer"),
    "transformer": Recipe(
        {"species": [14], "width": 256, "feed_forward": 64, "layers": 2, "heads": 4, "length": 0.5}, "push", 8, 300
    ),
    "fully_connected": Recipe({"species": [14], "atoms": 8, "width": 96, "layers": 1}, "maps.1", 2, 100),
}
"""The kinds that are fitted; Stillinger–Weber comes with published parameters."""


@dataclass(frozen=True, eq=False)
class Specimen:
    """A potential in float64 and where relaxations begin."""

    potential: Potential
    starts: Structures
    """Two starts near minima."""

    @property
    def parameters(self) -> int:
        """How many numbers it learns."""
        return sum(p.numel() for p in self.potential.parameters())


def make_specimen(kind: str, settings: dict[str, Any] | None = None, *, seed: int = 0) -> Specimen:
    """Make a specimen; the same words give the same one everywhere.

    Args:
        kind: a key of `POTENTIALS`.
        settings: what differs from the small sizes, e.g. {"coordinates": "fractional"}.
        seed: root seed of parameters, frames and starts.

    Raises:
        SettingsError: a lookup, code of one's own, an unknown kind, or settings where there are none.
        PotentialError: settings that the kind refuses.
    """
    given = settings or {}
    _refuse(kind, given)
    if kind == StillingerWeber.kind:
        published = StillingerWeber.from_published("Si")
        return Specimen(published, small_crystals(published, 2, seed))
    recipe = RECIPES[kind]
    told = {**recipe.settings, "seed": seed, **given}
    potential = build_potential(kind, told).double()
    if tuple(potential.species) != (14,):
        raise SettingsError(f"species is {told['species']}: a specimen is made on silicon alone, allowed is [14]")
    if recipe.trap is None:
        seen, starts = _strained(recipe.frames, seed), small_crystals(potential, 2, seed)
    else:
        seen, starts = _sites(recipe.trap, recipe.frames, 0.1, seed), _sites(recipe.trap, 2, 0.05, seed + 1)
    wanted = StillingerWeber.from_published("Si")(seen).forces
    if recipe.trap is not None:
        wanted = wanted - SPRING * (seen.positions - _sites(recipe.trap, recipe.frames, 0.0, seed).positions)
    fit_head(potential, recipe.head, seen, wanted)
    return Specimen(potential, starts)


def _refuse(kind: str, settings: dict[str, Any]) -> None:
    if kind in LOOKUPS:
        raise SettingsError(
            f"{kind} is a lookup: it has no parameters and no derivatives, so there is no gradient to verify; "
            f"measure_lookup_errors judges it, and {', '.join(sorted(RECIPES))} have gradients"
        )
    if kind == TorchEnergy.kind:
        raise SettingsError(
            "torch stands for code of your own: name it, e.g. 'torch:mymodels:make?species=Si&cutoff=4.2'"
        )
    if kind not in POTENTIALS:
        raise SettingsError(
            f"{kind!r} is neither a file nor a kind of potential; {nearest_known(kind, POTENTIALS)}; a model file is "
            "what thalweg train or tune wrote"
        )
    if settings and kind not in RECIPES:
        raise SettingsError(f"{kind} takes no settings here, but {', '.join(settings)} was given: leave them out")


def fit_head(potential: Potential, name: str, structures: Structures, wanted: Float[Tensor, "atoms 3"]) -> float:
    """Fit the last linear map to forces, in place; return the share of their square that is left.

    A conservative potential has one column of weights, which all components share; a direct one has a column, and
    a constant, for each component.

    Args:
        potential: in float64, with its other parameters as they are.
        name: the map, in whose weights forces are linear.
        structures: where.
        wanted: forces to learn, eV/Å.
    """
    head = potential.get_submodule(name)
    if not isinstance(head, Linear):
        raise SettingsError(f"{name} of a {potential.kind} potential is no linear map: name the last one")
    edges = potential.edges(structures)
    with torch.no_grad():
        if potential.conservative:
            _solve(head, 0, _responses(potential, head, structures, edges).flatten(1), wanted.flatten())
        else:
            entered = _entering(potential, head, structures, edges)
            for column in range(wanted.shape[1]):
                _solve(head, column, entered, wanted[:, column])
        left = wanted - potential(structures, edges=edges).forces
    return float(left.square().sum() / wanted.square().sum())


def _responses(
    potential: Potential, head: Linear, structures: Structures, edges: Edges
) -> Float[Tensor, "rows atoms 3"]:
    """Return the forces for each weight of a single column in turn, one, with all others zero."""
    head.weight.zero_()
    found = []
    for row in range(len(head.weight)):
        head.weight[row] = 1.0
        found.append(potential(structures, edges=edges).forces)
        head.weight[row] = 0.0
    return torch.stack(found)


def _entering(potential: Potential, head: Linear, structures: Structures, edges: Edges) -> Float[Tensor, "rows atoms"]:
    """Return what a head of forces is fed, and a row of ones for its constant: what forces are linear in."""
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    potential(structures, edges=edges)
    handle.remove()
    return torch.cat([seen[0], torch.ones_like(seen[0][:, :1])], dim=1).T


def _solve(head: Linear, column: int, responses: Float[Tensor, "rows components"], wanted: Tensor) -> None:
    """Write the ridge solution into a column of weights, and what is beyond the weights into the constant."""
    gram = responses @ responses.T
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
    found = torch.linalg.solve(gram, responses @ wanted)
    head.weight[:, column] = found[: len(head.weight)]
    if head.bias is not None and len(found) > len(head.weight):
        head.bias[column] = found[-1]


def _strained(count: int, seed: int) -> Structures:
    """Return cubic cells of eight atoms, 0.93 to 1.02 times as wide as silicon's, strained and rattled."""
    frames: list[Atoms] = []
    for k in range(count):
        stream = numpy_stream(seed, "specimen frames", k)
        frame = bulk("Si", cubic=True)
        strain = 0.03 * stream.standard_normal((3, 3))
        deformation = stream.uniform(0.93, 1.02) * (np.eye(3) + 0.5 * (strain + strain.T))
        frame.set_cell(frame.cell.array @ deformation, scale_atoms=True)
        frame.positions += 0.1 * stream.standard_normal(frame.positions.shape)
        frames.append(frame)
    return Structures.from_atoms(frames)


def _sites(atoms: int, count: int, amplitude: float, seed: int) -> Structures:
    """Return cells of silicon with 8 (cubic) or 2 atoms, rattled by `amplitude` (Å)."""
    frames: list[Atoms] = []
    for k in range(count):
        frame = bulk("Si", cubic=atoms == 8)
        frame.positions += amplitude * numpy_stream(seed, "specimen sites", k).standard_normal((atoms, 3))
        frames.append(frame)
    return Structures.from_atoms(frames)
