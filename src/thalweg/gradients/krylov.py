"""Krylov solvers for a whole batch of independent linear systems, one per structure.

A vector is a field of rows with an owner each; every scalar of the method (α, β, rotations, residual) is kept
per structure. A structure whose residual is small enough is frozen and, when enough are, the operator is asked
to go on with the others alone, so that finished structures cost nothing more. Right-hand sides are normalised
before the solve and the solution scaled back.

`minres` is for symmetric operators, indefinite or singular ones included; its Lanczos coefficients give Ritz
values. `gmres` is for operators that are not symmetric; its Arnoldi matrix gives them too, complex ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thalweg.relaxation.relaxer import combine, dot, dots

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
    """Lowest Ritz value, by real part where the operator is not symmetric; NaN where none was computed."""
    highest_ritz: Float[Tensor, " structures"]
    """Highest Ritz value, likewise."""


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

    The Ritz values are those of the Arnoldi matrix, by real part. The lowest is min_k (Re θ_k + r_k) with r_k the
    residual of Ritz pair k: some eigenvalue of A lies within r_k of θ_k if A is normal, so this bounds the lowest
    real part from above, as a Ritz value of a symmetric matrix does, and one that has not settled says nothing.

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
    lowest, highest = torch.full_like(norm, torch.nan), torch.full_like(norm, torch.nan)
    live = torch.arange(total, device=right.device)
    place = torch.arange(len(right), device=right.device)
    arnoldi = _Arnoldi(operator, right / scale[all_owner, None])
    going = norm > 0
    for _ in range(max_iterations):
        if not bool(going.any()):
            break
        if int(going.sum()) <= _SHRINK_AT * len(going):
            solution[place] = arnoldi.solution()
            lowest[live], highest[live] = arnoldi.extreme_ritz()
            live, place = live[going], place[going[arnoldi.operator.owner]]
            arnoldi.restrict(going)
            going = going[going]
        iterations[live[going]] += 1
        residual, exhausted = arnoldi.extend(going)
        going = going & (residual > tolerance) & ~exhausted
    solution[place] = arnoldi.solution()
    lowest[live], highest[live] = arnoldi.extreme_ritz()
    return Solved(solution * scale[all_owner, None], iterations, lowest, highest)


class _Arnoldi:
    """The Krylov basis of each structure, its Hessenberg matrix and the rotated one, a column more per product."""

    def __init__(self, operator: Operator, first: Tensor) -> None:
        n = operator.structures
        self.operator = operator
        self.basis = first.unsqueeze(1)  # rows vectors 3
        self.hessenberg: list[Tensor] = []  # column k: structures k + 2
        self.upper: list[Tensor] = []  # R; column k: structures k + 1
        self.rotations: list[tuple[Tensor, Tensor]] = []
        self.target = [first.new_ones(n)]  # Q e_1, an entry per vector
        self.columns = torch.zeros(n, dtype=torch.long, device=first.device)

    def extend(self, going: Tensor) -> tuple[Tensor, Tensor]:
        """Add a column; return the residual norms and which Krylov spaces are exhausted."""
        owner, n, k = self.operator.owner, self.operator.structures, len(self.upper)
        p = self.operator(self.basis[:, -1].contiguous())
        before = dot(p, p, owner, n).sqrt()
        column = p.new_zeros((n, k + 1))
        for _ in range(2):  # once leaves rounding behind, twice is enough
            share = dots(self.basis, p, owner, n)
            p = p - combine(self.basis, share, owner)
            column = column + share
        below = dot(p, p, owner, n).sqrt()
        self.hessenberg.append(torch.cat([column, below[:, None]], 1))
        entries = list(column.unbind(1))
        for j, (cs, sn) in enumerate(self.rotations):
            entries[j], entries[j + 1] = cs * entries[j] + sn * entries[j + 1], cs * entries[j + 1] - sn * entries[j]
        gamma = torch.hypot(entries[k], below)
        safe = torch.where(gamma > 0, gamma, 1.0)
        cs, sn = torch.where(gamma > 0, entries[k] / safe, 1.0), below / safe
        entries[k] = gamma
        self.rotations.append((cs, sn))
        self.upper.append(torch.stack(entries, 1))
        self.columns = torch.where(going, k + 1, self.columns)
        head = self.target[k]
        self.target[k:] = [cs * head, -sn * head]
        following = p / torch.where(below > 0, below, 1.0)[owner, None]
        self.basis = torch.cat([self.basis, following.unsqueeze(1)], 1)
        exhausted = below <= 10 * torch.finfo(p.dtype).eps * before
        return self.target[k + 1].abs(), exhausted

    def solution(self) -> Tensor:
        """Return the minimiser of the residual over each structure's own number of columns."""
        k = len(self.upper)
        if k == 0:
            return torch.zeros_like(self.basis[:, 0])
        used = self._used()
        upper = _square(self.upper, k) * (used[:, :, None] & used[:, None, :])
        pivot = torch.diagonal(upper, dim1=1, dim2=2)
        upper = upper + torch.diag_embed(torch.where(pivot == 0, 1.0, 0.0))
        right = torch.where(used & (pivot != 0), torch.stack(self.target[:k], 1), 0.0)
        y = torch.linalg.solve_triangular(upper, right.unsqueeze(2), upper=True).squeeze(2)
        return combine(self.basis[:, :k], y, self.operator.owner)

    def extreme_ritz(self) -> tuple[Tensor, Tensor]:
        """Return min (Re θ + r) and max Re θ over the Ritz pairs of each structure; NaN without columns."""
        nothing = torch.full_like(self.target[0], torch.nan)
        k = len(self.hessenberg)
        if k == 0:
            return nothing, nothing
        used = self._used()
        both = used[:, :, None] & used[:, None, :]
        whole = _square(self.hessenberg, k + 1).double()
        last = (self.columns - 1).clamp(min=0)
        below = whole[torch.arange(len(last), device=last.device), last + 1, last]
        known = torch.isfinite(whole).all(dim=(1, 2)) & (self.columns > 0)
        values, vectors = torch.linalg.eig(torch.where(both & known[:, None, None], whole[:, :k, :k], 0.0))
        # columns that a structure never built are zeros: a Ritz pair lives where its vector does
        mine = (vectors.abs().square() * used[:, :, None]).sum(dim=1) > 0.5
        tail = vectors.abs().gather(1, last[:, None, None].expand(-1, 1, k)).squeeze(1)
        low = torch.where(mine, values.real + below[:, None] * tail, torch.inf).amin(dim=1)
        high = torch.where(mine, values.real, -torch.inf).amax(dim=1)
        low, high = (torch.where(known, value.to(nothing.dtype), nothing) for value in (low, high))
        return low, high

    def restrict(self, keep: Tensor) -> None:
        """Go on with the chosen structures."""
        self.basis = self.basis[keep[self.operator.owner]]
        self.rotations = [(cs[keep], sn[keep]) for cs, sn in self.rotations]
        self.hessenberg, self.upper, self.target = (
            [column[keep] for column in columns] for columns in (self.hessenberg, self.upper, self.target)
        )
        self.columns = self.columns[keep]
        self.operator = self.operator.restrict(keep)

    def _used(self) -> Tensor:
        """Return which columns each structure has built: structures k."""
        return torch.arange(len(self.upper), device=self.columns.device) < self.columns[:, None]


def _square(columns: list[Tensor], size: int) -> Tensor:
    """Return the square matrices whose first columns are given, zeros below and to the right."""
    padded = [torch.nn.functional.pad(column, (0, size - column.shape[1])) for column in columns]
    matrix = torch.stack(padded, 2)  # structures size columns
    return torch.nn.functional.pad(matrix, (0, size - len(columns)))
