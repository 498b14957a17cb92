"""How the transformer learns where atoms are: coordinates in its tokens, distances in its attention.

    absolute     x_i / ℓ                                                       sees neither cell nor images
    fractional   sin 2πn f_i, cos 2πn f_i (n = 1 … harmonics), a / ℓ           f = x A⁻¹, A the lattice vectors a
    distance     b_ijh = Σ_images w_hk R_k(|x_j + t − x_i|)                    added to the scores of head h

Fractional waves are the same for all images of an atom; the lattice vectors beside them say how large the cell is
and how it lies. Neither kind of coordinate is translated or rotated along with a structure. The distance bias is:
it knows neighbours through the cell walls, and R_k carries a cutoff smooth to the third derivative.

In a cell wider than twice the cutoff (between any two faces) at most the nearest image of an atom is within reach, and
the bias is that of minimum-image distances. In a narrower cell every image within reach adds its share: the
nearest alone would have a kink where two are equally near, and derivatives of forces would jump there.

Source: fractional coordinates and cell as inputs of a transformer's tokens, Joshi et al. 2025 (ADiT, arXiv 2503.03965);
the waves, the lattice vectors in place of lengths and angles (forces need directions) and the bias are ours.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thalweg.errors import PotentialError
from thalweg.potentials.layers import normal
from thalweg.potentials.radial import RadialBasis, softened_length
from thalweg.potentials.seats import Seats
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges


def absolute_inputs(structures: Structures, length: float) -> Float[Tensor, "atoms 3"]:
    """Return x / ℓ.

    Args:
        structures: the batch.
        length: ℓ, Å.
    """
    return structures.positions / length


def fractional_inputs(structures: Structures, length: float, harmonics: int) -> Float[Tensor, "atoms inputs"]:
    """Return sines and cosines of the fractional coordinates, 6 × harmonics, and the lattice vectors over ℓ, 9.

    Args:
        structures: the batch.
        length: ℓ, Å.
        harmonics: waves along each lattice vector, at least 1.

    Raises:
        PotentialError: a structure that is not periodic along all three directions.
    """
    inside = structures.pbc.all(dim=1)
    if not bool(inside.all()):
        bad = int((~inside).nonzero()[0])
        raise PotentialError(
            f"structure {structures.ids[bad]!r} is periodic along {structures.pbc[bad].tolist()}, but fractional "
            "coordinates need all three directions: put it into a cell or take coordinates: absolute"
        )
    fractional = structures.positions.unsqueeze(1) @ torch.linalg.inv(structures.cell)[structures.owner]
    n = torch.arange(1, harmonics + 1, device=structures.device, dtype=structures.dtype)
    phase = (2.0 * math.pi * n[:, None] * fractional).flatten(1)  # atoms, harmonics × 3
    cell = (structures.cell / length).flatten(1)[structures.owner]
    return torch.cat([phase.sin(), phase.cos(), cell], dim=1)


class DistanceBias(nn.Module):
    """A number per pair of atoms and head, zero from the cutoff on, to add to the scores of attention."""

    def __init__(self, heads: int, cutoff: float, radial_functions: int, generator: torch.Generator) -> None:
        super().__init__()
        self.radial = RadialBasis("bessel", cutoff, radial_functions)
        self.weights = normal(generator, radial_functions, heads)

    def forward(
        self, structures: Structures, edges: Edges, seats: Seats
    ) -> Float[Tensor, "structures heads most most"]:
        """Return the bias of every pair of seats, −∞ where the second is empty.

        Args:
            structures: the batch; differentiable to positions and cell.
            edges: its neighbour list at the cutoff or beyond.
            seats: its seats.
        """
        distance = softened_length(edges.vectors(structures).T)
        each = self.radial(distance).T @ self.weights  # edges heads
        from_seat, to_seat = seats.seat.index_select(0, edges.centre), seats.seat.index_select(0, edges.neighbour)
        pair = from_seat * seats.most + to_seat % seats.most
        table = each.new_zeros((seats.structures * seats.most**2, each.shape[1])).index_add(0, pair, each)
        bias = table.view(seats.structures, seats.most, seats.most, -1).permute(0, 3, 1, 2)
        return bias if seats.mask is None else bias.masked_fill(~seats.mask, -torch.inf)
