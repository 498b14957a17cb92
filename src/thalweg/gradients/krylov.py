"""Krylov solvers for a whole batch of independent linear systems, one per structure.

A vector is a field of rows with an owner each; every scalar of the method (α, β, rotations, residual) is kept
per structure. A structure whose residual is small enough is frozen and, when enough are, the operator is asked
to go on with the others alone, so that finished structures cost nothing more. Right-hand sides are normalised
before the solve and the solution scaled back.

`minres` is for symmetric operators, indefinite or singular ones included, and takes a preconditioner; its Lanczos
coefficients give Ritz values. `gmres` is for operators that are not symmetric; its Arnoldi matrix gives them too,
complex ones.
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


@runtime_checkable
class Preconditioner(Protocol):
    """A symmetric positive definite, block-diagonal operator near the inverse of another one."""

    def __call__(self, vector: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows 3"]:
        """Return M v."""

    def restrict(self, keep: Bool[Tensor, " structures"]) -> Preconditioner:
        """Return M of the chosen structures alone."""


@dataclass(frozen=True, eq=False)
class Solved:
    """The end of a batch of linear solves."""

    solution: Float[Tensor, "rows 3"]
    """x, one block per structure."""
    iterations: Int[Tensor, " structures"]
    """Operator products spent on each structure."""
    lowest_ritz: Float[Tensor, " structures"]
    """Lowest Rayleigh quotient of a symmetric operator over the Krylov space; where it is not symmetric the lowest
    Ritz value by real part; NaN where none was computed."""
    highest_ritz: Float[Tensor, " structures"]
    """Highest one, likewise."""


def minres(
    operator: Operator,
    right: Float[Tensor, "rows 3"],
    *,
    tolerance: float | Float[Tensor, " structures"],
    max_iterations: int,
    preconditioner: Preconditioner | None = None,
) -> Solved:
    """Solve A x = b for symmetric A.

    The residual that stops a structure is ‖b − A x‖ itself, with a preconditioner too: it is carried along by its
    own recurrence (Choi, Paige & Saunders 2011, equation 3.15, r_k = s_k² r_{k−1} − φ_k c_k v_{k+1}). Lanczos
    vectors are orthogonalised against all earlier ones, which are kept.

    Args:
        operator: A, one symmetric block per structure.
        right: b.
        tolerance: stop a structure when ‖b − A x‖ ≤ tolerance · ‖b‖ by the recurrence; one for all or one each.
        max_iterations: most products per structure; twice as many vectors are kept.
        preconditioner: M, symmetric positive definite on the range of A; None for the identity.

    Source: Paige & Saunders (1975), SIAM J. Numer. Anal. 12, 617, section 6, in the inner product of M.
    """
    total, all_owner = operator.structures, operator.owner
    norm = dot(right, right, all_owner, total).sqrt()
    scale = torch.where(norm > 0, norm, 1.0)
    solution = torch.zeros_like(right)
    iterations = torch.zeros(total, dtype=torch.long, device=right.device)
    ritz = torch.full((total, 2), torch.nan, dtype=norm.dtype, device=right.device)
    target = torch.as_tensor(tolerance, dtype=norm.dtype, device=right.device).expand(total)
    live = torch.arange(total, device=right.device)
    place = torch.arange(len(right), device=right.device)  # rows of the present operator in the full batch
    lanczos = _Lanczos(operator, preconditioner, right / scale[all_owner, None])
    going = norm > 0
    for _ in range(max_iterations):
        if not bool(going.any()):
            break
        if int(going.sum()) <= _SHRINK_AT * len(going):
            solution[place], ritz[live] = lanczos.solution, lanczos.extreme_ritz()
            live, place = live[going], place[going[lanczos.operator.owner]]
            lanczos.restrict(going)
            going = going[going]
        iterations[live[going]] += 1
        residual, exhausted = lanczos.extend(going)
        going = going & (residual > target[live]) & ~exhausted
    solution[place], ritz[live] = lanczos.solution, lanczos.extreme_ritz()
    return Solved(solution * scale[all_owner, None], iterations, ritz[:, 0], ritz[:, 1])


class _Lanczos:
    """The Lanczos vectors of each structure, the rotated tridiagonal matrix and the solution so far.

    v_k are residual-like, z_k = M v_k solution-like, z_j · v_k = δ_jk; T = Zᵀ A Z is tridiagonal (α, β).
    """

    def __init__(self, operator: Operator, preconditioner: Preconditioner | None, first: Tensor) -> None:
        self.operator, self.preconditioner = operator, preconditioner
        n = operator.structures
        z = first if preconditioner is None else preconditioner(first)
        beta = dot(first, z, operator.owner, n).clamp_min(0.0).sqrt()
        unit = (1.0 / torch.where(beta > 0, beta, 1.0))[operator.owner, None]
        self.v, self.z = (first * unit).unsqueeze(1), (z * unit).unsqueeze(1)  # rows k + 1 3
        self.alpha = beta.new_zeros((n, 0))
        self.beta = beta.new_zeros((n, 0))
        self.solution, self.residual = torch.zeros_like(first), first
        self.w, self.w_old = torch.zeros_like(first), torch.zeros_like(first)
        zero = torch.zeros_like(beta)
        self.scalars = {"cs": zero - 1, "sn": zero, "dbar": zero, "eps": zero, "phi": beta}

    def extend(self, going: Tensor) -> tuple[Tensor, Tensor]:
        """Make one product; return the norms of the residuals and which Krylov spaces are exhausted."""
        owner, n = self.operator.owner, self.operator.structures
        z = self.z[:, -1]
        p = self.operator(z)
        share = dots(self.z, p, owner, n)
        p = p - combine(self.v, share, owner)
        p = p - combine(self.v, dots(self.z, p, owner, n), owner)
        alpha = share[:, -1]
        q = p if self.preconditioner is None else self.preconditioner(p)
        beta = dot(p, q, owner, n).clamp_min(0.0).sqrt()
        unit = (1.0 / torch.where(beta > 0, beta, 1.0))[owner, None]
        self.v = torch.cat([self.v, (p * unit).unsqueeze(1)], 1)
        self.z = torch.cat([self.z, (q * unit).unsqueeze(1)], 1)
        self.alpha = torch.cat([self.alpha, torch.where(going, alpha, torch.nan).unsqueeze(1)], 1)
        self.beta = torch.cat([self.beta, beta.unsqueeze(1)], 1)
        self._move(z, alpha, beta, going)
        size = dot(self.residual, self.residual, owner, n).sqrt()
        return size, beta <= 10 * torch.finfo(beta.dtype).eps * alpha.abs()

    def _move(self, z: Tensor, alpha: Tensor, beta: Tensor, going: Tensor) -> None:
        """Rotate the new column of T and move solution and residual of the structures still going."""
        owner, old = self.operator.owner, self.scalars
        delta = old["cs"] * old["dbar"] + old["sn"] * alpha
        gbar = old["sn"] * old["dbar"] - old["cs"] * alpha
        gamma = torch.hypot(gbar, beta).clamp_min(torch.finfo(alpha.dtype).tiny)
        cs, sn = gbar / gamma, beta / gamma
        step = cs * old["phi"]
        phi = sn * old["phi"]
        direction = z - old["eps"][owner, None] * self.w_old - delta[owner, None] * self.w
        self.w_old, self.w = self.w, direction / gamma[owner, None]
        moved = self.solution + step[owner, None] * self.w
        left = sn.square()[owner, None] * self.residual - (phi * cs)[owner, None] * self.v[:, -1]
        mine = going[owner, None]
        self.solution = torch.where(mine, moved, self.solution)
        self.residual = torch.where(mine, left, self.residual)
        self.scalars = {"cs": cs, "sn": sn, "dbar": -old["cs"] * beta, "eps": old["sn"] * beta, "phi": phi}

    def extreme_ritz(self) -> Float[Tensor, "structures 2"]:
        """Return the lowest and highest Rayleigh quotient of A over each Krylov space; NaN where there is none.

        They are eigenvalues of the pencil (Zᵀ A Z, Zᵀ Z): without a preconditioner Z is orthonormal and they are
        Ritz values; with one, the eigenvalues of T alone would be in other units. The spaces have different sizes;
        padding with the first Rayleigh quotient, which lies between the extremes, leaves them as they are.
        """
        n, k = self.alpha.shape
        nothing = self.alpha.new_full((n, 2), torch.nan)
        if k == 0:
            return nothing
        known = ~torch.isnan(self.alpha)
        basis = torch.where(known[self.operator.owner][:, :, None], self.z[:, :k], 0.0)
        columns = [dots(basis, basis[:, j], self.operator.owner, n) for j in range(k)]
        unknown = torch.diag_embed((~known).double())
        gram = torch.stack(columns, dim=2).double() + unknown
        alpha, beta = torch.nan_to_num(self.alpha.double()), self.beta.double()
        first = alpha[:, :1] / gram[:, :1, 0]
        matrix = torch.diag_embed(torch.where(known, alpha, first))
        between = torch.where(known[:, :-1] & known[:, 1:], beta[:, : k - 1], 0.0)
        matrix = matrix + torch.diag_embed(between, 1) + torch.diag_embed(between, -1)
        finite = torch.isfinite(matrix).all(dim=(1, 2)) & torch.isfinite(gram).all(dim=(1, 2)) & known[:, 0]
        identity = torch.eye(k, dtype=gram.dtype, device=gram.device)
        factor, failed = torch.linalg.cholesky_ex(torch.where(finite[:, None, None], gram, identity))
        sound = finite & (failed == 0)
        factor = torch.where(sound[:, None, None], factor, identity)
        half = torch.linalg.solve_triangular(factor, torch.where(sound[:, None, None], matrix, 0.0), upper=False)
        whole = torch.linalg.solve_triangular(factor, half.transpose(1, 2), upper=False)
        values = torch.linalg.eigvalsh(0.5 * (whole + whole.transpose(1, 2)))
        return torch.where(sound[:, None], values[:, [0, -1]].to(nothing.dtype), nothing)

    def restrict(self, keep: Tensor) -> None:
        """Go on with the chosen structures."""
        mine = keep[self.operator.owner]
        for name in ("v", "z", "solution", "residual", "w", "w_old"):
            setattr(self, name, getattr(self, name)[mine])
        self.alpha, self.beta = self.alpha[keep], self.beta[keep]
        self.scalars = {name: value[keep] for name, value in self.scalars.items()}
        self.operator = self.operator.restrict(keep)
        if self.preconditioner is not None:
            self.preconditioner = self.preconditioner.restrict(keep)


def gmres(
    operator: Operator,
    right: Float[Tensor, "rows 3"],
    *,
    tolerance: float | Float[Tensor, " structures"],
    max_iterations: int,
) -> Solved:
    """Solve A x = b for any A, without restarts.

    The Ritz values are those of the Arnoldi matrix, by real part. The lowest is min_k (Re θ_k + r_k) with r_k the
    residual of Ritz pair k: some eigenvalue of A lies within r_k of θ_k if A is normal, so this bounds the lowest
    real part from above, as a Ritz value of a symmetric matrix does, and one that has not settled says nothing.

    Args:
        operator: A, one block per structure.
        right: b.
        tolerance: stop a structure when ‖b − A x‖ ≤ tolerance · ‖b‖ by the recurrence; one for all or one each.
        max_iterations: most products per structure; as many vectors are kept.

    Source: Saad & Schultz (1986), SIAM J. Sci. Stat. Comput. 7, 856; Gram–Schmidt is done twice.
    """
    total, all_owner = operator.structures, operator.owner
    norm = dot(right, right, all_owner, total).sqrt()
    scale = torch.where(norm > 0, norm, 1.0)
    solution = torch.zeros_like(right)
    iterations = torch.zeros(total, dtype=torch.long, device=right.device)
    lowest, highest = torch.full_like(norm, torch.nan), torch.full_like(norm, torch.nan)
    target = torch.as_tensor(tolerance, dtype=norm.dtype, device=right.device).expand(total)
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
        going = going & (residual > target[live]) & ~exhausted
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
