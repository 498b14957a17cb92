"""The contract of a relaxer: a small frozen value that turns coordinates and forces into new coordinates.

A relaxer works on a whole batch: `rows` (coordinates), `forces` on them and `owner` (structure of each row).
Its memory is a `State` of named tensors whose first axis is either rows or structures, so that the loop can
drop finished structures without knowing the method. All structures of a batch have made the same number of
steps. Relaxers never see a potential, never wrap positions and never wait for the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class State:
    """The memory of a relaxer: tensors by name, first axis rows or structures."""

    by_row: dict[str, Tensor] = field(default_factory=dict)
    by_structure: dict[str, Tensor] = field(default_factory=dict)

    def keep(self, rows: Bool[Tensor, " rows"], structures: Bool[Tensor, " structures"]) -> State:
        """Return the state of the structures that go on."""
        return State(
            {name: value[rows] for name, value in self.by_row.items()},
            {name: value[structures] for name, value in self.by_structure.items()},
        )


@dataclass(frozen=True)
class Relaxer(ABC):
    """One way to walk downhill."""

    kind: ClassVar[str]
    """Its name in settings files."""

    @abstractmethod
    def start(self, rows: Float[Tensor, "rows 3"], owner: Int[Tensor, " rows"], structures: int) -> State:
        """Return the memory before the first step."""

    @abstractmethod
    def step(
        self,
        state: State,
        rows: Float[Tensor, "rows 3"],
        forces: Float[Tensor, "rows 3"],
        owner: Int[Tensor, " rows"],
    ) -> tuple[Float[Tensor, "rows 3"], State]:
        """Return the next coordinates (Å) and memory, given the forces (eV/Å) at the present ones."""


def dot(
    a: Float[Tensor, "rows 3"], b: Float[Tensor, "rows 3"], owner: Int[Tensor, " rows"], structures: int
) -> Float[Tensor, " structures"]:
    """Return the inner product of two row fields over each structure."""
    return a.new_zeros(structures).index_add(0, owner, (a * b).sum(dim=1))


def largest_norm(
    a: Float[Tensor, "rows 3"], owner: Int[Tensor, " rows"], structures: int
) -> Float[Tensor, " structures"]:
    """Return the largest row norm in each structure (fmax, when `a` are forces); NaN if any row is NaN."""
    norms: Tensor = torch.linalg.vector_norm(a, dim=1)
    return norms.new_zeros(structures).scatter_reduce(0, owner, norms, reduce="amax", include_self=True)


def dots(
    fields: Float[Tensor, "rows fields 3"],
    a: Float[Tensor, "rows 3"],
    owner: Int[Tensor, " rows"],
    structures: int,
) -> Float[Tensor, "structures fields"]:
    """Return the inner product of each of several row fields with `a` over each structure."""
    products = torch.einsum("rfc,rc->rf", fields, a)
    return products.new_zeros((structures, products.shape[1])).index_add(0, owner, products)


def combine(
    fields: Float[Tensor, "rows fields 3"],
    weights: Float[Tensor, "structures fields"],
    owner: Int[Tensor, " rows"],
) -> Float[Tensor, "rows 3"]:
    """Return the sum of several row fields with the weights of each structure."""
    return torch.einsum("rfc,rf->rc", fields, weights[owner])
