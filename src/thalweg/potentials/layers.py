"""What the networks share: seeded linear maps, the settings every network has, one line for a refused setting."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from ase.data import chemical_symbols
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, field_validator
from torch import Tensor, nn
from torch.nn.functional import silu

from thalweg.errors import nearest_known

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
