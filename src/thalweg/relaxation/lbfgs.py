"""L-BFGS without line search: a quasi-Newton step from the last pairs of displacement and force change.

With S = [s_i], Y = [y_i] (oldest first, s = change of x, y = −change of F), R the upper triangle of SᵀY with its
diagonal D, and H₀ = γ 1, the step is d = H F with

    w = R⁻¹ Sᵀ F
    H F = γ F + S R⁻ᵀ ((D + γ YᵀY) w − γ YᵀF) − γ Y w

which equals the two-loop recursion (Nocedal 1980) exactly; this form (Byrd, Nocedal and Schnabel 1994, equation
3.1) costs a handful of tensor operations for a whole batch instead of two loops over the memory. Every structure
has its own history. All rows of a structure are scaled alike so that none moves farther than `maxstep`.

A pair whose curvature y·s is not positive beyond rounding is left out (a row of zeros with D = 1), so H stays
positive definite and every step goes downhill. ASE makes no such check; where curvature is positive the steps
are those of ASE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thalweg.errors import SettingsError
from thalweg.relaxation.relaxer import Relaxer, State, dot, largest_norm


@dataclass(frozen=True)
class LBFGS(Relaxer):
    """Limited-memory BFGS; memory 100 and `scaled=False` are the defaults of ASE."""

    memory: int = 100
    """Pairs kept."""
    alpha: float = 70.0
    """Curvature assumed before anything is known, eV/Å²; the first step is F/alpha."""
    maxstep: float = 0.2
    """Largest displacement of a row in one step, Å."""
    damping: float = 1.0
    """Factor on every step."""
    scaled: bool = False
    """Take γ = s·y / y·y of the newest pair instead of 1/alpha."""
    kind: ClassVar[str] = "lbfgs"

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise SettingsError(f"LBFGS memory is {self.memory}: allowed is 1 pair or more, e.g. 30")
        for name in ("alpha", "maxstep", "damping"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"LBFGS {name} is {getattr(self, name)}: allowed is a number above 0")

    def start(self, rows: Float[Tensor, "rows 3"], owner: Int[Tensor, " rows"], structures: int) -> State:
        """Return an empty history."""
        return State(
            by_row={"s": rows.new_zeros((len(rows), 0, 3)), "y": rows.new_zeros((len(rows), 0, 3))},
            by_structure={
                "sy": rows.new_zeros((structures, 0, 0)),
                "yy": rows.new_zeros((structures, 0, 0)),
                "gamma": rows.new_full((structures,), 1 / self.alpha),
            },
        )

    def step(
        self,
        state: State,
        rows: Float[Tensor, "rows 3"],
        forces: Float[Tensor, "rows 3"],
        owner: Int[Tensor, " rows"],
    ) -> tuple[Float[Tensor, "rows 3"], State]:
        """Return the next coordinates and the history with the newest pair."""
        if "rows" in state.by_row:  # absent only before the first step
            state = self._remember(state, rows, forces, owner)
        d = _direction(state, forces, owner)
        longest = largest_norm(d, owner, len(state.by_structure["gamma"]))
        scale = self.damping * torch.where(longest >= self.maxstep, self.maxstep / longest, 1.0)
        memory = State({**state.by_row, "rows": rows, "forces": forces}, state.by_structure)
        return rows + d * scale[owner, None], memory

    def _remember(
        self,
        state: State,
        rows: Float[Tensor, "rows 3"],
        forces: Float[Tensor, "rows 3"],
        owner: Int[Tensor, " rows"],
    ) -> State:
        """Return the state with the newest pair appended and, when full, the oldest dropped."""
        gamma = state.by_structure["gamma"]
        n = len(gamma)
        s, y = rows - state.by_row["rows"], state.by_row["forces"] - forces
        curvature, square = dot(s, y, owner, n), dot(y, y, owner, n)
        least = torch.finfo(rows.dtype).eps * (dot(s, s, owner, n) * square).sqrt()
        good = curvature > least
        s, y = (torch.where(good[owner, None], value, 0.0) for value in (s, y))
        drop = 1 if state.by_row["s"].shape[1] == self.memory else 0
        history_s, history_y = state.by_row["s"][:, drop:], state.by_row["y"][:, drop:]
        sy = _bordered(
            state.by_structure["sy"][:, drop:, drop:],
            _project(history_s, y, owner, n),
            None,
            torch.where(good, curvature, 1.0),
        )
        cross = _project(history_y, y, owner, n)
        yy = _bordered(
            state.by_structure["yy"][:, drop:, drop:], cross, cross, torch.where(good, square, 0.0)
        )
        if self.scaled:
            gamma = torch.where(good, curvature / square, gamma)
        return State(
            by_row={
                "s": torch.cat([history_s, s.unsqueeze(1)], 1),
                "y": torch.cat([history_y, y.unsqueeze(1)], 1),
            },
            by_structure={"sy": sy, "yy": yy, "gamma": gamma},
        )


def _direction(
    state: State, forces: Float[Tensor, "rows 3"], owner: Int[Tensor, " rows"]
) -> Float[Tensor, "rows 3"]:
    """Return H F of each structure."""
    gamma, R, YY = (state.by_structure[name] for name in ("gamma", "sy", "yy"))
    S, Y = state.by_row["s"], state.by_row["y"]
    d = gamma[owner, None] * forces
    if S.shape[1] == 0:
        return d
    n = len(gamma)
    g = gamma[:, None, None]
    SF = _project(S, forces, owner, n).unsqueeze(2)  # structures pairs 1
    YF = _project(Y, forces, owner, n).unsqueeze(2)
    D = torch.diagonal(R, dim1=1, dim2=2).unsqueeze(2)
    w = torch.linalg.solve_triangular(R, SF, upper=True)
    inner = D * w + g * (YY @ w - YF)
    p = torch.linalg.solve_triangular(R.transpose(1, 2), inner, upper=False)
    return d + _combine(S, p.squeeze(2), owner) - _combine(Y, (g * w).squeeze(2), owner)


def _project(
    history: Float[Tensor, "rows pairs 3"],
    a: Float[Tensor, "rows 3"],
    owner: Int[Tensor, " rows"],
    structures: int,
) -> Float[Tensor, "structures pairs"]:
    """Return the inner product of each remembered field with `a` over each structure."""
    products = torch.einsum("rpc,rc->rp", history, a)
    return products.new_zeros((structures, products.shape[1])).index_add(0, owner, products)


def _combine(
    history: Float[Tensor, "rows pairs 3"],
    weights: Float[Tensor, "structures pairs"],
    owner: Int[Tensor, " rows"],
) -> Float[Tensor, "rows 3"]:
    """Return the sum of the remembered fields with the weights of each structure."""
    return torch.einsum("rpc,rp->rc", history, weights[owner])


def _bordered(
    inner: Float[Tensor, "structures pairs pairs"],
    column: Float[Tensor, "structures pairs"],
    row: Float[Tensor, "structures pairs"] | None,
    corner: Float[Tensor, " structures"],
) -> Float[Tensor, "structures more more"]:
    """Return the matrices with one more column, row (zeros when None) and corner."""
    below = torch.zeros_like(column) if row is None else row
    top = torch.cat([inner, column.unsqueeze(2)], 2)
    bottom = torch.cat([below, corner.unsqueeze(1)], 1).unsqueeze(1)
    return torch.cat([top, bottom], 1)
