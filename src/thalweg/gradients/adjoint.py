"""The adjoint of an equilibrium: from ∂L/∂X* to dL/dθ at flat memory.

At X* with F_θ(X*) = 0 the implicit function theorem gives, with J = ∂F/∂X,

    Jᵀ λ = −∂L/∂X*,      dL/dθ = λᵀ ∂F/∂θ

Products Jᵀv are vector-Jacobian products of the forces at one fixed point: one graph, built once. A potential
whose measured Jacobian is symmetric (J = −H) is solved by MINRES, any other by GMRES. MINRES is preconditioned where
the coordinates are the atoms' positions; with a moving cell, whose strain the preconditioner does not know, it is
plain. Null modes (translations, rotations of isolated clusters) are tested, not assumed, and projected out of
right-hand side and operator; fixed components never enter. Every structure gets its verdict: a residual above the
limit or negative curvature (a saddle; for direct forces an eigenvalue of −J with negative real part, which drives
dX/dt = F away from X*) takes it out of the gradient.

Called by the implicit and split routes during backward.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thalweg.errors import SettingsError
from thalweg.gradients.krylov import gmres, minres
from thalweg.gradients.preconditioner import DensePreconditioner, ForceConstants, fit_preconditioner
from thalweg.potentials.contract import Potential
from thalweg.relaxation.coordinates import FreeCoordinates, Positions
from thalweg.relaxation.relaxer import dot, largest_norm
from thalweg.relaxation.stability import Curvature
from thalweg.seeds import torch_stream
from thalweg.structures.batch import Structures

_COUPLING = 0.6
"""Å/eV: at fmax 0.005 this asks for 3e-3. On silicon interstitials that left 0.08 % in the parameters' gradient
(median), and at most 0.56 of the error that the forces left over made; see docs/gradient-accuracy.md."""
_TIGHTEST = 1e-5
"""Single precision does not reach much less."""


@dataclass(frozen=True)
class AdjointSettings:
    """How well the adjoint system is solved, and what is refused."""

    tolerance: float | Literal["auto"] = 1e-4
    """Target of the relative residual. `auto` couples it to the largest force left at X*, structure by structure: a
    solve far more exact than X* itself buys nothing."""
    limit: float = 1e-2
    """A structure whose true relative residual is above this takes no part."""
    max_iterations: int = 200
    """Most Jacobian products per structure."""
    saddle: float | None = None
    """Curvature below −saddle · (highest curvature) counts as negative; None takes 3e-4 in float32, just above the
    noise of Lanczos there, and 1e-6 in float64."""
    symmetric_below: float = 1e-3
    """Measured asymmetry ‖J − Jᵀ‖ / 2‖J‖ below which J is solved as symmetric."""
    preconditioned_atoms: int = 400
    """Batches whose largest structure has up to so many atoms are solved with a preconditioner when J is symmetric
    and the cell fixed; its dense factors take 72 N² bytes a structure. 0 turns it off."""

    def __post_init__(self) -> None:
        sound = self.limit > 0 if isinstance(self.tolerance, str) else 0 < self.tolerance <= self.limit
        if not sound:
            raise SettingsError(
                f"adjoint tolerance is {self.tolerance} and limit {self.limit}: "
                "allowed is 0 < tolerance <= limit, e.g. 1e-4 and 1e-2, or the tolerance auto"
            )
        if self.max_iterations < 1:
            raise SettingsError(f"adjoint max_iterations is {self.max_iterations}: allowed is 1 or more")
        if self.preconditioned_atoms < 0:
            raise SettingsError(
                f"adjoint preconditioned_atoms is {self.preconditioned_atoms}: allowed is 0 (off) or more, e.g. 400"
            )

    def target(self, largest_force: Float[Tensor, " structures"]) -> Float[Tensor, " structures"]:
        """Return the relative residual to reach in each structure, given the largest force left in it, eV/Å."""
        if isinstance(self.tolerance, str):
            return (_COUPLING * largest_force).clamp(min(_TIGHTEST, 0.5 * self.limit), 0.5 * self.limit)
        return torch.full_like(largest_force, self.tolerance)

    def tightened(self, tolerance: float) -> AdjointSettings:
        """Return the settings with this target and products enough to reach it, as verification needs them."""
        return replace(self, tolerance=tolerance, max_iterations=2000)


@dataclass(frozen=True, eq=False)
class Adjoint:
    """λ and what is known about it, per structure."""

    solution: Float[Tensor, "rows 3"]
    """λ; zero for structures that were refused."""
    usable: Bool[Tensor, " structures"]
    """Whether λ enters the gradient."""
    reasons: tuple[str | None, ...]
    """Why not, None where usable."""
    iterations: Int[Tensor, " structures"]
    """Jacobian products."""
    residual: Float[Tensor, " structures"]
    """True relative residual."""
    lowest_curvature: Float[Tensor, " structures"]
    """Lowest Rayleigh quotient of H = −J over the Krylov space (where J is not symmetric the lowest real part of a
    Ritz value), eV/Å²."""
    asymmetry: Float[Tensor, " structures"]
    """Measured ‖J − Jᵀ‖ / 2‖J‖."""
    solver: Literal["minres", "gmres"]
    """What the batch was solved by, chosen by its largest asymmetry."""
    operator: ProjectedCurvature
    """What was solved with: it holds the graph of the forces."""

    def parameter_gradient(self, parameters: list[Tensor]) -> list[Tensor | None]:
        """Return λᵀ ∂F/∂θ for each parameter; the graph of the solve is used once more and freed.

        A structure that was refused has λ = 0. Where its products were not even finite, 0 would not stay 0, and a
        new graph is built without it.
        """
        operator, solution = self.operator, self.solution
        if not bool(torch.isfinite(self.residual).all()):
            operator, solution = operator.restrict(self.usable), solution[self.usable[operator.owner]]
        return operator.curvature.to_parameters(solution, parameters)


class ProjectedCurvature:
    """The operator v → P Hᵀ P v, H = −J at fixed coordinates, with P projecting out null modes and fixed components.

    −P Jᵀ P is what the adjoint solves with; for a conservative potential it is the projected Hessian.
    """

    def __init__(
        self,
        potential: Potential,
        structures: Structures,
        coordinates: FreeCoordinates,
        null: Float[Tensor, "modes rows 3"] | None = None,
        *,
        reference: Structures | None = None,
    ) -> None:
        """Build the graph of the forces once.

        Args:
            potential: gives the forces.
            structures: the structures at X*.
            coordinates: what moves.
            null: orthonormal null modes by structure; None for no projection.
            reference: what strain is measured from, where the cell moves; the structures themselves by default.
        """
        self._potential = potential
        self._structures = structures
        self._coordinates = coordinates
        self._null = null
        self._reference = reference
        self.curvature = Curvature(potential, structures, coordinates, reference)
        self.owner = self.curvature.owner
        self.structures = len(structures)
        self.dtype = structures.dtype

    @cached_property
    def probe(self) -> tuple[Float[Tensor, "rows 3"], Float[Tensor, "rows 3"]]:
        """A random vector v on free components and Hᵀ v: one product, shared by all tests."""
        direction = self.random("probe")
        return direction, self.curvature(direction)

    def random(self, purpose: str) -> Float[Tensor, "rows 3"]:
        """Return a random vector on free components that depends on the purpose and each structure's name alone."""
        counts = torch.bincount(self.owner, minlength=self.structures).tolist()
        blocks = [
            torch.randn((count, 3), generator=torch_stream(0, purpose, name), dtype=torch.float64)
            for count, name in zip(counts, self._structures.ids, strict=True)
        ]
        whole = torch.cat(blocks).to(device=self.owner.device, dtype=self.dtype)
        return self.curvature.movable(whole)

    def preconditioner(self) -> DensePreconditioner:
        """Fit a preconditioner to the probe and one product more; H must be symmetric, coordinates positions.

        Bonds and bends are laid out between atoms, one row each. Rows of strain have no place among them.
        """
        edges = self._potential.edges(self._structures)
        terms = ForceConstants(self._structures, edges, self._potential.cutoff)
        free = self.curvature.free
        return fit_preconditioner(terms, self, self.probe, self.random("second probe"), self._null, free)

    def projecting(self, null: Float[Tensor, "modes rows 3"] | None) -> ProjectedCurvature:
        """Return the same operator, on the same graph, with null modes projected out."""
        other = copy.copy(self)
        other._null = null
        return other

    def project(self, vector: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows 3"]:
        """Remove null modes and fixed components."""
        vector = self.curvature.movable(vector)
        if self._null is not None:
            for mode in self._null:
                share = dot(mode, vector, self.owner, self.structures)
                vector = vector - share[self.owner, None] * mode
        return vector

    def __call__(self, vector: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows 3"]:
        """Return P Hᵀ P v."""
        return self.project(self.curvature(self.project(vector)))

    def restrict(self, keep: Bool[Tensor, " structures"]) -> ProjectedCurvature:
        """Return the operator of the chosen structures alone."""
        null = None if self._null is None else self._null[:, keep[self.owner]]
        index = keep.nonzero().squeeze(1)
        reference = None if self._reference is None else self._reference.select(index)
        chosen = self._structures.select(index)
        return ProjectedCurvature(self._potential, chosen, self._coordinates, null, reference=reference)


def solve_adjoint(
    potential: Potential,
    structures: Structures,
    right: Float[Tensor, "rows 3"],
    *,
    coordinates: FreeCoordinates,
    settings: AdjointSettings,
    reference: Structures | None = None,
) -> Adjoint:
    """Solve Jᵀ λ = −∂L/∂X* for a batch of relaxed structures.

    Args:
        potential: gives the forces.
        structures: the structures at X*.
        right: ∂L/∂X*, one row per free coordinate.
        coordinates: what moves.
        settings: tolerances and limits.
        reference: what strain is measured from, where the cell moves; X* by default.
    """
    plain = ProjectedCurvature(potential, structures, coordinates, reference=reference)
    asymmetry = measure_asymmetry(plain, potential, structures, coordinates)
    null = null_modes(plain, potential, structures, coordinates)
    operator = plain.projecting(null)
    right = operator.project(right)
    symmetric = bool((asymmetry < settings.symmetric_below).all())
    target = settings.target(largest_norm(operator.curvature.forces, operator.owner, operator.structures))
    if symmetric:
        small = int(structures.counts.max()) <= settings.preconditioned_atoms
        solved = minres(
            operator,
            right,
            tolerance=target,
            max_iterations=settings.max_iterations,
            preconditioner=operator.preconditioner() if small and isinstance(coordinates, Positions) else None,
        )
    else:
        solved = gmres(operator, right, tolerance=target, max_iterations=settings.max_iterations)

    n, owner = operator.structures, operator.owner
    missing = right - operator(solved.solution)
    norm = dot(right, right, owner, n).sqrt()
    residual = dot(missing, missing, owner, n).sqrt() / torch.where(norm > 0, norm, 1.0)
    share = settings.saddle if settings.saddle is not None else (3e-4 if right.dtype == torch.float32 else 1e-6)
    saddle = solved.lowest_ritz < -share * solved.highest_ritz.abs()
    reasons: list[str | None] = []
    for is_saddle, res in zip(saddle.tolist(), residual.tolist(), strict=True):
        if is_saddle:
            reasons.append("saddle")
        elif not res <= settings.limit:
            reasons.append("adjoint_unsolved")
        else:
            reasons.append(None)
    usable = torch.tensor([r is None for r in reasons], device=right.device)
    solution = torch.where(usable[owner, None], solved.solution, 0.0)
    return Adjoint(
        solution=solution,
        usable=usable,
        reasons=tuple(reasons),
        iterations=solved.iterations,
        residual=residual,
        lowest_curvature=solved.lowest_ritz,
        asymmetry=asymmetry,
        solver="minres" if symmetric else "gmres",
        operator=operator,
    )


def measure_asymmetry(
    operator: ProjectedCurvature,
    potential: Potential,
    structures: Structures,
    coordinates: FreeCoordinates,
) -> Float[Tensor, " structures"]:
    """Return ‖(J − Jᵀ) v‖ / 2‖J v‖ for one random direction v per structure.

    J v comes from central differences of the forces, Jᵀ v from the graph. In float32 the differences carry noise
    of about 1e-4.
    """
    step = _difference_step(operator)
    base, rows = operator.curvature.reference, operator.curvature.rows
    probe, product = operator.probe
    plus = coordinates.evaluate(potential, base, rows + step * probe)[1]
    minus = coordinates.evaluate(potential, base, rows - step * probe)[1]
    forward = (plus - minus) / (2 * step)
    difference = forward + product
    n = operator.structures
    top = dot(difference, difference, operator.owner, n).sqrt()
    bottom = dot(forward, forward, operator.owner, n).sqrt()
    return top / (2 * torch.where(bottom > 0, bottom, 1.0))


def null_modes(
    operator: ProjectedCurvature,
    potential: Potential,
    structures: Structures,
    coordinates: FreeCoordinates,
    *,
    tolerance: float = 1e-3,
) -> Float[Tensor, "modes rows 3"] | None:
    """Return orthonormal null modes of Jᵀ among translations and rotations, zero for structures without them.

    Each group is tested with one random combination of its modes u: it is null if ‖Jᵀu‖ and ‖Ju‖ are below
    `tolerance` times the largest curvature a random direction shows. A cell-blind potential fails the test and
    keeps its modes. Rotations are tested only for isolated clusters (no periodic direction).
    """
    groups = coordinates.rigid_modes(structures)
    base, rows = operator.curvature.reference, operator.curvature.rows
    owner, n = operator.owner, operator.structures
    probe, response = operator.probe
    unit = dot(probe, probe, owner, n).sqrt().clamp_min(torch.finfo(rows.dtype).tiny)
    typical = dot(response, response, owner, n).sqrt() / unit
    found = []
    for modes in groups:
        mix = torch.einsum("m,mrc->rc", modes.new_tensor([1.0, 0.7, -0.4])[: len(modes)], modes)
        size = dot(mix, mix, owner, n).sqrt()
        left = operator.curvature(mix)
        step = _difference_step(operator) * (len(rows) / n) ** 0.5
        plus = coordinates.evaluate(potential, base, rows + step * mix)[1]
        minus = coordinates.evaluate(potential, base, rows - step * mix)[1]
        right = (plus - minus) / (2 * step)
        worst = torch.maximum(dot(left, left, owner, n).sqrt(), dot(right, right, owner, n).sqrt())
        is_null = (size > 0) & (worst <= tolerance * typical * size)
        if bool(is_null.any()):
            found.append(modes * is_null[owner][None, :, None])
    return torch.cat(found) if found else None


def _difference_step(operator: ProjectedCurvature) -> float:
    """Return the displacement per component (Å) that balances rounding and the third derivative."""
    return 2e-3 if operator.dtype == torch.float32 else 5e-5
