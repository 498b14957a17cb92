"""Cases that the implicit gradient must refuse: a saddle and a relaxation cut short, made from the user's potential.

At a saddle, or where forces are left over, the implicit function theorem says nothing about where relaxation ends.
So the machinery is handed both on purpose, and a gradient that comes back is a fault. A perfect crystal is
stationary by symmetry at any lattice constant; stretched far enough it is unstable against shifts of its
sublattices. Where no stretch makes it so (or the potential does not keep the symmetry), that is said and a built-in
double well, whose saddle is known on paper, takes its place. Called by `thalweg verify`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from ase import Atoms
from jaxtyping import Float
from torch import Tensor, nn

from thalweg.errors import PotentialError
from thalweg.evaluation.certify import perfect_crystals, small_crystals
from thalweg.gradients import Implicit, Route, Split
from thalweg.gradients.certificate import Certificate
from thalweg.potentials.contract import ConservativePotential, Potential
from thalweg.relaxation.coordinates import FreeCoordinates, Positions
from thalweg.relaxation.path import Path
from thalweg.relaxation.relaxer import largest_norm
from thalweg.relaxation.stability import Curvature
from thalweg.relaxation.update import Descent
from thalweg.seeds import torch_stream
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

_STATIONARY = 1e-9
"""Largest force that is zero by symmetry up to rounding, eV/Å."""
_CLEAR = 1e-2
"""A curvature below minus this share of the highest is a saddle beyond doubt (the limit in float64 is 1e-6)."""
_SCALES = tuple(0.95 + 0.05 * k for k in range(17))
"""Lattice constants of the stretched crystals, 0.95 to 1.75 times that of touching covalent radii."""


@dataclass(frozen=True)
class Refusal:
    """One case that had to be refused, and whether it was."""

    case: str
    """`saddle` or `unconverged`."""
    route: str
    """Kind of the route."""
    where: str
    """What the case was made of."""
    refused: bool
    """Whether certificates refused it for the right reason and no parameter received a gradient."""
    reason: str | None
    """What the certificate said; None if the structure took part."""
    lowest_curvature: float | None
    """Lowest curvature that the adjoint solver saw, eV/Å²; None where it was not asked."""
    leaked: float
    """Norm of the parameters' gradient that came back; 0 where refused. Symmetry keeps it near rounding at a saddle
    that is let through, so `reason` is what tells there."""


class DoubleWell(ConservativePotential):
    """E = Σ_i [a (x_i² − b²)² + ½ k (y_i² + z_i²)]: minima at x = ±b, a saddle at x = 0 of curvature −4 a b².

    With a = b = 1 and k = 2: −4 along x and 2 across, in eV/Å². The control case of a saddle.
    """

    kind: ClassVar[str] = "double well"

    def __init__(self, species: tuple[int, ...] = (14,)) -> None:
        """Take a = 1 eV/Å⁴, b = 1 Å, k = 2 eV/Å²; a and k are parameters."""
        super().__init__()
        self.species, self.cutoff = species, 1.0
        self.a = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.k = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    @property
    def settings(self) -> dict[str, Any]:
        """The elements it takes."""
        return {"species": list(self.species)}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Build one; the only key is `species`.

        Raises:
            PotentialError: another key.
        """
        if set(settings) != {"species"}:
            raise PotentialError(f"the double well takes the setting 'species' alone, not {sorted(settings)}")
        return cls(tuple(settings["species"]))

    def energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return the energy of each structure, eV."""
        x, across = structures.positions[:, 0], structures.positions[:, 1:]
        return structures.total(self.a * (x.square() - 1.0).square() + 0.5 * self.k * across.square().sum(dim=1))


def certify_refusals(
    potential: Potential,
    starts: Structures | None = None,
    *,
    seed: int = 0,
    coordinates: FreeCoordinates | None = None,
    routes: Sequence[Route] | None = None,
) -> list[Refusal]:
    """Hand a saddle and an unconverged relaxation to the routes that differentiate X*, and see whether they refuse.

    Args:
        potential: what the cases are made of; stays as it is.
        starts: the first is cut short for the unconverged case; None takes a small rattled crystal.
        seed: root seed.
        coordinates: what moves in the unconverged case; the saddle is sought in a fixed cell.
        routes: what must refuse; the implicit route and the split by default.
    """
    exact = copy.deepcopy(potential).double()
    moving = Positions() if coordinates is None else coordinates
    routes = (Implicit(), Split(horizon=1)) if routes is None else routes
    start = (small_crystals(exact, 1, seed) if starts is None else starts.select([0])).to(dtype=torch.float64)
    saddle, where, surface = find_saddle(exact, torch.unique(start.numbers).tolist())
    stop = Path(Descent(alpha=1e-3), steps=2, max_steps=0, fmax=1e-11, coordinates=moving)
    stay = replace(stop, fmax=_STATIONARY, coordinates=Positions())
    cut = f"{start.ids[0]}, stopped after {stop.steps} updates"
    problem, cut_short = (surface, saddle, stay), (exact, start, stop)
    return [
        *(_hand_over("saddle", "saddle", where, problem, route, seed) for route in routes),
        *(_hand_over("unconverged", "out_of_steps", cut, cut_short, route, seed) for route in routes),
    ]


def find_saddle(potential: Potential, species: Sequence[int] | None = None) -> tuple[Structures, str, Potential]:
    """Return a stationary point with negative curvature, what it is, and the surface it lies on.

    The most unstable of the potential's stretched crystals; if none is stationary and unstable, the double well's.

    Args:
        potential: in float64.
        species: atomic numbers the crystals are made of, by `crystal_elements`; by default all that it knows.
    """
    names = ("zincblende", "rocksalt")
    frames = [frame for name in names for frame in perfect_crystals(potential, _SCALES, name, species)]
    crystals = Structures.from_atoms(frames, ids=[f"{n} {s:.2f}" for n in names for s in _SCALES])
    forces = potential(crystals).forces
    still = largest_norm(forces, crystals.owner, len(crystals)) < _STATIONARY
    lowest, highest = _extreme_curvatures(potential, crystals)
    depth = torch.where(still & (lowest < -_CLEAR * highest.abs()), lowest, 0.0)
    if float(depth.min()) < 0:
        best = int(depth.argmin())
        name, scale = crystals.ids[best].split()
        return crystals.select([best]), f"{name} crystal, lattice constant × {scale}", potential
    well = DoubleWell(tuple(potential.species))
    top = Structures.from_atoms(Atoms(numbers=[potential.species[0]], positions=[[0.0, 0.0, 0.0]]), ids=["top"])
    tried = f"no saddle among {len(crystals)} stretched crystals of this potential; built-in double well instead"
    return top, tried, well


def _extreme_curvatures(
    potential: Potential, crystals: Structures
) -> tuple[Float[Tensor, " structures"], Float[Tensor, " structures"]]:
    """Return the lowest and highest real part of the eigenvalues of −J, from all columns; cells of equal size."""
    curvature = Curvature(potential, crystals)
    n, size = len(crystals), 3 * int(crystals.counts[0])
    columns = []
    for k in range(size):
        unit = torch.zeros((n, size), dtype=torch.float64, device=crystals.device)
        unit[:, k] = 1.0
        columns.append(curvature(unit.view(-1, 3)).view(n, size))
    matrix = torch.stack(columns, dim=2)
    finite = torch.isfinite(matrix).all(dim=(1, 2))
    values = torch.linalg.eigvals(torch.where(finite[:, None, None], matrix, 0.0)).real
    return torch.where(finite, values.amin(dim=1), torch.inf), values.amax(dim=1)


def _hand_over(
    case: str, reason: str, where: str, problem: tuple[Potential, Structures, Path], route: Route, seed: int
) -> Refusal:
    """Differentiate a scalar of X* that counts every structure, and see what comes back."""
    potential, structures, path = problem
    parameters = [p for p in potential.parameters() if p.requires_grad]
    reached = route.differentiate(potential, structures, path)
    leaked, certificate = 0.0, reached.certificates[0]
    if reached.equilibrium is not None and reached.equilibrium.positions.requires_grad:
        stream = torch_stream(seed, "refusal")
        weights = torch.randn(structures.positions.shape, generator=stream, dtype=torch.float64)
        scalar = (reached.equilibrium.positions * weights.to(structures.positions)).sum()
        shares = torch.autograd.grad(scalar, parameters, allow_unused=True)
        leaked = sum(float(g.square().sum()) for g in shares if g is not None) ** 0.5
    return _judged(case, reason, where, route.kind, certificate, leaked)


def _judged(case: str, reason: str, where: str, kind: str, certificate: Certificate, leaked: float) -> Refusal:
    refused = not certificate.took_part and certificate.reason == reason and leaked == 0.0
    return Refusal(case, kind, where, refused, certificate.reason, certificate.lowest_curvature, leaked)
