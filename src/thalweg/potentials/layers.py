"""What the networks share: settings and reference energies, seeded linear maps, one line for a refused setting."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from ase.data import chemical_symbols
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, field_validator
from torch import Tensor, nn
from torch.nn.functional import silu

from thalweg.errors import PotentialError, nearest_known
from thalweg.potentials.contract import Potential
from thalweg.potentials.reference import Reference, take_reference
from thalweg.structures.batch import Structures

SILU_GAIN = 1.7
"""Restores unit variance after SiLU of a unit normal: 1/sqrt(E[σ(x)²]) = 1.68."""


class NetworkSettings(BaseModel):
    """What the settings of every network hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    species: Annotated[tuple[int, ...], Strict(False)] = Field(min_length=1)
    """Atomic numbers, kept ascending."""
    seed: int = 0
    """Root seed of the initial parameters."""

    @field_validator("species")
    @classmethod
    def _ascending(cls, species: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(species)) != len(species) or not all(0 < z < len(chemical_symbols) for z in species):
            raise ValueError("allowed are different atomic numbers from 1 to 118")
        return tuple(sorted(species))


class MessagePassingSettings(NetworkSettings):
    """What the settings of networks that sum over neighbours hold."""

    channels: int = Field(default=32, ge=1)
    """C, the width of what an atom carries."""
    layers: int = Field(default=2, ge=1)
    """Messages passed; the reach is layers × cutoff."""
    cutoff: float = Field(default=4.2, gt=0, allow_inf_nan=False)
    """r_c, Å."""
    radial: Literal["bessel", "gaussian"] = "bessel"
    """Radial basis."""
    radial_functions: int = Field(default=8, ge=1)
    """Number of radial functions."""
    average_neighbours: float = Field(default=16.0, gt=0, allow_inf_nan=False)
    """n̄, the typical number of neighbours, by which sums over neighbours are normalised."""


def settings_fault(kind: str, model: type[BaseModel], error: ValidationError) -> str:
    """Return one line for the first fault in the settings of a potential.

    Args:
        kind: the kind of potential.
        model: its settings.
        error: what the model raised.
    """
    fault = error.errors()[0]
    where, value = ".".join(str(part) for part in fault["loc"]), fault.get("input")
    if fault["type"] == "extra_forbidden":
        return f"{kind} has no setting {where!r}: {nearest_known(where, model.model_fields)}"
    if fault["type"] == "missing":
        return f"{kind} needs the setting {where!r}, e.g. species: [14] for silicon"
    reason = fault["msg"].removeprefix("Value error, ")
    return f"{kind} setting {where!r} is {value!r}: {reason}" if where else f"{kind} settings: {reason}"


class Network(Potential):
    """A potential in float32 that is built from a settings model and scaled and shifted by a reference.

    A subclass names its `model`, draws its parameters and calls `begin` in `__init__`.
    """

    model: ClassVar[type[NetworkSettings]]
    """The settings it is built from."""
    scale: Tensor
    """Factor on what the network says, eV; a buffer."""
    shift: Tensor
    """Energy of each species, eV; a buffer."""

    def begin(self, settings: NetworkSettings) -> None:
        """Keep the settings and set shift 0 and scale 1, until a reference is set."""
        self._settings = settings
        self.species = settings.species
        self.register_buffer("scale", torch.ones((), dtype=torch.float32))
        self.register_buffer("shift", torch.zeros(len(self.species), dtype=torch.float32))

    @property
    def settings(self) -> dict[str, Any]:
        """The plain values from which `from_settings` builds the same network."""
        return self._settings.model_dump(mode="json")

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Build a network with the fresh parameters of its seed; the keys are the fields of `model`.

        Raises:
            PotentialError: an unknown key, a wrong type or a value outside its range.
        """
        try:
            return cls(cls.model.model_validate(settings))
        except ValidationError as error:
            raise PotentialError(settings_fault(cls.kind, cls.model, error)) from None

    def set_reference(self, reference: Reference) -> None:
        """Take the shift of every species (eV) and the scale from a reference.

        Raises:
            PotentialError: a species without a shift, a shift that is not finite, or a scale not above 0.
        """
        take_reference(reference, self.species, self.shift, self.scale)

    def check_input(self, structures: Structures) -> None:
        """Refuse structures of another floating type or with elements it never saw.

        Raises:
            PotentialError: naming what differs.
        """
        if structures.dtype != self.scale.dtype:
            raise PotentialError(
                f"structures are {structures.dtype} but this {self.kind} potential is {self.scale.dtype}: "
                f"convert one with .to(dtype=...)"
            )
        self.check(structures)


def normal(generator: torch.Generator, *shape: int, scale: float = 1.0) -> nn.Parameter:
    """Return a float32 parameter drawn from N(0, scale²)."""
    return nn.Parameter(scale * torch.randn(shape, generator=generator, dtype=torch.float32))


class Linear(nn.Module):
    """y = x A + b, with A drawn from N(0, gain²/rows) and b zero."""

    def __init__(
        self, rows: int, columns: int, generator: torch.Generator, *, gain: float = 1.0, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = normal(generator, rows, columns, scale=gain / math.sqrt(rows))
        self.bias = nn.Parameter(torch.zeros(columns, dtype=torch.float32)) if bias else None

    def forward(self, x: Float[Tensor, "*batch rows"]) -> Float[Tensor, "*batch columns"]:
        """Return x A + b."""
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


class Perceptron(nn.Module):
    """Two linear maps with SiLU between them."""

    def __init__(
        self, rows: int, hidden: int, columns: int, generator: torch.Generator, *, gain: float = SILU_GAIN
    ) -> None:
        super().__init__()
        self.inner = Linear(rows, hidden, generator)
        self.outer = Linear(hidden, columns, generator, gain=gain)

    def forward(self, x: Float[Tensor, "*batch rows"]) -> Float[Tensor, "*batch columns"]:
        """Return B σ(A x + a) + b."""
        out: Tensor = self.outer(silu(self.inner(x)))
        return out
