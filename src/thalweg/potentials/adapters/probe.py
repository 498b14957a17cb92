"""A probe of foreign energies: they must reach positions and parameters, twice, and their derivatives be true.

Evaluated once when an adapter is built, on two small periodic structures of 4 and 3 atoms. A package that detaches
the whole energy has no gradient at all and is seen by the graph; one that detaches a part (distances, a
normalisation, a descriptor computed without a graph) has a gradient that is wrong, and is seen by central
differences of fourth order along unit vectors u, one random, one the gradient itself:

    |Δ(E) / h − ∂E/∂X · u|  and  |Δ(F·v) / h − ∂(F·v)/∂X · u|

must be below 1e-4 (float64) or 5e-3 (float32) of the norm of the gradient, beside rounding.

So it finds gross faults in milliseconds; it is no proof. The contract tests are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.errors import PotentialError
from thalweg.potentials.adapters.code import one_line
from thalweg.potentials.contract import ConservativePotential
from thalweg.seeds import torch_stream
from thalweg.structures.batch import Structures

_TETRAHEDRON = ((0.0, 0.0, 0.0), (1.0, 0.1, 0.0), (0.45, 0.9, 0.05), (0.5, 0.35, 0.85))
_TOLERANCE = {torch.float64: (1e-4, 1e-4), torch.float32: (2e-2, 5e-3)}
"""Step of the differences (Å) and share of the bound that they may be off."""


def probe_structures(species: tuple[int, ...], cutoff: float, dtype: torch.dtype) -> Structures:
    """Return two periodic structures, of 4 and 3 atoms of all species in turn, with bonds well inside the cutoff."""
    bond, side = min(2.4, 0.6 * cutoff), 2.5 * cutoff
    corners = bond * torch.tensor(_TETRAHEDRON, dtype=dtype)
    turn = [species[k % len(species)] for k in range(7)]
    return Structures(
        positions=torch.cat([corners, 1.05 * corners[:3]]),
        numbers=torch.tensor(turn),
        cell=side * torch.eye(3, dtype=dtype).repeat(2, 1, 1),
        pbc=torch.ones((2, 3), dtype=torch.bool),
        owner=torch.tensor([0, 0, 0, 0, 1, 1, 1]),
        free=torch.ones((7, 3), dtype=torch.bool),
        ids=("probe of four", "probe of three"),
    )


def probe(potential: ConservativePotential, name: str, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a potential whose energy cannot be trained through.

    Args:
        potential: what is probed, with at least one parameter that learns.
        name: what to call it in errors.
        dtype: the floating type it computes in.
        device: where it computes.

    Raises:
        PotentialError: it cannot be evaluated, its energy is detached from the positions, its forces from the
            parameters, it is not differentiable twice, differs from call to call, or its derivatives are wrong.
    """
    structures = probe_structures(potential.species, potential.cutoff, dtype).to(device)
    edges = potential.edges(structures)
    start = structures.positions.clone().requires_grad_()

    def energy(x: Tensor) -> Tensor:
        return potential.energy(structures.with_positions(x), edges).sum()

    try:
        value = energy(start)
        again = energy(start.detach())
    except PotentialError:
        raise
    except Exception as error:  # foreign code raises whatever it likes
        raise PotentialError(f"{name!r} fails on a probe of 7 atoms: {one_line(error)}; mend the module") from error
    if not torch.equal(value.detach(), again.detach()):
        raise PotentialError(
            f"{name!r} gives {value.item()} eV and then {again.item()} eV for the same atoms: switch off what is "
            "random in it, e.g. dropout, with .eval() in the factory"
        )
    gradient = _gradient(value, start) if value.requires_grad else None
    if gradient is None:
        raise PotentialError(
            f"{name!r} gives an energy that is detached from the positions, so there are no forces to train: leave "
            "out .detach(), .item(), torch.no_grad() and NumPy between positions and energy"
        )
    _check_slope(energy, structures.positions, gradient.detach(), name, "first")
    _check_second(potential, energy, start, gradient, name)


def _gradient(value: Tensor, start: Tensor) -> Tensor | None:
    return torch.autograd.grad(value, start, create_graph=True, allow_unused=True)[0]


def _check_second(
    potential: ConservativePotential,
    energy: Callable[[Tensor], Tensor],
    start: Tensor,
    gradient: Tensor,
    name: str,
) -> None:
    """Refuse forces without a graph to parameters and positions, or with a wrong one."""
    learns = [p for p in potential.parameters() if p.requires_grad]
    v = _direction(start, "v")
    work = (gradient * v).sum()
    if not work.requires_grad:
        raise PotentialError(f"{name!r} gives forces without a graph, so nothing can be learnt from them: {_TWICE}")
    try:
        reached = torch.autograd.grad(work, [start, *learns], allow_unused=True)
    except RuntimeError as error:
        raise PotentialError(f"{name!r} cannot be differentiated twice ({one_line(error)}): {_TWICE}") from error
    if all(g is None for g in reached[1:]):
        raise PotentialError(f"{name!r} gives forces that reach none of its {len(learns)} parameters: {_TWICE}")
    second = torch.zeros_like(start) if reached[0] is None else reached[0]

    def along(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return (torch.autograd.grad(energy(x), x)[0] * v).sum()

    _check_slope(along, start.detach(), second, name, "second")


_TWICE = (
    "take operations that autograd differentiates twice, and no autograd.grad without create_graph=True inside the "
    "module"
)


def _check_slope(
    value: Callable[[Tensor], Tensor], x: Tensor, gradient: Float[Tensor, "atoms 3"], name: str, order: str
) -> None:
    """Compare a gradient with central differences along itself and along one random direction."""
    h, share = _TOLERANCE[x.dtype]
    norm = gradient.norm()
    for u in (_direction(x, "u"), gradient / (norm + torch.finfo(x.dtype).tiny)):
        samples = [float(value((x + k * h * u).detach()).detach()) for k in (1, -1, 2, -2)]
        found = (8 * (samples[0] - samples[1]) - (samples[2] - samples[3])) / (12 * h)
        told = float((gradient * u).sum())
        rounding = 10 * torch.finfo(x.dtype).eps * max(map(abs, samples)) / h
        bound = share * max(float(norm), abs(found)) + rounding + 1e-9
        if not abs(found - told) <= bound:  # also where one of them is not a number
            raise PotentialError(
                f"{name!r} has a wrong {order} derivative: by autograd {told:.6g}, by differences {found:.6g}: part of "
                "the energy is detached from the positions or not smooth; leave out .detach(), torch.no_grad() and "
                "kinks"
            )


def _direction(like: Tensor, purpose: str) -> Tensor:
    drawn = torch.randn(like.shape, generator=torch_stream(0, "probe direction", purpose), dtype=torch.float64)
    return (drawn / drawn.norm()).to(like)
