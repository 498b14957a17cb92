"""The transformer: attention among all atoms of a structure, with forces from a head of their own.

Every atom is a token made of coordinates and nine descriptors of its element,

    h_i = MLP([x_i / ℓ, e_{z_i}]),   h ← LN(h + Attention(h)),   h ← LN(h + MLP(h))   (layer by layer)
    F_i = scale · W h_i,   E = Σ_i [scale · w · h_i + shift_{z_i}]

With the defaults it is cell-blind: it knows neither the cell nor periodic images, is neither translated nor rotated
along with a structure, and its forces are no gradient: J = ∂F/∂X is not symmetric and has no null modes. That is
its use here: it is the potential for which nothing may be taken for granted. `training` offers random rotations to
teach it some symmetry. With random parameters ‖J − Jᵀ‖ / 2‖J‖ is 0.6 to 0.75, after a short fit to Stillinger–Weber
forces 0.2.
Two options let it see the cell, each alone or together (`token_geometry`): `coordinates: fractional` puts waves of the
fractional coordinates and the lattice vectors into the tokens, so that images agree; `distance_bias: minimum-image`
adds a smooth function of periodic distances to the scores of attention. Neither makes it equivariant.

Source: ADAPT (arXiv 2509.24115, code): post-norm encoder of width 256, feed-forward 512, 8 layers, 8 heads,
12 → 128 → 256 → 256 for the tokens; the defaults here, 4.3 million parameters. Departures: GELU in place of
ReLU, for routes differentiate forces and verification needs them smooth; no dropout, for with it F_θ(X) = 0
means nothing; the descriptors are those of `element_descriptors`; an energy head, which the source lacks;
coordinates may be divided by ℓ, and outputs are shifted and scaled by a reference.

Forces need no gradient of an energy, so one backward pass is all that any route asks: attention may be fused.
Where forces are to be differentiated twice, `attention: plain` does it with differentiable operations, whatever
the coordinates and the bias.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from thalweg.errors import PotentialError
from thalweg.potentials.contract import Prediction
from thalweg.potentials.element_descriptors import DESCRIPTORS, HEAVIEST, descriptors
from thalweg.potentials.layers import Linear, Network, NetworkSettings, normal
from thalweg.potentials.seats import Seats
from thalweg.potentials.token_geometry import DistanceBias, absolute_inputs, fractional_inputs
from thalweg.seeds import torch_stream
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

_GELU_GAIN = 1.5
"""Restores unit variance after GELU of a unit normal: 1/sqrt(E[gelu(x)²]) = 1.53."""


class TransformerSettings(NetworkSettings):
    """The values that fix a transformer, what it sees of places among them, and its initial parameters."""

    width: int = Field(default=256, ge=2)
    """Numbers per token, a multiple of `heads`."""
    feed_forward: int = Field(default=512, ge=1)
    """Width inside the perceptron of a layer."""
    layers: int = Field(default=8, ge=1)
    """Rounds of attention."""
    heads: int = Field(default=8, ge=1)
    """Attention heads."""
    length: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """ℓ, Å: coordinates and lattice vectors are divided by it; a smaller one tells near positions apart sooner."""
    attention: Literal["fused", "plain"] = "fused"
    """`plain` can be differentiated twice; `fused` is faster and keeps less for backward."""
    coordinates: Literal["absolute", "fractional"] = "absolute"
    """What a token says of where its atom is: x / ℓ, or waves of fractional coordinates and the lattice vectors."""
    harmonics: int = Field(default=4, ge=1)
    """Waves along each lattice vector, for fractional coordinates."""
    distance_bias: Literal["none", "minimum-image"] = "none"
    """Whether attention knows distances, periodic images included."""
    cutoff: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    """r_c of the distance bias, Å."""
    radial_functions: int = Field(default=8, ge=1)
    """Radial functions of the distance bias."""

    @field_validator("species")
    @classmethod
    def _described(cls, species: tuple[int, ...]) -> tuple[int, ...]:
        if species[-1] > HEAVIEST:
            raise ValueError(f"allowed are atomic numbers from 1 to {HEAVIEST}, which have descriptors")
        return species

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width is {self.width} and heads {self.heads}: allowed are heads that divide the width")
        return self


class Attention(nn.Module):
    """Softmax attention among the atoms of each structure."""

    def __init__(self, width: int, heads: int, generator: torch.Generator, *, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.enter = Linear(width, 3 * width, generator)
        self.leave = Linear(width, width, generator)

    def forward(
        self, h: Float[Tensor, "atoms width"], seats: Seats, bias: Float[Tensor, "structures heads most most"] | None
    ) -> Float[Tensor, "atoms width"]:
        """Return what each atom gathers from all atoms of its structure, itself included.

        Args:
            h: the tokens.
            seats: where they sit.
            bias: what to add to the scores, −∞ at empty seats, or None.
        """
        query, key, value = self._read(h, seats)
        if self.fused:
            mask = seats.mask if bias is None else bias
            found = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        else:
            found = _shares(query, key, seats, bias) @ value
        out: Tensor = self.leave(seats.gather(found.transpose(1, 2).flatten(2)))
        return out

    def shares(
        self, h: Float[Tensor, "atoms width"], seats: Seats, bias: Float[Tensor, "structures heads most most"] | None
    ) -> Float[Tensor, "structures heads most most"]:
        """Return how much of what an atom (row) gathers comes from each (column): rows of taken seats sum to 1.

        Args:
            h: the tokens.
            seats: where they sit.
            bias: what to add to the scores, −∞ at empty seats, or None.
        """
        query, key, _ = self._read(h, seats)
        return _shares(query, key, seats, bias)

    def _read(self, h: Tensor, seats: Seats) -> tuple[Tensor, ...]:
        table = seats.spread(self.enter(h)).unflatten(2, (3, self.heads, -1))  # structures most 3 heads channels
        return table.permute(2, 0, 3, 1, 4).unbind(0)  # structures heads most channels, thrice


def _shares(query: Tensor, key: Tensor, seats: Seats, bias: Tensor | None) -> Tensor:
    score = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
    if bias is not None:
        score = score + bias
    elif seats.mask is not None:
        score = score.masked_fill(~seats.mask, -torch.inf)
    return score.softmax(dim=3)


class Layer(nn.Module):
    """Attention and a perceptron, each added and then normalised (post-norm)."""

    def __init__(self, settings: TransformerSettings, generator: torch.Generator) -> None:
        super().__init__()
        width = settings.width
        self.attention = Attention(width, settings.heads, generator, fused=settings.attention == "fused")
        self.inner = Linear(width, settings.feed_forward, generator)
        self.outer = Linear(settings.feed_forward, width, generator, gain=_GELU_GAIN)
        self.norms = nn.ModuleList(nn.LayerNorm(width, dtype=torch.float32) for _ in range(2))

    def forward(
        self, h: Float[Tensor, "atoms width"], seats: Seats, bias: Float[Tensor, "structures heads most most"] | None
    ) -> Float[Tensor, "atoms width"]:
        """Return the tokens after one layer."""
        h = self.norms[0](h + self.attention(h, seats, bias))
        out: Tensor = self.norms[1](h + self.outer(gelu(self.inner(h))))
        return out


class Tokens(nn.Module):
    """Tokens from coordinates and descriptors: inputs (12 if absolute) → width/2 → width → width, GELU between."""

    def __init__(self, inputs: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        sizes = [inputs, max(width // 2, 1), width, width]
        gains = [1.0, _GELU_GAIN, _GELU_GAIN]
        self.maps = nn.ModuleList(
            Linear(rows, columns, generator, gain=gain)
            for rows, columns, gain in zip(sizes[:-1], sizes[1:], gains, strict=True)
        )

    def forward(self, x: Float[Tensor, "atoms inputs"]) -> Float[Tensor, "atoms width"]:
        """Return one token per atom."""
        out: Tensor = self.maps[0](x)
        for linear in self.maps[1:]:
            out = linear(gelu(out))
        return out


class Transformer(Network):
    """Direct forces from attention over all atoms; built from `TransformerSettings`, in float32.

    Cell-blind unless fractional coordinates or a distance bias are asked for. Without the bias it needs no
    neighbour list: `cutoff` then only bounds the search for overlapping atoms while relaxing.
    """

    kind: ClassVar[str] = "transformer"
    conservative: ClassVar[bool] = False
    model: ClassVar[type[NetworkSettings]] = TransformerSettings
    descriptors: Tensor

    def __init__(self, settings: TransformerSettings) -> None:
        """Draw fresh parameters from the stream of `settings.seed`; shift 0 and scale 1 until set."""
        super().__init__()
        self.begin(settings)
        self._length, self._harmonics = settings.length, settings.harmonics
        self._fractional = settings.coordinates == "fractional"
        biased = settings.distance_bias == "minimum-image"
        self.cutoff = settings.cutoff if biased else 1.5
        generator = torch_stream(settings.seed, "transformer parameters")
        places = 6 * settings.harmonics + 9 if self._fractional else 3
        self.tokens = Tokens(places + DESCRIPTORS, settings.width, generator)
        self.layers = nn.ModuleList(Layer(settings, generator) for _ in range(settings.layers))
        self.push = Linear(settings.width, 3, generator)
        self.readout = normal(generator, settings.width, scale=settings.width**-0.5)
        self.bias = (
            DistanceBias(settings.heads, settings.cutoff, settings.radial_functions, generator) if biased else None
        )
        self.register_buffer("descriptors", descriptors()[[z - 1 for z in self.species]].float())

    def forward(
        self,
        structures: Structures,
        *,
        edges: Edges | None = None,
        graph: bool = False,
        stress: bool = False,
    ) -> Prediction:
        """Evaluate a batch; see `Potential.forward`.

        Args:
            structures: the batch; its floating type must be that of the parameters.
            edges: neighbour list for the distance bias, found afresh when None; not used without the bias, for every
                atom attends to every other.
            graph: keep energy and forces differentiable to parameters, positions and (where it is seen) the cell.
            stress: refused: there is no head for it.

        Raises:
            PotentialError: an element outside `species`, another floating type, a stress asked for, or fractional
                coordinates asked of a structure that is not periodic along all three directions.
        """
        if stress:
            raise PotentialError(
                f"a {self.kind} potential has no stress, for its forces come from a head of their own: keep the cell "
                "fixed, or take another kind, e.g. painn"
            )
        self.check_input(structures)
        with torch.set_grad_enabled(graph):
            energy, forces = self._heads(structures, edges)
        return Prediction(energy, forces)

    def _heads(
        self, structures: Structures, edges: Edges | None
    ) -> tuple[Float[Tensor, " structures"], Float[Tensor, "atoms 3"]]:
        known = torch.tensor(self.species, device=structures.device)
        element = torch.searchsorted(known, structures.numbers)
        if self._fractional:
            x = fractional_inputs(structures, self._length, self._harmonics)
        else:
            x = absolute_inputs(structures, self._length)
        h = self.tokens(torch.cat([x, self.descriptors.index_select(0, element)], dim=1))
        seats, bias = Seats.of(structures), None
        if self.bias is not None:
            bias = self.bias(structures, self.edges(structures) if edges is None else edges, seats)
        for layer in self.layers:
            h = layer(h, seats, bias)
        energy = structures.total(self.scale * (h @ self.readout) + self.shift.index_select(0, element))
        return energy, self.scale * self.push(h)
