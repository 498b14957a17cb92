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

The algebra is that of e3nn (real bases, coupling coefficients `wigner_3j`); its tensor products are taken here
as plain matrix products. Σ_j R_k(d_ij) Y_m(r̂_ij) h_jc is one batched product over the slots of an atom, and
only then coupled, so nothing is coupled edge by edge and no generated or scripted code is involved: the
potential copies, pickles, changes its floating type and is differentiated like any other. Coefficients are kept
in float64 and rounded once; a tensor product of e3nn built in float32 keeps them rounded in float64, which
showed as 2e-10 in sums of order 1e-2.

For 8 × 64 silicon atoms the defaults have 9,329 parameters (PaiNN's 20,129), forces take 36 ms (10) and a Hessian
product from forces with a graph 70 ms (17), float32, one thread of a busy machine, CPU time, best of five in turn; that
graph keeps 58 MB (29). Sums over neighbours as one product, cut into blocks, took 44 and 88 ms: putting the gradient
together from its pieces was 31 % of all. l_max is 2 by default, for l = 1 is what PaiNN has already. No accuracy was
compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from thalweg.errors import PotentialError
from thalweg.potentials.contract import ConservativePotential
from thalweg.potentials.layers import Linear, Network, NetworkSettings, Perceptron, normal
from thalweg.potentials.neighbourhoods import Neighbourhoods, lay_out
from thalweg.potentials.radial import RadialBasis, softened_length
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


def coupling(l1: int, l2: int, l3: int) -> Float[Tensor, "m1 m2 m3"]:
    """Return sqrt(2 l3 + 1) C^{l1 l2 l3} in float64, which couples unit variance to unit variance.

    Args:
        l1: order of the first factor.
        l2: order of the second factor.
        l3: order of the result, from |l1 − l2| to l1 + l2.

    Raises:
        PotentialError: e3nn cannot be imported.
    """
    try:
        from e3nn.o3 import wigner_3j
    except ImportError as error:
        raise PotentialError(
            f"the equivariant potential needs the package e3nn ({error}): pip install 'thalweg[equivariant]', or "
            "take another kind, e.g. painn"
        ) from None
    coefficients: Tensor = wigner_3j(l1, l2, l3, dtype=torch.float64, device=torch.device("cpu"))
    return math.sqrt(2 * l3 + 1) * coefficients


class Constant(nn.Module):
    """A tensor that is rounded anew from float64 whenever the floating type changes; in no model file."""

    value: Tensor

    def __init__(self, exact: Float[Tensor, "..."]) -> None:
        super().__init__()
        self.exact = exact.numpy()  # an array, so that .to(dtype=...) leaves it alone
        self.register_buffer("value", exact.to(torch.float32), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.value.copy_(torch.from_numpy(self.exact))
        return self

    def forward(self) -> Tensor:
        """Return the tensor in the floating type of the moment."""
        return self.value


class Coupling(nn.Module):
    """All paths (l1, l2) → l3 ≤ `wanted` that keep the parity (−1)^l, and their coefficients."""

    def __init__(self, first: int, second: int, wanted: int, *, symmetric: bool = False) -> None:
        """List the paths.

        Args:
            first: highest l1.
            second: highest l2.
            wanted: highest l3.
            symmetric: both factors are the same, so that l1 ≤ l2 is enough.
        """
        super().__init__()
        self.blocks: list[tuple[int, int]] = []
        self.results: list[list[int]] = []
        self.coefficients = nn.ModuleList()
        for l1 in range(first + 1):
            for l2 in range(l1 if symmetric else 0, second + 1):
                found = list(range(abs(l1 - l2), min(l1 + l2, wanted) + 1, 2))
                if found:
                    self.blocks.append((l1, l2))
                    self.results.append(found)
                    rows = torch.cat([coupling(l1, l2, l3).flatten(0, 1) for l3 in found], dim=1)
                    self.coefficients.append(Constant(rows.T.contiguous()))
        self.paths = [l3 for found in self.results for l3 in found]
        self.shares = [1.0 / math.sqrt(self.paths.count(l3)) for l3 in self.paths]

    def forward(
        self, pairs: Iterator[Float[Tensor, "_ atoms width"]]
    ) -> Iterator[tuple[int, int, Float[Tensor, "_ atoms width"]]]:
        """Yield the number of each path, its l3 and what it couples to.

        Args:
            pairs: for each of `blocks` the products of the components of both factors (the first slower).
        """
        path = 0
        for pair, coefficients, found in zip(pairs, self.coefficients, self.results, strict=True):
            coupled = (coefficients() @ pair.flatten(1)).unflatten(1, pair.shape[1:])
            parts = coupled.split([2 * l3 + 1 for l3 in found])
            for l3, part in zip(found, parts, strict=True):
                yield path, l3, part
                path += 1


class Geometry(nn.Module):
    """Radial functions times spherical harmonics, |Y^l|² = 2l + 1, in the basis of e3nn."""

    def __init__(self, radial: RadialBasis, l_max: int) -> None:
        super().__init__()
        self.radial = radial
        self.lifts = nn.ModuleList()
        pole = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
        probe = math.sqrt(3) * pole
        for order in range(2, l_max + 1):  # Y^l is what u ⊗ Y^{l−1} couples to, up to its length
            lift = coupling(1, order - 1, order).flatten(0, 1).T
            raw = lift @ torch.outer(pole, probe).flatten()
            factor = math.sqrt(2 * order + 1) / raw.norm()
            self.lifts.append(Constant((factor * lift).contiguous()))
            probe = factor * raw

    def harmonics(self, u: Float[Tensor, "3 *pairs"]) -> list[Float[Tensor, "_ *pairs"]]:
        """Return Y^1 … Y^l_max of unit vectors; of shorter ones |u|^l times that."""
        found = [math.sqrt(3) * u]
        for lift in self.lifts:
            products = u.unsqueeze(1) * found[-1]
            found.append((lift() @ products.flatten(0, 1).flatten(1)).unflatten(1, u.shape[1:]))
        return found

    def forward(self, vectors: Float[Tensor, "3 atoms slots"]) -> Float[Tensor, "atoms rows slots"]:
        """Return Y_m(r̂) R_k(d), rows by m (all orders) and k; d is the softened length."""
        d = softened_length(vectors)
        radial = self.radial(d)
        parts = [(y.unsqueeze(1) * radial).flatten(0, 1) for y in self.harmonics(vectors / d)]
        return torch.cat([radial, *parts]).transpose(0, 1)


class Message(nn.Module):
    """Sums over neighbours of coupled features and harmonics, A^0 … A^wanted."""

    def __init__(self, settings: EquivariantSettings, generator: torch.Generator, *, first: bool, wanted: int) -> None:
        """Draw filters and channel mixings; in the first layer the features are the one-hot species."""
        super().__init__()
        width = len(settings.species) if first else settings.channels
        self.components = [2 * order + 1 for order in range(settings.l_max + 1)]
        self.radial = settings.radial_functions
        self.coupling = Coupling(0 if first else settings.l_max, settings.l_max, wanted)
        self.wanted = wanted
        paths = len(self.coupling.paths)
        self.filters = normal(generator, paths, self.radial, settings.channels)
        self.mix = normal(generator, paths, width, settings.channels, scale=1.0 if first else 1 / math.sqrt(width))
        n = settings.average_neighbours
        # path 0 is (0, 0) → 0, on which scalars of all neighbours add up; on the others they partly cancel
        self.norms = [s / (n if p == 0 else math.sqrt(n)) for p, s in enumerate(self.coupling.shares)]

    def forward(
        self,
        features: list[Float[Tensor, "_ atoms width"]],
        geometry: Float[Tensor, "atoms rows slots"],
        around: Neighbourhoods,
    ) -> list[Float[Tensor, "_ atoms channels"]]:
        """Return the sums of each order."""
        atoms, width = features[0].shape[1:]
        sent = [around.gather(x.transpose(0, 1).flatten(1)) for x in features]  # atoms slots (m1 width)
        rows = geometry.split([self.radial * m2 for m2 in self.components], 1)

        def pairs() -> Iterator[Tensor]:
            # one product a block: the gradient of a block cut from one large product is put together by copying
            for l1, l2 in self.coupling.blocks:
                block = (rows[l2] @ sent[l1]).view(atoms, self.components[l2], self.radial, -1, width)
                yield block.permute(3, 1, 0, 2, 4).flatten(3).flatten(0, 1)  # m1 m2, atoms, k width

        weights = (self.filters.unsqueeze(2) * self.mix.unsqueeze(1)).flatten(1, 2)  # paths, k width, channels
        found: list[list[Tensor]] = [[] for _ in range(self.wanted + 1)]
        for path, order, part in self.coupling(pairs()):
            found[order].append(part @ (self.norms[path] * weights[path]))
        return [torch.stack(parts).sum(dim=0) for parts in found]


class Product(nn.Module):
    """X_n from X_{n−1} and the sums A, channel by channel."""

    def __init__(self, channels: int, l_max: int, wanted: int, generator: torch.Generator, *, symmetric: bool) -> None:
        super().__init__()
        self.coupling = Coupling(l_max, l_max, wanted, symmetric=symmetric)
        self.wanted = wanted
        self.weight = normal(generator, len(self.coupling.paths), channels)

    def forward(
        self, x: list[Float[Tensor, "_ atoms channels"]], a: list[Float[Tensor, "_ atoms channels"]]
    ) -> list[Float[Tensor, "_ atoms channels"]]:
        """Return the products of each order."""
        pairs = ((x[l1].unsqueeze(1) * a[l2]).flatten(0, 1) for l1, l2 in self.coupling.blocks)
        found: list[list[Tensor]] = [[] for _ in range(self.wanted + 1)]
        for path, order, part in self.coupling(pairs):
            found[order].append(part * (self.coupling.shares[path] * self.weight[path]))
        return [torch.stack(parts).sum(dim=0) for parts in found]


class Update(nn.Module):
    """Products, mixing and gates within an atom; the last one gives scalars only."""

    def __init__(self, settings: EquivariantSettings, generator: torch.Generator, *, last: bool) -> None:
        super().__init__()
        c, top, powers = settings.channels, settings.l_max, settings.correlation
        self.orders = 1 if last else top + 1
        self.products = nn.ModuleList(
            Product(c, top, 0 if last and n == powers else top, generator, symmetric=n == 2)
            for n in range(2, powers + 1)
        )
        self.mixes = nn.ModuleList(Linear(powers * c, c, generator, bias=False) for _ in range(self.orders))
        self.gates = Perceptron(2 * c, c, self.orders * c, generator, gain=_GATE_GAIN)

    def forward(
        self, features: list[Float[Tensor, "_ atoms channels"]], sums: list[Float[Tensor, "_ atoms channels"]]
    ) -> list[Float[Tensor, "_ atoms channels"]]:
        """Return the next features; where a feature of some order was missing, it begins here."""
        powers = [sums]
        for product in self.products:
            powers.append(product(powers[-1], sums))
        mixed = [mix(torch.cat([x[order] for x in powers], dim=2)) for order, mix in enumerate(self.mixes)]
        gates = self.gates(torch.cat([features[0], mixed[0]], dim=2)).chunk(self.orders, dim=2)
        moved = [mixed[0] + gates[0], *(g * m for g, m in zip(gates[1:], mixed[1:], strict=True))]
        return [features[order] + x if order < len(features) else x for order, x in enumerate(moved)]


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
        self.geometry = Geometry(RadialBasis(settings.radial, settings.cutoff, settings.radial_functions), top)
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
        geometry = self.geometry(around.vectors)
        known = torch.tensor(self.species, device=structures.device)
        one_hot = (structures.numbers.unsqueeze(1) == known).to(self.scale)  # atoms species
        features = [(one_hot @ self.embedding).unsqueeze(0)]
        for n, (message, update) in enumerate(zip(self.messages, self.updates, strict=True)):
            sums = message(features if n else [one_hot.unsqueeze(0)], geometry, around)
            features = update(features, sums)
        per_atom = self.scale * self.readout(features[0]).flatten() + one_hot @ self.shift
        return structures.total(per_atom)
