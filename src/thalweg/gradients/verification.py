"""`thalweg verify`: every route's gradient on the user's own potential and structures, against differences.

Each route names the functions of θ whose derivatives it claims (`Route.claims`): X_K after K updates, X* where
forces vanish. For a smooth scalar of each, the directional derivative from `backward()` must meet the plateau of
central differences in float64. Structures that the route refuses (unconverged, saddle) are left out of the scalar
and counted. Where symmetry holds X* in place whatever the parameters (a perfect crystal) both derivatives are
rounding: that is said, and does not pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thalweg.gradients.differences import Comparison, compare
from thalweg.gradients.route import Route
from thalweg.potentials.contract import Potential
from thalweg.relaxation.outcome import Outcome
from thalweg.relaxation.path import Path
from thalweg.seeds import torch_stream
from thalweg.structures.batch import Structures

_STILL = 1e-7
"""A scalar of X that changes by less than this (Å) per unit of the direction, about the parameters' own size, does
not depend on them: fmax leaves X* known to 1e-11 Å or so, which differences at h = 1e-2 turn into 1e-9. Perfect
crystals showed 1e-12, starts of low symmetry 1e-3 and more."""

_FINER = 1e-2
"""On a soft surface (curvatures of 0.05 eV/Å² and less) X* found to 1e-11 eV/Å is off by enough to fail a gradient that
is right, and its differences end in a plateau that is off as well. So a failure at X* is asked again this much finer,
and the second answer counts where as many structures get that far."""
_FINER_STEPS = 200


@dataclass(frozen=True)
class Verdict:
    """One route at one point (X_K or X*)."""

    route: str
    """Kind of the route and its plain settings, e.g. `split horizon=20 recompute=True`."""
    point: str
    """`guided` (X_K) or `equilibrium` (X*)."""
    structures: int
    """Structures that entered the scalar."""
    refused: tuple[str, ...]
    """Reasons for those that did not."""
    comparisons: tuple[Comparison, ...]
    """One per direction in parameter space."""
    asymmetry: float | None
    """Largest measured asymmetry of the force Jacobian; None if the route does not measure it."""
    solver: str | None = None
    """What the adjoint was solved by, chosen by the asymmetry; None if the route solves none."""

    @property
    def passed(self) -> bool:
        """Whether at least one structure took part and every comparison passed."""
        return self.structures > 0 and all(c.passed for c in self.comparisons)

    @property
    def still(self) -> bool:
        """Whether the point does not move with the parameters, so that there was nothing to verify."""
        return any(c.still for c in self.comparisons)

    @property
    def worst(self) -> float:
        """Largest relative error; NaN if some comparison found no plateau or nothing that moves."""
        return float(torch.tensor([c.relative_error for c in self.comparisons]).max()) if self.comparisons else 0.0


def verify(
    potential: Potential,
    starts: Structures,
    path: Path,
    routes: Sequence[Route],
    *,
    directions: int = 2,
    seed: int = 0,
    relative: float = 1e-6,
    fmax: float = 1e-11,
) -> list[Verdict]:
    """Check the gradients of routes against central differences.

    Args:
        potential: copied and used in float64.
        starts: a few structures; small ones make it quick.
        path: updates and finish; its tolerance is tightened to `fmax`.
        routes: what to check; adjoint tolerances are tightened.
        directions: random directions in parameter space.
        seed: root seed of directions and scalars.
        relative: bound on the relative error at the plateau.
        fmax: tolerance of X*, eV/Å; differences of X* are only as good as this. What fails is asked again at a
            hundredth of it.
    """
    exact = copy.deepcopy(potential).double()
    starts = starts.detach().to(dtype=torch.float64)
    tight = replace(path, fmax=fmax, max_steps=max(path.max_steps, 2000))
    verdicts = []
    for route in routes:
        asked = partial(
            _verify_route,
            exact,
            starts,
            route=route.tightened(1e-11),
            directions=directions,
            seed=seed,
            relative=relative,
        )
        found = asked(tight)
        if any(v.point == "equilibrium" and not v.passed and not v.still for v in found):
            found = _finer(asked, found, exact, starts, replace(tight, fmax=_FINER * fmax, max_steps=_FINER_STEPS))
        verdicts.extend(found)
    return verdicts


def _finer(
    asked: Callable[[Path], list[Verdict]], found: list[Verdict], potential: Potential, starts: Structures, path: Path
) -> list[Verdict]:
    """Return verdicts at a finer X* where rounding lets all starts get there, the given ones elsewhere."""
    if any(outcome is not Outcome.CONVERGED for outcome in path.run(potential, starts).outcomes):
        return found
    return [b if b.structures == a.structures else a for a, b in zip(found, asked(path), strict=True)]


def _verify_route(
    potential: Potential,
    starts: Structures,
    path: Path,
    *,
    route: Route,
    directions: int,
    seed: int,
    relative: float,
) -> list[Verdict]:
    parameters = [p for p in potential.parameters() if p.requires_grad]
    verdicts = []
    for point, value in route.claims(potential, starts, path).items():
        result = route.differentiate(potential, starts, path)
        reached = getattr(result, point)
        counts = result.guidance_counts() if point == "guided" else result.equilibrium_counts()
        scalar = _scalar(starts, counts, seed)
        potential.zero_grad(set_to_none=True)
        value_here = scalar(reached)
        if value_here.requires_grad:  # it does not where a route refused every structure
            value_here.backward()
        refused_late = torch.tensor([c.took_part for c in result.certificates]) & counts.cpu()
        if point == "equilibrium" and bool((refused_late != counts.cpu()).any()):
            # backward refused a saddle: ask again with a scalar that leaves it out
            scalar = _scalar(starts, refused_late, seed)
            potential.zero_grad(set_to_none=True)
            result = route.differentiate(potential, starts, path)
            scalar(getattr(result, point)).backward()
            counts = refused_late
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
        comparisons = tuple(
            _compare(value, scalar, parameters, gradients, k, seed, relative) for k in range(directions)
        )
        asymmetries = [c.asymmetry for c in result.certificates if c.asymmetry is not None]
        verdicts.append(
            Verdict(
                route=_name(route),
                point=point,
                structures=int(counts.sum()),
                refused=tuple(
                    c.reason or "not finite"
                    for c, kept in zip(result.certificates, counts.tolist(), strict=True)
                    if not kept
                ),
                comparisons=comparisons if int(counts.sum()) else (),
                asymmetry=max(asymmetries, default=None),
                solver=next((c.adjoint_solver for c in result.certificates if c.adjoint_solver is not None), None),
            )
        )
    return verdicts


def _name(route: Route) -> str:
    values = ((field.name, getattr(route, field.name)) for field in fields(route))
    return " ".join([route.kind, *(f"{name}={value}" for name, value in values if isinstance(value, int))])


def _compare(
    value: Callable[[], Structures],
    scalar: Callable[[Structures], Tensor],
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    number: int,
    seed: int,
    relative: float,
) -> Comparison:
    stream = torch_stream(seed, "verify-direction", number)
    direction = [
        torch.randn(p.shape, generator=stream, dtype=torch.float64).to(p.device)
        * p.detach().abs().mean().clamp_min(1e-3)
        for p in parameters
    ]
    analytic = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))

    def at_present() -> float:
        with torch.no_grad():
            return float(scalar(value()))

    return compare(at_present, parameters, direction, analytic, relative=relative, absolute=0.0, floor=_STILL)


def _scalar(
    starts: Structures, counts: Bool[Tensor, " structures"], seed: int
) -> Callable[[Structures], Float[Tensor, ""]]:
    """Return a smooth, translation-free scalar of positions and cell over the structures that count.

    s = Σ c · u + ½ Σ |u|² + Σ d · w + ½ Σ |w|² with u the displacement from the start less its mean, w the change
    of the lattice vectors (zero in a fixed cell), c and d random.
    """
    stream = torch_stream(seed, "verify-scalar")
    weights = torch.randn(starts.positions.shape, generator=stream, dtype=torch.float64).to(starts.positions)
    cell_weights = torch.randn(starts.cell.shape, generator=stream, dtype=torch.float64).to(starts.cell)
    inside = counts.to(starts.positions)[starts.owner]
    apart = counts.to(starts.device)[:, None, None]
    count = starts.counts.to(starts.dtype)[:, None]

    def scalar(structures: Structures) -> Tensor:
        u = structures.positions - starts.positions
        u = torch.where(inside[:, None] > 0, u, torch.zeros_like(u))
        u = u - (starts.total(u) / count)[starts.owner]
        w = torch.where(apart, structures.cell - starts.cell, 0.0)
        of_atoms = ((weights * u).sum(dim=1) + 0.5 * u.square().sum(dim=1)).mul(inside).sum()
        return of_atoms + (cell_weights * w).sum() + 0.5 * w.square().sum()

    return scalar
