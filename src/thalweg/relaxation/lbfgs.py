"""L-BFGS without line search: a quasi-Newton step from the last pairs of displacement and force change.

With S = [s_i], Y = [y_i] (oldest first, s = change of x, y = −change of F), R the upper triangle of SᵀY, D
the diagonal of R, and H₀ = γ 1, the step is d = H F with

    w = R⁻¹ Sᵀ F
    H F = γ F + S R⁻ᵀ ((D + γ YᵀY) w − γ YᵀF) − γ Y w

which equals the two-loop recursion (Nocedal 1980) exactly; this form (Byrd, Nocedal and Schnabel 1994,
equation 3.1) costs a handful of tensor operations for a whole batch instead of two loops over the memory.
Each structure has its own history. All rows of a structure are scaled alike so that none moves farther than
`maxstep`.

Departure where y·s < 0 (the surface curves down along the last step): the pair is remembered with its
curvature turned, y ← y + 2 |y·s|/(s·s) s, so that H stays positive definite and the next step crosses the
ridge with the length that |curvature| suggests; a pair without curvature beyond rounding is left out (zeros,
with D = 1). ASE takes such pairs as they are. On silicon defects after 75 updates, leaving them out cost up
to 379 force calls in a structure that stood near a saddle, turning them at most 57.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thalweg.errors import SettingsError
from thalweg.relaxation.relaxer import Relaxer, State, combine, dot, dots, largest_norm


@dataclass(frozen=True)
class LBFGS(Relaxer):
    """Limited-memory BFGS.

    The defaults took the fewest force calls on silicon defects; `LBFGS.as_in_ase()` has those of ASE.
    """

    memory: int = 20
    """Pairs kept."""
    alpha: float = 70.0
    """Curvature assumed before anything is known, eV/Å²; the first step is F/alpha."""
    maxstep: float = 0.2
    """Largest displacement of a row in one step, Å."""
    damping: float = 1.0
    """Factor on every step."""
    scaled: bool = True
    """Take γ = s·y / y·y of the newest pair (Nocedal and Wright 2006, equation 7.20) instead of 1/alpha."""
    kind: ClassVar[str] = "lbfgs"

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise SettingsError(f"LBFGS memory is {self.memory}: allowed is 1 pair or more, e.g. 30")
        for name in ("alpha", "maxstep", "damping"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"LBFGS {name} is {getattr(self, name)}: allowed is a number above 0")

    @classmethod
    def as_in_ase(cls) -> Self:
        """Return the settings of ASE: 100 pairs and γ = 1/70 throughout."""
        return cls(memory=100, scaled=False)

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
        s, y, curvature, good = _pair(rows - state.by_row["rows"], state.by_row["forces"] - forces, owner, n)
        square = dot(y, y, owner, n)
        if self.scaled:
            gamma = torch.where(good, curvature / square, gamma)
        drop = 1 if state.by_row["s"].shape[1] == self.memory else 0
        older_s, older_y = state.by_row["s"][:, drop:], state.by_row["y"][:, drop:]
        older_sy, older_yy = (state.by_structure[name][:, drop:, drop:] for name in ("sy", "yy"))
        sy, yy = dots(older_s, y, owner, n), dots(older_y, y, owner, n)
        return State(
            by_row={
                "s": torch.cat([older_s, s.unsqueeze(1)], 1),
                "y": torch.cat([older_y, y.unsqueeze(1)], 1),
            },
            by_structure={
                "sy": _bordered(older_sy, sy, torch.zeros_like(sy), curvature),
                "yy": _bordered(older_yy, yy, yy, square),
                "gamma": gamma,
            },
        )


def _pair(
    s: Float[Tensor, "rows 3"], y: Float[Tensor, "rows 3"], owner: Int[Tensor, " rows"], structures: int
) -> tuple[
    Float[Tensor, "rows 3"],
    Float[Tensor, "rows 3"],
    Float[Tensor, " structures"],
    Bool[Tensor, " structures"],
]:
    """Return s, y and y·s with negative curvature turned, and where the pair says anything.

    Where it does not, s = y = 0 and y·s = 1: such a pair adds nothing to H and keeps R regular.
    """
    curvature, length = dot(s, y, owner, structures), dot(s, s, owner, structures)
    turn = torch.where(curvature < 0, -2 * curvature / length, 0.0)
    y = y + turn[owner, None] * s
    curvature = curvature.abs()
    good = curvature > torch.finfo(s.dtype).eps * (length * dot(y, y, owner, structures)).sqrt()
    s, y = (torch.where(good[owner, None], value, 0.0) for value in (s, y))
    return s, y, torch.where(good, curvature, 1.0), good


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
    SF = dots(S, forces, owner, n).unsqueeze(2)  # structures pairs 1
    YF = dots(Y, forces, owner, n).unsqueeze(2)
    D = torch.diagonal(R, dim1=1, dim2=2).unsqueeze(2)
    w = torch.linalg.solve_triangular(R, SF, upper=True)
    inner = D * w + g * (YY @ w - YF)
    p = torch.linalg.solve_triangular(R.transpose(1, 2), inner, upper=False)
    return d + combine(S, p.squeeze(2), owner) - combine(Y, (g * w).squeeze(2), owner)


def _bordered(
    inner: Float[Tensor, "structures pairs pairs"],
    column: Float[Tensor, "structures pairs"],
    row: Float[Tensor, "structures pairs"],
    corner: Float[Tensor, " structures"],
) -> Float[Tensor, "structures more more"]:
    """Return the matrices with one more column, row and corner."""
    top = torch.cat([inner, column.unsqueeze(2)], 2)
    bottom = torch.cat([row, corner.unsqueeze(1)], 1).unsqueeze(1)
    return torch.cat([top, bottom], 1)
