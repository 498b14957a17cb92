"""PaiNN: an energy from equivariant messages between atoms, laid out for fast second derivatives.

Every atom i carries scalars s_i (C channels) and vectors v_i (3 × C). One layer is a message

    Δs_i = n̄⁻¹ Σ_j W^s(d_ij) ∘ φ^s_j
    Δv_i = n̄^-½ Σ_j [ W^r(d_ij) ∘ φ^r_j r̂_ij + W^v(d_ij) ∘ φ^v_j ∘ v_j ],   φ_j = Q σ(P s_j + p)

with filters W(d) = Σ_k R_k(d) w_k, and an update

    Δs_i = a^ss + a^sv ∘ Σ_xyz (U v_i) ∘ (V v_i),   Δv_i = a^vv ∘ U v_i,   a = MLP(s_i, ‖V v_i‖)

E = Σ_i [scale · MLP(s_i) + shift_{z_i}]. Source: Schütt, Unke, Gastegger 2021, eqs. 7 to 10; departures:
filters and Q have no bias, ‖x‖ is sqrt(1 + |x|²) − 1 (smooth at zero), and sums are divided by the typical
number of neighbours n̄ (scalars, which add up) or its root (vectors, which partly cancel).

The sums are reordered: Σ_j W_kc R_k(d_ij) Q_cb h_jb is taken as Σ_kb [W_kc Q_cb] [Σ_j R_k(d_ij) h_jb],
one batched product over the slots of an atom and one plain product, so that no filter exists per pair and
channel. In the first layer h is the one-hot species and v is zero. For 8 × 64 silicon atoms, 32 channels and
2 layers this keeps 56 MB for backward where filters and messages edge by edge keep 95 (170 and 318 for 48, 3
and 4.6 Å), in the same time (forces 11 and 13 ms, differentiated once more 34 and 34 ms, one thread).
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from thalweg.potentials.contract import ConservativePotential
from thalweg.potentials.layers import (
    SILU_GAIN,
    Linear,
    MessagePassingSettings,
    Network,
    NetworkSettings,
    Perceptron,
    normal,
)
from thalweg.potentials.neighbourhoods import Neighbourhoods, lay_out
from thalweg.potentials.radial import RadialBasis, softened_length
from thalweg.seeds import torch_stream
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

_GATE_GAIN = 0.7
"""Lower for the gates: at full gain the products of an update grew from layer to layer (scalars of 1.5, 3.5
and 350 in one draw of three layers); with this they stay between 1 and 3."""


class PaiNNSettings(MessagePassingSettings):
    """The values that fix a PaiNN and its initial parameters."""


class Message(nn.Module):
    """Sums over neighbours; `width` is C, or the number of species in the first layer (`first`)."""

    def __init__(
        self,
        width: int,
        channels: int,
        radial: int,
        generator: torch.Generator,
        *,
        first: bool,
        neighbours: float,
    ) -> None:
        super().__init__()
        parts = 2 if first else 3  # filters of s, r and, where there are vectors to send, v
        self.neighbours = neighbours
        self.hidden = None if first else Linear(channels, width, generator)
        gain = 1.0 if first else SILU_GAIN / math.sqrt(width)
        self.mix = normal(generator, parts, width, channels, scale=gain)
        self.filters = normal(generator, parts, radial, channels)

    def forward(
        self,
        s: Float[Tensor, "atoms width"],
        v: Float[Tensor, "atoms 3 channels"] | None,
        geometry: tuple[Float[Tensor, "atoms radial slots"], Float[Tensor, "atoms radial3 slots"]],
        around: Neighbourhoods,
    ) -> tuple[Float[Tensor, "atoms channels"], Float[Tensor, "atoms 3 channels"]]:
        """Return Δs and Δv from the scalars (in the first layer one-hot species) and vectors of all atoms."""
        _, radial, channels = self.filters.shape
        atoms, (scalar, directed) = s.shape[0], geometry
        h = s if self.hidden is None else silu(self.hidden(s))
        filters = self.filters / math.sqrt(self.neighbours)
        # W_kc Q_cb of the s and r filters, laid out as (k, b) × c
        weights = (filters[:2].unsqueeze(2) * self.mix[:2].unsqueeze(1)).flatten(1, 2)
        sent = around.gather(h)
        ds = (scalar @ sent).view(atoms, -1) @ weights[0]  # product: atoms, radial, width
        ds = ds / math.sqrt(self.neighbours)
        dv = (directed @ sent).view(atoms, 3, -1) @ weights[1]  # product: atoms, 3 radial, width
        if v is not None:
            u = (h @ self.mix[2]).unsqueeze(1) * v
            carried = (scalar @ around.gather(u.flatten(1))).view(atoms, radial, 3, channels)
            dv = dv + (carried * filters[2].unsqueeze(1)).sum(dim=1)
        return ds, dv


class Update(nn.Module):
    """Mixing within an atom; the last one gives scalars only, for nothing reads its vectors."""

    def __init__(self, channels: int, generator: torch.Generator, *, last: bool) -> None:
        super().__init__()
        self.last = last
        self.mix = Linear(channels, 2 * channels, generator, bias=False)
        gates = (2 if last else 3) * channels
        self.gates = Perceptron(2 * channels, channels, gates, generator, gain=_GATE_GAIN)

    def forward(
        self, s: Float[Tensor, "atoms channels"], v: Float[Tensor, "atoms 3 channels"]
    ) -> tuple[Float[Tensor, "atoms channels"], Float[Tensor, "atoms 3 channels"] | None]:
        """Return the next s and v (None after the last layer)."""
        u, w = self.mix(v).chunk(2, dim=-1)
        length = (1.0 + w.square().sum(dim=1)).sqrt() - 1.0
        gates = self.gates(torch.cat([s, length], dim=1)).chunk(2 if self.last else 3, dim=1)
        s = s + gates[0] + gates[1] * (u * w).sum(dim=1)
        return s, None if self.last else v + gates[2].unsqueeze(1) * u


class PaiNN(Network, ConservativePotential):
    """Equivariant message passing with an energy; built from `PaiNNSettings`, in float32."""

    kind: ClassVar[str] = "painn"
    model: ClassVar[type[NetworkSettings]] = PaiNNSettings

    def __init__(self, settings: PaiNNSettings) -> None:
        """Draw fresh parameters from the stream of `settings.seed`; shift 0 and scale 1 until set."""
        super().__init__()
        self.begin(settings)
        self.cutoff = settings.cutoff
        c, k, z = settings.channels, settings.radial_functions, len(settings.species)
        generator = torch_stream(settings.seed, "painn parameters")
        self.radial = RadialBasis(settings.radial, settings.cutoff, k)
        self.embedding = normal(generator, z, c)
        self.messages = nn.ModuleList(
            Message(c if n else z, c, k, generator, first=n == 0, neighbours=settings.average_neighbours)
            for n in range(settings.layers)
        )
        self.updates = nn.ModuleList(
            Update(c, generator, last=n == settings.layers - 1) for n in range(settings.layers)
        )
        self.readout = Perceptron(c, c, 1, generator)

    def energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return the energy of each structure, eV."""
        self.check_input(structures)
        around = lay_out(structures, edges, self.cutoff)
        geometry = self._geometry(around)
        known = torch.tensor(self.species, device=structures.device)
        element = torch.searchsorted(known, structures.numbers)
        one_hot = (element.unsqueeze(1) == torch.arange(len(known), device=structures.device)).to(self.scale)
        s, v = one_hot, None
        for n, (message, update) in enumerate(zip(self.messages, self.updates, strict=True)):
            ds, dv = message(s, v, geometry, around)
            s = ds + (s if n else one_hot @ self.embedding)
            s, v = update(s, dv if v is None else v + dv)
        per_atom = self.scale * self.readout(s).squeeze(1) + one_hot @ self.shift
        return structures.total(per_atom)

    def _geometry(
        self, around: Neighbourhoods
    ) -> tuple[Float[Tensor, "atoms radial slots"], Float[Tensor, "atoms radial3 slots"]]:
        """Return R_k(d) and r̂ R_k(d) (component major), which all layers share."""
        r = around.vectors
        d = softened_length(r)
        radial = self.radial(d)  # radial, atoms, slots
        directed = (r / d).unsqueeze(1) * radial
        return radial.transpose(0, 1), directed.flatten(0, 1).transpose(0, 1)
