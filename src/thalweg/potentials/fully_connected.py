"""The fully connected network: an energy from all coordinates of a structure at once, the least a potential can know.

Structures are padded to a fixed number of seats; the input is what sits in them and the lattice vectors,

    E = scale · MLP([x_1 / ℓ, e_{z_1}, …, x_n / ℓ, e_{z_n}, 0, …, a / ℓ]) + Σ_i shift_{z_i}

with one-hot species e and zeros in empty seats. Forces and stress are derivatives of this energy, so they are
consistent with it, and nothing else holds: renumbering, moving or turning the atoms, or taking an image of one,
gives another energy. A baseline for comparison: what it does not reach was worth an architecture.

The energy form was chosen over heads for forces: second derivatives are symmetric, and the 3n outputs of a force
head would be the larger part of a small network.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import silu

from thalweg.errors import PotentialError
from thalweg.potentials.contract import ConservativePotential
from thalweg.potentials.layers import SILU_GAIN, Linear, Network, NetworkSettings
from thalweg.potentials.seats import Seats
from thalweg.seeds import torch_stream
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges


class FullyConnectedSettings(NetworkSettings):
    """The values that fix a fully connected network and its initial parameters."""

    atoms: int = Field(default=64, ge=1)
    """Seats: the largest structure it can describe."""
    width: int = Field(default=128, ge=1)
    """Width of the hidden layers."""
    layers: int = Field(default=3, ge=1)
    """Hidden layers."""
    length: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    """ℓ, Å: coordinates and lattice vectors are divided by it."""


class FullyConnected(Network, ConservativePotential):
    """An energy from padded coordinates; built from `FullyConnectedSettings`, in float32.

    It needs no neighbour list: `cutoff` only bounds the search for overlapping atoms while relaxing.
    """

    kind: ClassVar[str] = "fully_connected"
    model: ClassVar[type[NetworkSettings]] = FullyConnectedSettings

    def __init__(self, settings: FullyConnectedSettings) -> None:
        """Draw fresh parameters from the stream of `settings.seed`; shift 0 and scale 1 until set."""
        super().__init__()
        self.begin(settings)
        self._seats, self._length = settings.atoms, settings.length
        self.cutoff = 1.5
        generator = torch_stream(settings.seed, "fully connected parameters")
        sizes = [settings.atoms * (3 + len(settings.species)) + 9, *[settings.width] * settings.layers, 1]
        self.maps = nn.ModuleList(
            Linear(rows, columns, generator, gain=SILU_GAIN if n else 1.0)
            for n, (rows, columns) in enumerate(pairwise(sizes))
        )

    def energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return the energy of each structure, eV; the edges are not used.

        Raises:
            PotentialError: a structure with more atoms than seats.
        """
        self.check_input(structures)
        self._check_seats(structures)
        known = torch.tensor(self.species, device=structures.device)
        one_hot = (structures.numbers.unsqueeze(1) == known).to(structures.dtype)
        atoms = torch.cat([structures.positions / self._length, one_hot], dim=1)
        table = Seats.of(structures, self._seats).spread(atoms).flatten(1)
        y = self.maps[0](torch.cat([table, structures.cell.flatten(1) / self._length], dim=1))
        for linear in self.maps[1:]:
            y = linear(silu(y))
        return self.scale * y.squeeze(1) + structures.total(one_hot @ self.shift)

    def _check_seats(self, structures: Structures) -> None:
        counts = structures.counts
        if int(counts.max()) > self._seats:
            largest = int(counts.argmax())
            atoms = int(counts[largest])
            raise PotentialError(
                f"structure {structures.ids[largest]!r} has {atoms} atoms, but this {self.kind} potential has seats "
                f"for {self._seats}: leave it out, or train one with atoms: {atoms}"
            )
