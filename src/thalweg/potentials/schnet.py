"""SchNet: an energy from invariant messages, each a filter of the distance times features of the neighbour.

Every atom i carries C numbers s_i, at first those of its species. One layer adds

    s_i ← s_i + MLP( n̄⁻¹ Σ_j W(d_ij) ∘ P s_j ),   W_c(d) = Σ_m B_mc σ( Σ_k A_km R_k(d) )

and E = Σ_i [scale · MLP(s_i) + shift_{z_i}]. Only distances within the cutoff enter: the angle between two bonds
shows only where their ends are within reach of each other.

Source: Schütt et al. 2017 (arXiv 1706.08566), eqs. 1 to 3. Departures: the functions R_k carry the cutoff and the
filters no bias, so that W and its first three derivatives vanish from the cutoff on (σ(0) = 0); SiLU in place of the
shifted softplus; sums are divided by the typical number of neighbours n̄. The sum is taken as
Σ_m B_mc [Σ_j σ_m(d_ij) (P s_j)_c], one batched product over the slots of an atom, so that no filter exists per pair and
channel. It stands beside PaiNN as what is left when directions are taken away; settings mean the same.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
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


class SchNetSettings(MessagePassingSettings):
    """The values that fix a SchNet and its initial parameters."""

    filter_functions: int = Field(default=16, ge=1)
    """Width of the hidden layer of the filters, m = 1 … M."""


class Interaction(nn.Module):
    """Filtered sums over neighbours, mixed within the atom."""

    def __init__(self, settings: SchNetSettings, generator: torch.Generator) -> None:
        super().__init__()
        channels, hidden, radial = settings.channels, settings.filter_functions, settings.radial_functions
        self.neighbours = settings.average_neighbours
        self.send = Linear(channels, channels, generator, bias=False)
        self.inner = normal(generator, hidden, radial)  # A; Σ R_k² is 1 in the mean
        self.outer = normal(generator, hidden, channels, scale=SILU_GAIN / math.sqrt(hidden))  # B
        self.mix = Perceptron(channels, channels, channels, generator)

    def forward(
        self,
        s: Float[Tensor, "atoms channels"],
        radial: Float[Tensor, "radial atoms slots"],
        around: Neighbourhoods,
    ) -> Float[Tensor, "atoms channels"]:
        """Return what a layer adds to s."""
        filters = silu(torch.tensordot(self.inner, radial, dims=1)).transpose(0, 1)  # atoms hidden slots
        sums = filters @ around.gather(self.send(s))  # atoms hidden channels
        out: Tensor = self.mix((sums * self.outer).sum(dim=1) / self.neighbours)
        return out


class SchNet(Network, ConservativePotential):
    """Invariant message passing with an energy; built from `SchNetSettings`, in float32."""

    kind: ClassVar[str] = "schnet"
    model: ClassVar[type[NetworkSettings]] = SchNetSettings

    def __init__(self, settings: SchNetSettings) -> None:
        """Draw fresh parameters from the stream of `settings.seed`; shift 0 and scale 1 until set."""
        super().__init__()
        self.begin(settings)
        self.cutoff = settings.cutoff
        generator = torch_stream(settings.seed, "schnet parameters")
        self.radial = RadialBasis(settings.radial, settings.cutoff, settings.radial_functions)
        self.embedding = normal(generator, len(settings.species), settings.channels)
        self.interactions = nn.ModuleList(Interaction(settings, generator) for _ in range(settings.layers))
        self.readout = Perceptron(settings.channels, settings.channels, 1, generator)

    def energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return the energy of each structure, eV."""
        self.check_input(structures)
        around = lay_out(structures, edges, self.cutoff)
        radial = self.radial(softened_length(around.vectors))
        known = torch.tensor(self.species, device=structures.device)
        element = torch.searchsorted(known, structures.numbers)
        s = self.embedding.index_select(0, element)
        for interaction in self.interactions:
            s = s + interaction(s, radial, around)
        return structures.total(self.scale * self.readout(s).squeeze(1) + self.shift.index_select(0, element))
