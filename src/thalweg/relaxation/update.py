"""The update G_θ: one differentiable step of the relaxation that routes unroll.

    d = α F_θ(X),   X' = X + d · min(1, cap / |d_i|)   for each atom (row) i

The cap belongs to the update and is differentiated with it. `Descent` is the same step as a relaxer, so the
path that is evaluated and the path that is differentiated are one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thalweg.errors import SettingsError
from thalweg.relaxation.relaxer import Relaxer, State


@dataclass(frozen=True)
class Descent(Relaxer):
    """Steepest descent with a displacement cap."""

    alpha: float
    """Step size α, Å²/eV; stable only below 2/λ_max of the potential."""
    cap: float = 0.2
    """Largest displacement of an atom in one step, Å."""
    kind: ClassVar[str] = "descent"

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise SettingsError(f"alpha is {self.alpha}: allowed is a step size above 0 Å²/eV, e.g. 0.03")
        if not self.cap > 0:
            raise SettingsError(f"cap is {self.cap}: allowed is a largest displacement above 0 Å, e.g. 0.2")

    def move(self, rows: Float[Tensor, "rows 3"], forces: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows 3"]:
        """Return G_θ(X) from X and F_θ(X); differentiable in both."""
        d = self.alpha * forces
        square = d.square().sum(dim=1, keepdim=True)
        long = square > self.cap**2
        # the inner where keeps the derivative of the square root finite where it is not used
        scale = torch.where(long, self.cap / torch.where(long, square, torch.ones_like(square)).sqrt(), 1.0)
        return rows + d * scale

    def start(self, rows: Float[Tensor, "rows 3"], owner: Int[Tensor, " rows"], structures: int) -> State:
        """Return an empty memory."""
        return State()

    def step(
        self,
        state: State,
        rows: Float[Tensor, "rows 3"],
        forces: Float[Tensor, "rows 3"],
        owner: Int[Tensor, " rows"],
    ) -> tuple[Float[Tensor, "rows 3"], State]:
        """Return the next coordinates."""
        return self.move(rows, forces), state
