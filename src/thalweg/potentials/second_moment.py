"""Second-moment surfaces of metals and of what sits on them: batched, learnable, twice differentiable.

With u = r_ij / r0 − 1 of the bond of two elements and the switch S below,

    E = Σ_i [ Σ_{j≠i} (A e^{−p u} − B e^{−q u}) S  −  (sqrt(Σ_{j≠i} (ξ e^{−q u} S)² + ε²) − ε) ]

With B = 0 this is repulsion and the band energy of the second-moment approximation to tight binding, which
saturates: binding grows like the root of the number of neighbours. With ξ = 0 and p = 2q a bond is a Morse well,
half of it counted at either end. Pairs of elements without a bond do not interact. `thalweg.testbeds.titanium`
is made on it.

    S(r) = 1 − x⁴ (35 − 84 x + 70 x² − 20 x³),   x = (r − start) / (reach − start) clamped to [0, 1]

S has three continuous derivatives at both ends and a fourfold zero at the reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, ClassVar, Self

import torch
from ase.data import atomic_numbers
from jaxtyping import Float, Int
from torch import Tensor, nn

from thalweg.errors import PotentialError, nearest_known
from thalweg.potentials.contract import ConservativePotential
from thalweg.potentials.second_moment_bonds import Bond, bonds_of, require_consistent
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

SOFTENING = 1e-3
"""ε under the root, eV: without it the band energy of an atom that loses its last neighbour has no derivative.
It lifts the energy of an atom in a metal by ε and changes its band force by ε²/2ρ, 1e-8 of it in titanium."""


class SecondMoment(ConservativePotential):
    """A second-moment potential (Cleri and Rosato, Phys. Rev. B 48, 22 (1993)), with pair bonds where wanted.

    Learned, one each bond and each as its logarithm: A, B, ξ (eV), p and q. Strengths that are zero stay zero and
    are no parameters. Fixed: r0, which only sets where A, B and ξ are read, and start and reach of the switch, so
    that neighbour lists stay valid.

    Departures from the publication: the sums end in a smooth switch instead of behind the fifth neighbours, and
    the root is softened by `SOFTENING`.
    """

    kind: ClassVar[str] = "second-moment"
    takes_species: ClassVar[bool] = False

    def __init__(self, bonds: Sequence[Bond], *, dtype: torch.dtype = torch.float64) -> None:
        """Build the potential from its bonds.

        Args:
            bonds: at most one per unordered pair of elements, at least one in all.
            dtype: floating type of parameters and constants.

        Raises:
            PotentialError: no bond, or two for one pair of elements.
        """
        super().__init__()
        require_consistent(bonds)
        self._bonds = tuple(bonds)
        symbols = sorted({s for b in bonds for s in b.elements}, key=lambda s: atomic_numbers[s])
        self.species = tuple(atomic_numbers[s] for s in symbols)
        self.cutoff = max(b.reach for b in bonds)
        self.repulsion = _Column([b.repulsion for b in bonds], absent=0.0)
        self.attraction = _Column([b.attraction for b in bonds], absent=0.0)
        self.hopping = _Column([b.hopping for b in bonds], absent=0.0)
        self.hardness = _Column([b.hardness for b in bonds], absent=1.0)
        self.decay = _Column([b.decay for b in bonds], absent=1.0)
        # the last row stands for pairs without a bond: a switch that has closed before r = 0
        rows = {frozenset(b.elements): n for n, b in enumerate(bonds)}
        table = [rows.get(frozenset(pair), len(bonds)) for pair in product(symbols, repeat=2)]
        slots = torch.full((119,), -1)
        slots[list(self.species)] = torch.arange(len(symbols))
        self.register_buffer("rows", torch.tensor(table))
        self.register_buffer("slots", slots)
        self.register_buffer("lengths", torch.tensor([*(b.length for b in bonds), 1.0], dtype=torch.float64))
        self.register_buffer("starts", torch.tensor([*(b.start for b in bonds), -2.0], dtype=torch.float64))
        self.register_buffer("widths", torch.tensor([*(b.reach - b.start for b in bonds), 1.0], dtype=torch.float64))
        self.rows: Tensor
        self.slots: Tensor
        self.lengths: Tensor
        self.starts: Tensor
        self.widths: Tensor
        self.to(dtype)

    @classmethod
    def from_set(cls, name: str, *, dtype: torch.dtype = torch.float64) -> Self:
        """Build a set of bonds by its name: `"Ti"` or `"Ti-adsorbates"` (sources in `SETS`).

        Raises:
            PotentialError: another name.
        """
        return cls(bonds_of(name), dtype=dtype)

    @property
    def settings(self) -> dict[str, Any]:
        """The bonds it was built from, as JSON types."""
        return {"bonds": [b.plain() for b in self._bonds]}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Build a potential from `{"bonds": [...]}` or `{"set": name}`.

        Raises:
            PotentialError: an unknown key, neither or both keys, or bonds that cannot be read.
        """
        for key in settings:
            if key not in ("bonds", "set"):
                raise PotentialError(f"{cls.kind} has no setting {key!r}; {nearest_known(str(key), ('bonds', 'set'))}")
        if len(settings) != 1:
            raise PotentialError(f"{cls.kind} settings have {sorted(settings)}: give either 'bonds' or 'set'")
        if "set" in settings:
            return cls.from_set(settings["set"])
        bonds = settings["bonds"]
        if not isinstance(bonds, list | tuple):
            raise PotentialError(f"{cls.kind} bonds are {bonds!r}: give a list of mappings, one a pair of elements")
        return cls([Bond.from_plain(b) for b in bonds])

    def energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return the energy of each structure, eV; edges beyond the reach of a bond add exactly zero."""
        kinds = self.slots[structures.numbers]  # atoms
        if (kinds < 0).any():
            self.check(structures)
        bond = self.rows[kinds[edges.centre] * len(self.species) + kinds[edges.neighbour]]  # edges
        r = edges.vectors(structures).norm(dim=1)
        u = r / self.lengths[bond] - 1
        open_ = smooth_step((r - self.starts[bond]) / self.widths[bond])
        band = (-self.decay(bond) * u).exp()
        pair = self.repulsion(bond) * (-self.hardness(bond) * u).exp() - self.attraction(bond) * band
        square = (self.hopping(bond) * band * open_).square()
        zero = r.new_zeros(structures.positions.shape[0])  # no len(): exports trace this
        second_moment = zero.index_add(0, edges.centre, square)
        of_atom = zero.index_add(0, edges.centre, pair * open_)
        return structures.total(of_atom - ((second_moment + SOFTENING**2).sqrt() - SOFTENING))


def smooth_step(x: Float[Tensor, " *any"]) -> Float[Tensor, " *any"]:
    """Return 1 − x⁴ (35 − 84 x + 70 x² − 20 x³), with x clamped to [0, 1]: from 1 down to 0.

    Value and three derivatives are those of the constants it joins. Written as (1 − x)⁴ (1 + 4 x + 10 x² + 20 x³),
    the same polynomial, so that its zero at x = 1 is exact.
    """
    x = x.clamp(0.0, 1.0)
    return (1 - x).square().square() * (1 + x * (4 + x * (10 + 20 * x)))


class _Column(nn.Module):
    """One quantity of every bond, learned as a logarithm where it is above zero."""

    def __init__(self, values: Sequence[float], *, absent: float) -> None:
        super().__init__()
        above = [n for n, value in enumerate(values) if value > 0]
        places = torch.full((len(values) + 1,), len(above))  # what is not learned reads `absent` behind the others
        places[above] = torch.arange(len(above))
        self.raw = nn.Parameter(torch.tensor([values[n] for n in above], dtype=torch.float64).log())
        self.register_buffer("places", places)
        self.register_buffer("absent", torch.tensor([absent], dtype=torch.float64))
        self.places: Tensor
        self.absent: Tensor

    def forward(self, bond: Int[Tensor, " edges"]) -> Float[Tensor, " edges"]:
        """Return the value of each edge's bond."""
        return torch.cat([self.raw.exp(), self.absent])[self.places[bond]]
