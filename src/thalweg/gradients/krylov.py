"""Krylov solvers for a whole batch of independent linear systems, one per structure.

A vector is a field of rows with an owner each; every scalar of the method (α, β, rotations, residual) is kept
per structure. A structure whose residual is small enough is frozen and, when enough are, the operator is asked
to go on with the others alone, so that finished structures cost nothing more. Right-hand sides are normalised
before the solve and the solution scaled back.

`minres` is for symmetric operators, indefinite or singular ones included; its Lanczos coefficients give Ritz
values. `gmres` is for operators that are not symmetric.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thalweg.relaxation.relaxer import dot

_SHRINK_AT = 0.75
"""The operator is rebuilt on the unfinished structures when at most this share of its structures is left."""


@runtime_checkable
class Operator(Protocol):
    """A block-diagonal linear operator: one block per structure."""

    @property
    def owner(self) -> Int[Tensor, " rows"]:
        """Structure of each row, ascending."""

    @property
    def structures(self) -> int:
        """Number of blocks."""

    def __call__(self, vector: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows 3"]:
        """Return A v."""

    def restrict(self, keep: Bool[Tensor, " structures"]) -> Operator:
        """Return the operator of the chosen structures alone."""


@dataclass(frozen=True, eq=False)
class Solved:
    """The end of a batch of linear solves."""

    solution: Float[Tensor, "rows 3"]
    """x, one block per structure."""
    iterations: Int[Tensor, " structures"]
    """Operator products spent on each structure."""
    lowest_ritz: Float[Tensor, " structures"]
    """Lowest Ritz value of a symmetric operator; NaN where none was computed."""
    highest_ritz: Float[Tensor, " structures"]
    """Highest Ritz value; NaN likewise."""


def minres(operator: Operator, right: Float[Tensor, "rows 3"], *, tolerance: float, max_iterations: int) -> Solved:
    """Solve A x = b for symmetric A.

    Args:
        operator: A, one symmetric block per structure.
        right: b.
        tolerance: stop a structure when ‖b − A x‖ ≤ tolerance · ‖b‖ by the recurrence.
        max_iterations: most products per structure.

    Source: Paige & Saunders (1975), SIAM J. Numer. Anal. 12, 617, section 6, without preconditioner.
    """
    total, owner = operator.structures, operator.owner
    norm = dot(right, right, owner, total).sqrt()
    scale = torch.where(norm > 0, norm, 1.0)
    eps = torch.finfo(norm.dtype).eps
    solution = torch.zeros_like(right)
    iterations = torch.zeros(total, dtype=torch.long, device=right.device)
    diagonal: list[Tensor] = []
    offdiagonal: list[Tensor] = []

    all_owner, live = owner, torch.arange(total, device=right.device)
    place = torch.arange(len(right), device=right.device)  # rows of the present operator in the full batch
    zero = torch.zeros_like(norm)
    field = {
        "v": right / scale[owner, None],
        "v_old": torch.zeros_like(right),
        "w": torch.zeros_like(right),
        "w_old": torch.zeros_like(right),
        "x": torch.zeros_like(right),
    }
    scalar = {
        "beta": zero,
        "cs": zero - 1,
        "sn": zero,
        "dbar": zero,
        "eps": zero,
        "phi": (norm > 0).to(norm.dtype),
    }
    going = norm > 0
    for _ in range(max_iterations):
        if not bool(going.any()):
            break
        if int(going.sum()) <= _SHRINK_AT * len(going):
            solution[place] = field["x"]
            mine = going[owner]
            operator = operator.restrict(going)
            owner, live, place = operator.owner, live[going], place[mine]
            field = {name: value[mine] for name, value in field.items()}
            scalar = {name: value[going] for name, value in scalar.items()}
            going = going[going]
        iterations[live[going]] += 1
        alpha, beta_next = _lanczos_step(operator, field, scalar, len(live))
        diagonal.append(_spread(alpha, live, going, total))
        offdiagonal.append(_spread(beta_next, live, going, total))
        _minres_update(field, scalar, alpha, beta_next, owner, going)
        exhausted = beta_next <= 10 * eps * alpha.abs()  # the Krylov space holds the best solution there is
        going = going & (scalar["phi"].abs() > tolerance) & ~exhausted
    solution[place] = field["x"]
    lowest, highest = _extreme_ritz(diagonal, offdiagonal, norm)
    return Solved(solution * scale[all_owner, None], iterations, lowest, highest)


def _lanczos_step(
    operator: Operator, field: dict[str, Tensor], scalar: dict[str, Tensor], structures: int
) -> tuple[Tensor, Tensor]:
    """Replace v by the next Lanczos vector and return (α, β) of the step; v before it moves to v_old."""
    owner, v = operator.owner, field["v"]
    p = operator(v) - scalar["beta"][owner, None] * field["v_old"]
    alpha = dot(v, p, owner, structures)
    p = p - alpha[owner, None] * v
    beta = dot(p, p, owner, structures).sqrt()
    field["v_old"], field["v"] = v, p / torch.where(beta > 0, beta, 1.0)[owner, None]
    return alpha, beta


def _minres_update(
    field: dict[str, Tensor],
    scalar: dict[str, Tensor],
    alpha: Tensor,
    beta: Tensor,
    owner: Tensor,
    going: Tensor,
) -> None:
    """Rotate the new column of the tridiagonal matrix and move the solution along the new direction."""
    cs, sn, dbar, eps = scalar["cs"], scalar["sn"], scalar["dbar"], scalar["eps"]
    delta = cs * dbar + sn * alpha
    gbar = sn * dbar - cs * alpha
    gamma = torch.hypot(gbar, beta).clamp_min(torch.finfo(alpha.dtype).tiny)
    scalar["eps"], scalar["dbar"] = sn * beta, -cs * beta
    scalar["cs"], scalar["sn"] = gbar / gamma, beta / gamma
    phi = scalar["cs"] * scalar["phi"]
    scalar["phi"] = torch.where(going, scalar["sn"] * scalar["phi"], scalar["phi"])
    scalar["beta"] = beta
    direction = field["v_old"] - eps[owner, None] * field["w_old"] - delta[owner, None] * field["w"]
    field["w_old"], field["w"] = field["w"], direction / gamma[owner, None]
    step = torch.where(going, phi, 0.0)[owner, None] * field["w"]
    field["x"] = field["x"] + torch.where(going[owner, None], step, 0.0)


def _spread(values: Tensor, live: Tensor, going: Tensor, total: int) -> Tensor:
    """Return the values of the structures still going, NaN for all others."""
    result = values.new_full((total,), torch.nan)
    result[live[going]] = values[going]
    return result


def _extreme_ritz(diagonal: list[Tensor], offdiagonal: list[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest and highest eigenvalue of each structure's tridiagonal Lanczos matrix.

    The matrices have different sizes; padding with the first Rayleigh quotient α_1, which lies between the
    extremes, leaves the extremes as they are.
    """
    nothing = torch.full_like(like, torch.nan)
    if not diagonal:
        return nothing, nothing
    alpha = torch.stack(diagonal, dim=1).double()  # structures iterations
    beta = torch.stack(offdiagonal, dim=1).double()
    known = ~torch.isnan(alpha)
    first = torch.nan_to_num(alpha[:, :1])
    matrix = torch.diag_embed(torch.where(known, alpha, first))
    coupled = known[:, :-1] & known[:, 1:]  # β_k couples columns k and k + 1 only if both were built
    between = torch.where(coupled, beta[:, :-1], 0.0)
    matrix = matrix + torch.diag_embed(between, 1) + torch.diag_embed(between, -1)
    finite = torch.isfinite(matrix).all(dim=(1, 2)) & known[:, 0]
    values = torch.linalg.eigvalsh(torch.where(finite[:, None, None], matrix, 0.0)).to(like.dtype)
    return torch.where(finite, values[:, 0], nothing), torch.where(finite, values[:, -1], nothing)


def gmres(operator: Operator, right: Float[Tensor, "rows 3"], *, tolerance: float, max_iterations: int) -> Solved:
    """Solve A x = b for any A, without restarts.

    Args:
        operator: A, one block per structure.
        right: b.
        tolerance: stop a structure when ‖b − A x‖ ≤ tolerance · ‖b‖ by the recurrence.
        max_iterations: most products per structure; as many vectors are kept.

    Source: Saad & Schultz (1986), SIAM J. Sci. Stat. Comput. 7, 856; Gram–Schmidt is done twice.
    """
    total, all_owner = operator.structures, operator.owner
    norm = dot(right, right, all_owner, total).sqrt()
    scale = torch.where(norm > 0, norm, 1.0)
    solution = torch.zeros_like(right)
    iterations = torch.zeros(total, dtype=torch.long, device=right.device)
    live = torch.arange(total, device=right.device)
    place = torch.arange(len(right), device=right.device)
    arnoldi = _Arnoldi(operator, right / scale[all_owner, None], max_iterations)
    going = norm > 0
    for _ in range(max_iterations):
        if not bool(going.any()):
            break
        if int(going.sum()) <= _SHRINK_AT * len(going):
            solution[place] = arnoldi.solution()
            live, place = live[going], place[going[arnoldi.operator.owner]]
            arnoldi.restrict(going)
            going = going[going]
        iterations[live[going]] += 1
        residual, exhausted = arnoldi.extend(going)
        going = going & (residual > tolerance) & ~exhausted
    solution[place] = arnoldi.solution()
    nothing = torch.full_like(norm, torch.nan)
    return Solved(solution * scale[all_owner, None], iterations, nothing, nothing)


class _Arnoldi:
    """The Krylov basis of each structure and the rotated Hessenberg matrix, one column more per product."""

    def __init__(self, operator: Operator, first: Tensor, max_iterations: int) -> None:
        n = operator.structures
        self.operator = operator
        self.basis = [first]
        self.upper = first.new_zeros((n, max_iterations, max_iterations))  # R, by structure
        self.rotations: list[tuple[Tensor, Tensor]] = []
        self.target = first.new_zeros((n, max_iterations + 1))  # Q e_1
        self.target[:, 0] = 1.0
        self.columns = torch.zeros(n, dtype=torch.long, device=first.device)

    def extend(self, going: Tensor) -> tuple[Tensor, Tensor]:
        """Add a column; return the residual norms and which Krylov spaces are exhausted."""
        owner, n, k = self.operator.owner, self.operator.structures, len(self.basis) - 1
        p = self.operator(self.basis[-1])
        before = dot(p, p, owner, n).sqrt()
        column = p.new_zeros((n, k + 1))
        for _ in range(2):
            share = torch.stack([dot(q, p, owner, n) for q in self.basis], dim=1)
            for j, q in enumerate(self.basis):
                p = p - share[:, j][owner, None] * q
            column = column + share
        below = dot(p, p, owner, n).sqrt()
        for j, (cs, sn) in enumerate(self.rotations):
            upper, lower = column[:, j].clone(), column[:, j + 1].clone()
            column[:, j], column[:, j + 1] = cs * upper + sn * lower, cs * lower - sn * upper
        gamma = torch.hypot(column[:, k], below)
        safe = torch.where(gamma > 0, gamma, 1.0)
        cs, sn = torch.where(gamma > 0, column[:, k] / safe, 1.0), below / safe
        column[:, k] = gamma
        self.rotations.append((cs, sn))
        self.upper[:, : k + 1, k] = column
        self.columns = torch.where(going, k + 1, self.columns)
        head = self.target[:, k].clone()
        self.target[:, k], self.target[:, k + 1] = cs * head, -sn * head
        self.basis.append(p / torch.where(below > 0, below, 1.0)[owner, None])
        exhausted = below <= 10 * torch.finfo(p.dtype).eps * before
        return self.target[:, k + 1].abs(), exhausted

    def solution(self) -> Tensor:
        """Return the minimiser of the residual over each structure's own number of columns."""
        k = len(self.basis) - 1
        if k == 0:
            return torch.zeros_like(self.basis[0])
        used = torch.arange(k, device=self.columns.device) < self.columns[:, None]  # structures k
        upper = self.upper[:, :k, :k] * (used[:, :, None] & used[:, None, :])
        pivot = torch.diagonal(upper, dim1=1, dim2=2)
        upper = upper + torch.diag_embed(torch.where(pivot == 0, 1.0, 0.0))
        right = torch.where(used & (pivot != 0), self.target[:, :k], 0.0)
        y = torch.linalg.solve_triangular(upper, right.unsqueeze(2), upper=True).squeeze(2)
        owner = self.operator.owner
        result = torch.zeros_like(self.basis[0])
        for j in range(k):
            result = result + y[:, j][owner, None] * self.basis[j]
        return result

    def restrict(self, keep: Tensor) -> None:
        """Go on with the chosen structures."""
        mine = keep[self.operator.owner]
        self.basis = [q[mine] for q in self.basis]
        self.rotations = [(cs[keep], sn[keep]) for cs, sn in self.rotations]
        self.upper, self.target, self.columns = self.upper[keep], self.target[keep], self.columns[keep]
        self.operator = self.operator.restrict(keep)
