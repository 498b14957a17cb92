"""Certificates: what is known about each structure's share in a gradient.

A certificate travels with the gradient into the run record. What a route does not measure is None, never 0.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from thalweg.relaxation.loop import Relaxation
from thalweg.relaxation.outcome import Outcome


@dataclass
class Certificate:
    """The verdict on one structure; the adjoint's fields are filled in by the backward pass."""

    id: str
    """Name of the structure."""
    took_part: bool
    """Whether it contributed to the gradient."""
    reason: str | None = None
    """Why it did not, None if it did."""
    outcome: Outcome | None = None
    """How its relaxation ended; None if the route does not relax to the end."""
    steps: int | None = None
    """Moves made in all."""
    fmax: float | None = None
    """Largest force at the end, eV/Å."""
    lowest_curvature: float | None = None
    """Lowest Ritz value of the Hessian seen by the adjoint solver, eV/Å²; an upper bound of the lowest curvature."""
    adjoint_iterations: int | None = None
    """Jacobian products the adjoint solve took."""
    adjoint_solver: str | None = None
    """`minres` where the measured asymmetry let J count as symmetric, else `gmres`."""
    adjoint_residual: float | None = None
    """True relative residual ‖Jᵀλ + ∂L/∂X‖ / ‖∂L/∂X‖, recomputed after the solve."""
    asymmetry: float | None = None
    """Measured ‖J − Jᵀ‖ / 2‖J‖."""

    def record(self) -> dict[str, Any]:
        """Return the plain values for a run record."""
        values = asdict(self)
        values["outcome"] = None if self.outcome is None else self.outcome.label
        return values

    def refuse(self, reason: str) -> None:
        """Take the structure out, saying why."""
        self.took_part = False
        self.reason = reason


@dataclass(frozen=True)
class CertificateSummary:
    """What a batch of certificates comes to."""

    total: int
    """Structures in the batch."""
    took_part: int
    """Structures that contributed to the gradient."""
    worst_residual: float | None
    """Largest true adjoint residual among those that took part."""
    lowest_curvature: float | None
    """Lowest curvature seen among those that took part, eV/Å²."""
    reasons: dict[str, int] = field(default_factory=dict)
    """How many were refused for which reason."""


def begin(relaxation: Relaxation, already: int = 0) -> list[Certificate]:
    """Return one certificate per relaxed structure; unconverged ones take no part.

    Args:
        relaxation: how the structures were relaxed.
        already: steps made before that relaxation (the horizon).
    """
    certificates = []
    for k, name in enumerate(relaxation.structures.ids):
        outcome = relaxation.outcomes[k]
        certificate = Certificate(
            id=name,
            took_part=True,
            outcome=outcome,
            steps=int(relaxation.steps[k]) + already,
            fmax=float(relaxation.fmax[k]),
        )
        if outcome is not Outcome.CONVERGED:
            certificate.refuse(outcome.label)
        certificates.append(certificate)
    return certificates


def summarise(certificates: list[Certificate]) -> CertificateSummary:
    """Count who took part, and the worst of what was measured."""
    inside = [c for c in certificates if c.took_part]
    residuals = [c.adjoint_residual for c in inside if c.adjoint_residual is not None]
    curvatures = [c.lowest_curvature for c in inside if c.lowest_curvature is not None]
    reasons: dict[str, int] = {}
    for c in certificates:
        if c.reason is not None:
            reasons[c.reason] = reasons.get(c.reason, 0) + 1
    return CertificateSummary(
        total=len(certificates),
        took_part=len(inside),
        worst_residual=max(residuals, default=None),
        lowest_curvature=min(curvatures, default=None),
        reasons=reasons,
    )
