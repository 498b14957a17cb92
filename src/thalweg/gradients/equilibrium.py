"""Equilibrium: X* with its implicit gradient, at memory that does not depend on how X* was reached.

Forward relaxes without a graph; backward solves the adjoint system at X* and writes what it found into the
certificates. Structures that did not relax never enter the solve.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from thalweg.gradients.adjoint import Adjoint, AdjointSettings, solve_adjoint
from thalweg.gradients.certificate import Certificate, begin
from thalweg.potentials.contract import Potential
from thalweg.relaxation.coordinates import FreeCoordinates
from thalweg.relaxation.path import Path
from thalweg.structures.batch import Structures


def relax_implicitly(
    potential: Potential,
    structures: Structures,
    path: Path,
    settings: AdjointSettings,
    *,
    reference: Structures,
    skip: int = 0,
    already: int = 0,
) -> tuple[Structures, list[Certificate]]:
    """Relax without a graph; return X* with its implicit gradient, and one certificate per structure.

    Args:
        potential: whose parameters receive the gradient.
        structures: where the relaxation goes on from.
        path: the updates, the finish and the tolerance.
        settings: how well the adjoint is solved.
        reference: what strain is measured from, where the cell moves: the starts of the whole path.
        skip: updates of the path that are made already or passed over.
        already: moves made before, which certificates count (the horizon).
    """
    relaxation = path.run(potential, structures.detach(), skip=skip, reference=reference.detach())
    certificates = begin(relaxation, already=already)
    relaxed = attach_implicit(
        potential,
        relaxation.structures,
        certificates,
        coordinates=path.coordinates,
        settings=settings,
        reference=reference,
    )
    return relaxed, certificates


def attach_implicit(
    potential: Potential,
    relaxed: Structures,
    certificates: list[Certificate],
    *,
    coordinates: FreeCoordinates,
    settings: AdjointSettings,
    reference: Structures | None = None,
) -> Structures:
    """Return the relaxed structures, differentiable to the parameters by the implicit function theorem.

    Args:
        potential: whose parameters receive the gradient.
        relaxed: X*, found without a graph.
        certificates: one per structure; backward fills in the adjoint's fields and refuses saddles.
        coordinates: what moves.
        settings: how well the adjoint is solved.
        reference: what strain was measured from on the way, where the cell moves: the starts; X* by default.
    """
    relaxed = relaxed.detach()
    reference = None if reference is None else reference.detach()
    parameters = [p for p in potential.parameters() if p.requires_grad]
    problem = _Problem(potential, relaxed, certificates, coordinates, settings, reference)
    rows = _Implicit.apply(problem, coordinates.rows(relaxed, reference), *parameters)
    return coordinates.place(relaxed if reference is None else reference, rows)


def equilibrium_claim(potential: Potential, starts: Structures, path: Path) -> Callable[[], Structures]:
    """Return a function that finds X* at the present parameters, beginning at X* of the parameters as they are now.

    Beginning there keeps it in the same basin, which is what the implicit gradient differentiates.
    """
    starts = starts.detach()
    here = path.run(potential, starts).structures.detach()
    return lambda: path.run(potential, here, skip=path.steps, reference=starts).structures


class _Problem:
    """What backward needs besides tensors."""

    def __init__(
        self,
        potential: Potential,
        relaxed: Structures,
        certificates: list[Certificate],
        coordinates: FreeCoordinates,
        settings: AdjointSettings,
        reference: Structures | None,
    ) -> None:
        self.potential = potential
        self.relaxed = relaxed
        self.certificates = certificates
        self.coordinates = coordinates
        self.settings = settings
        self.reference = reference

    def gradients(self, right: Tensor, parameters: list[Tensor]) -> list[Tensor | None]:
        """Solve the adjoint for the structures that take part and want a gradient."""
        owner = self.coordinates.owner(self.relaxed)
        wanted = right.new_zeros(len(self.relaxed)).index_add(0, owner, right.abs().sum(dim=1)) > 0
        inside = torch.tensor([c.took_part for c in self.certificates], device=right.device) & wanted
        if not bool(inside.any()):
            return [None] * len(parameters)
        chosen = inside.nonzero().squeeze(1)
        structures = self.relaxed.select(chosen)
        reference = None if self.reference is None else self.reference.select(chosen)
        adjoint = solve_adjoint(
            self.potential,
            structures,
            right[inside[owner]],
            coordinates=self.coordinates,
            settings=self.settings,
            reference=reference,
        )
        self._certify(adjoint, chosen.tolist())
        if not bool(adjoint.usable.any()):
            return [None] * len(parameters)
        return adjoint.parameter_gradient(parameters)

    def _certify(self, adjoint: Adjoint, chosen: list[int]) -> None:
        for k, index in enumerate(chosen):
            certificate = self.certificates[index]
            lowest = float(adjoint.lowest_curvature[k])
            certificate.lowest_curvature = lowest if lowest == lowest else None  # NaN: not measured
            certificate.adjoint_iterations = int(adjoint.iterations[k])
            certificate.adjoint_solver = adjoint.solver
            certificate.adjoint_residual = float(adjoint.residual[k])
            certificate.asymmetry = float(adjoint.asymmetry[k])
            reason = adjoint.reasons[k]
            if reason is not None:
                certificate.refuse(reason)


class _Implicit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, problem: _Problem, rows: Tensor, *parameters: Tensor) -> Tensor:
        ctx.problem = problem
        ctx.parameters = parameters
        return rows.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.problem.gradients(gradient, list(ctx.parameters))
