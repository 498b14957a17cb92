"""Equivariant messages and products of spherical tensors: an energy from features of every order l up to l_max.

Every atom i carries features h_i^l (2l + 1 components × C channels, parity (−1)^l). One layer sums over neighbours

    A_i^l3 = Σ_j Σ_paths W_p(d_ij) ∘ C^{l1 l2 l3} (h_j^l1 Q_p ⊗ Y^l2(r̂_ij)),   W_p(d) = Σ_k R_k(d) w_pk

takes products of these sums, channel by channel, up to the correlation order ν,

    X_1 = A,   X_n^l3 = Σ_paths w_p ∘ C^{l1 l2 l3} (X_{n−1}^l1 ⊗ A^l2),   m^l = [X_1^l … X_ν^l] M_l

and updates h^0 ← h^0 + m^0 + g_0, h^l ← h^l + g_l ∘ m^l with gates g = MLP(h^0, m^0). The last layer keeps
scalars only: E = Σ_i [scale · MLP(h_i^0) + shift_{z_i}]. Sums are divided by the root of the typical number of
neighbours n̄, or by n̄ where scalars add up. With ν = 1 these are the messages of NequIP (Batzner et al. 2022,
eqs. 5 to 8), with ν = 2 or 3 the products of MACE (Batatia et al. 2022, eqs. 9 to 11). Departures: filters are
linear in the radial functions, products are built one factor at a time, gates come from a perceptron.

The algebra is that of e3nn (real bases, coupling coefficients `wigner_3j`). Channels are mixed by atom, then coupled
and weighted pair by pair for a block of atoms at a time (`neighbour_sums`); no generated or scripted code is involved:
the potential copies, pickles, changes its floating type and is differentiated like any other. Coefficients are kept in
float64 and rounded once; a tensor product of e3nn built in float32 keeps them rounded in float64, which showed as
2e-10 in sums of order 1e-2.

For 8 × 64 silicon atoms, 24 channels and l ≤ 2 (19,369 parameters) forces take 0.41 of the time of summing radial
functions times features first and coupling then, the loss on forces 0.59, and its graph keeps 34 MB (82); at l ≤ 1 and
32 channels 0.62, 0.75 and 16 MB (35). float32, one thread of a busy machine, CPU time. l_max is 2 by default, for
l = 1 is what PaiNN has already.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from thalweg.potentials.contract import ConservativePotential
from thalweg.potentials.layers import Linear, Network, NetworkSettings, Perceptron, normal
from thalweg.potentials.neighbour_sums import Inputs, neighbour_sums
from thalweg.potentials.neighbourhoods import Neighbourhoods, lay_out
from thalweg.potentials.radial import RadialBasis, softened_length
from thalweg.potentials.spherical import Constant, Harmonics, block, orders, paths, shares
from thalweg.seeds import torch_stream
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

_GATE_GAIN = 0.7
"""That of PaiNN's gates: products grow from layer to layer at full gain."""


class EquivariantSettings(NetworkSettings):
    """The values that fix an equivariant potential and its initial parameters."""

    channels: int = Field(default=16, ge=1)
    """C, the width of the features of each order."""
    l_max: int = Field(default=2, ge=1, le=3)
    """Highest order of features and harmonics."""
    layers: int = Field(default=2, ge=1)
    """Messages passed; the reach is layers × cutoff."""
    correlation: int = Field(default=2, ge=1, le=3)
    """ν, the highest power of the sums over neighbours within a layer."""
    cutoff: float = Field(default=4.2, gt=0, allow_inf_nan=False)
    """r_c, Å."""
    radial: Literal["bessel", "gaussian"] = "bessel"
    """Radial basis."""
    radial_functions: int = Field(default=8, ge=1)
    """Number of radial functions."""
    average_neighbours: float = Field(default=16.0, gt=0, allow_inf_nan=False)
    """n̄, the typical number of neighbours, by which sums over neighbours are normalised."""


class Message(nn.Module):
    """Sums over neighbours of coupled features and harmonics, A^0 … A^wanted."""

    component: Tensor
    path: Tensor

    def __init__(self, settings: EquivariantSettings, generator: torch.Generator, *, first: bool, wanted: int) -> None:
        """Draw filters and channel mixings; in the first layer the features are the one-hot species."""
        super().__init__()
        width = len(settings.species) if first else settings.channels
        chosen = paths(0 if first else settings.l_max, settings.l_max, wanted)
        self.filters = normal(generator, len(chosen), settings.radial_functions, settings.channels)
        scale = 1.0 if first else 1 / math.sqrt(width)
        self.mix = normal(generator, len(chosen), width, settings.channels, scale=scale)
        n = settings.average_neighbours
        # path 0 is (0, 0) → 0, on which scalars of all neighbours add up; on the others they partly cancel
        norms = [s / (n if p == 0 else math.sqrt(n)) for p, s in enumerate(shares(chosen))]
        self.couplings = nn.ModuleList()
        component: list[int] = []
        path: list[int] = []
        for order in range(wanted + 1):
            into = [p for p, found in enumerate(chosen) if found.result == order]
            parts = []
            for p in into:
                l1, l2, _ = chosen[p]
                part = torch.zeros((settings.l_max + 1) ** 2, 2 * l1 + 1, 2 * order + 1, dtype=torch.float64)
                part[block(l2)] = norms[p] * chosen[p].coefficients().transpose(0, 1)
                parts.append(part)
                component += range(l1**2, (l1 + 1) ** 2)
                path += [p] * (2 * l1 + 1)
            self.couplings.append(Constant(torch.cat(parts, dim=1)))  # m2 of all orders, m1 of all paths, m3
        self.register_buffer("component", torch.tensor(component), persistent=False)
        self.register_buffer("path", torch.tensor(path), persistent=False)

    def forward(
        self,
        features: Float[Tensor, "components1 atoms width"],
        harmonics: Float[Tensor, "components2 atoms slots"],
        radial: Float[Tensor, "radial atoms slots"],
        around: Neighbourhoods,
    ) -> Float[Tensor, "components3 atoms channels"]:
        """Return the sums of all orders."""
        inputs = Inputs(
            harmonics=harmonics.flatten(1),
            radial=radial.flatten(1),
            features=features.index_select(0, self.component) @ self.mix.index_select(0, self.path),
            filters=self.filters.transpose(0, 1).index_select(1, self.path),
            neighbour=around.neighbour,
        )
        return neighbour_sums(inputs, tuple(found() for found in self.couplings)).transpose(0, 1)


class Product(nn.Module):
    """X_n from X_{n−1} and the sums A, channel by channel."""

    first: Tensor
    second: Tensor
    path: Tensor
    result: Tensor

    def __init__(self, channels: int, l_max: int, wanted: int, generator: torch.Generator, *, symmetric: bool) -> None:
        super().__init__()
        chosen = paths(l_max, l_max, wanted, symmetric=symmetric)
        self.weight = normal(generator, len(chosen), channels)
        size = (l_max + 1) ** 2
        parts = []
        for found, share in zip(chosen, shares(chosen), strict=True):
            part = torch.zeros(2 * found.result + 1, size, size, dtype=torch.float64)
            part[:, block(found.first), block(found.second)] = share * found.coefficients().permute(2, 0, 1)
            parts.append(part)
        joined = torch.cat(parts)
        if symmetric:  # x_a x_b and x_b x_a are one product
            joined = joined.triu() + joined.tril(-1).transpose(1, 2)
        used = (joined.abs().amax(0) > 1e-12).nonzero()
        self.coefficients = Constant(joined[:, used[:, 0], used[:, 1]].contiguous())
        self.size = (wanted + 1) ** 2
        self.register_buffer("first", used[:, 0].contiguous(), persistent=False)
        self.register_buffer("second", used[:, 1].contiguous(), persistent=False)
        rows = [(p, m) for p, found in enumerate(chosen) for m in range(found.result**2, (found.result + 1) ** 2)]
        self.register_buffer("path", torch.tensor([p for p, _ in rows]), persistent=False)
        self.register_buffer("result", torch.tensor([m for _, m in rows]), persistent=False)

    def forward(
        self, x: Float[Tensor, "components atoms channels"], a: Float[Tensor, "components atoms channels"]
    ) -> Float[Tensor, "components3 atoms channels"]:
        """Return the products of all orders."""
        pairs = x.index_select(0, self.first) * a.index_select(0, self.second)
        coupled = (self.coefficients() @ pairs.flatten(1)).unflatten(1, x.shape[1:])
        weighted = coupled * self.weight.index_select(0, self.path).unsqueeze(1)
        return weighted.new_zeros((self.size, *x.shape[1:])).index_add(0, self.result, weighted)


class Update(nn.Module):
    """Products, mixing and gates within an atom; the last one gives scalars only."""

    order: Tensor

    def __init__(self, settings: EquivariantSettings, generator: torch.Generator, *, last: bool) -> None:
        super().__init__()
        c, top, powers = settings.channels, settings.l_max, settings.correlation
        self.highest = 0 if last else top
        self.products = nn.ModuleList(
            Product(c, top, 0 if last and n == powers else top, generator, symmetric=n == 2)
            for n in range(2, powers + 1)
        )
        self.mixes = nn.ModuleList(Linear(powers * c, c, generator, bias=False) for _ in range(self.highest + 1))
        self.gates = Perceptron(2 * c, c, (self.highest + 1) * c, generator, gain=_GATE_GAIN)
        self.register_buffer("order", orders(self.highest), persistent=False)

    def forward(
        self, features: Float[Tensor, "components atoms channels"], sums: Float[Tensor, "components2 atoms channels"]
    ) -> Float[Tensor, "components3 atoms channels"]:
        """Return the next features; where a feature of some order was missing, it begins here."""
        powers = [sums]
        for product in self.products:
            powers.append(product(powers[-1], sums))
        size = len(self.order)
        joined = torch.cat([x[:size] for x in powers], dim=2)
        mixed = joined @ torch.stack([cast(Linear, mix).weight for mix in self.mixes]).index_select(0, self.order)
        scalars, others = mixed.split([1, size - 1])
        gates = self.gates(torch.cat([features[:1], scalars], dim=2))
        gates = gates.view(-1, self.highest + 1, features.shape[2]).transpose(0, 1).index_select(0, self.order)
        shift, factors = gates.split([1, size - 1])
        moved = torch.cat([scalars + shift, others * factors])
        if size == 1:
            return features[:1] + moved
        return features + moved if len(features) == size else torch.cat([features + moved[:1], moved[1:]])


class Equivariant(Network, ConservativePotential):
    """Equivariant message passing of any order with an energy; from `EquivariantSettings`, in float32."""

    kind: ClassVar[str] = "equivariant"
    model: ClassVar[type[NetworkSettings]] = EquivariantSettings

    def __init__(self, settings: EquivariantSettings) -> None:
        """Draw fresh parameters from the stream of `settings.seed`; shift 0 and scale 1 until set.

        Raises:
            PotentialError: e3nn cannot be imported.
        """
        super().__init__()
        self.begin(settings)
        self.cutoff = settings.cutoff
        c, top, final = settings.channels, settings.l_max, settings.layers - 1
        generator = torch_stream(settings.seed, "equivariant parameters")
        self.radial = RadialBasis(settings.radial, settings.cutoff, settings.radial_functions)
        self.harmonics = Harmonics(top)
        self.embedding = normal(generator, len(settings.species), c)
        self.messages = nn.ModuleList(
            Message(settings, generator, first=n == 0, wanted=0 if n == final and settings.correlation == 1 else top)
            for n in range(settings.layers)
        )
        self.updates = nn.ModuleList(Update(settings, generator, last=n == final) for n in range(settings.layers))
        self.readout = Perceptron(c, c, 1, generator)

    def energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return the energy of each structure, eV."""
        self.check_input(structures)
        around = lay_out(structures, edges, self.cutoff)
        d = softened_length(around.vectors)
        harmonics, radial = self.harmonics(around.vectors / d), self.radial(d)
        known = torch.tensor(self.species, device=structures.device)
        one_hot = (structures.numbers.unsqueeze(1) == known).to(self.scale)  # atoms species
        features = (one_hot @ self.embedding).unsqueeze(0)
        for n, (message, update) in enumerate(zip(self.messages, self.updates, strict=True)):
            sums = message(features if n else one_hot.unsqueeze(0), harmonics, radial, around)
            features = update(features, sums)
        per_atom = self.scale * self.readout(features[0]).flatten() + one_hot @ self.shift
        return structures.total(per_atom)
