"""What every potential must satisfy, as functions that raise AssertionError on one that does not.

Each takes a potential in float64 and a ragged batch it can describe. `test_potentials.py` runs them on every
potential of its list, `test_potential_checks.py` each on a potential broken on purpose.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from thalweg.errors import PotentialError
from thalweg.potentials.contract import Potential, Prediction
from thalweg.potentials.files import load_potential, save_potential
from thalweg.seeds import numpy_stream, torch_stream
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import find_edges

Check = Callable[[Potential, Structures], None]

SEED = 1729
STEPS = (3e-3, 1e-3, 3e-4, 1e-4, 3e-5)


def noise(like: Tensor, purpose: str) -> Tensor:
    """Return normal deviates of the shape of `like`, from a stream of their own."""
    return torch.randn(like.shape, generator=torch_stream(SEED, purpose), dtype=torch.float64)


def close(found: Tensor, wanted: Tensor, *, tolerance: float = 1e-10) -> None:
    """Require equality to `tolerance`, relative to the largest wanted entry and absolute."""
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=tolerance * (1.0 + float(wanted.abs().max())))


def same_prediction(found: Prediction, wanted: Prediction, *, tolerance: float = 1e-10) -> None:
    """Require equal energies and forces, and stresses where both have them."""
    close(found.energy, wanted.energy, tolerance=tolerance)
    close(found.forces, wanted.forces, tolerance=tolerance)
    if found.stress is not None and wanted.stress is not None:
        close(found.stress, wanted.stress, tolerance=tolerance)


def plateau(value: Callable[[float], Tensor], exact: float, *, bound: float = 1e-7) -> None:
    """Require central differences (fourth order) to agree with `exact` at two consecutive `STEPS`."""

    def difference(h: float) -> float:
        return float((8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h))

    errors = [abs(difference(h) - exact) for h in STEPS]
    good = [error < bound * (1.0 + abs(exact)) for error in errors]
    assert any(a and b for a, b in pairwise(good)), (
        f"derivative is {exact}, differences are off by {errors} at steps {STEPS}"
    )


def translation(potential: Potential, structures: Structures) -> None:
    """Moving everything changes nothing."""
    moved = structures.positions + torch.tensor([0.3, -1.1, 7.7], dtype=torch.float64)
    same_prediction(potential(structures.with_positions(moved)), potential(structures))


def images(potential: Potential, structures: Structures) -> None:
    """Moving an atom by a lattice vector changes nothing."""
    image = structures.pbc.to(structures.dtype).unsqueeze(1) @ structures.cell  # sum of the periodic vectors
    moved = structures.positions.index_add(0, torch.tensor([1]), image[structures.owner[1]])
    same_prediction(potential(structures.with_positions(moved)), potential(structures))


def _turned(potential: Potential, structures: Structures, turn: Tensor) -> None:
    wanted = potential(structures)
    turned = structures.with_positions(structures.positions @ turn.T).with_cell(structures.cell @ turn.T)
    found = potential(turned)
    close(found.energy, wanted.energy)
    close(found.forces, wanted.forces @ turn.T)


def _orthogonal(determinant: int) -> Tensor:
    q = np.linalg.qr(numpy_stream(SEED, "rotation").standard_normal((3, 3)))[0]
    q[:, 0] *= determinant * np.linalg.det(q)
    return torch.tensor(q)


def rotation(potential: Potential, structures: Structures) -> None:
    """Energy is invariant and forces turn along under a proper rotation."""
    _turned(potential, structures, _orthogonal(1))


def reflection(potential: Potential, structures: Structures) -> None:
    """Energy is invariant and forces turn along under an improper rotation."""
    _turned(potential, structures, _orthogonal(-1))


def permutation(potential: Potential, structures: Structures) -> None:
    """Renumbering the atoms of each structure renumbers forces and nothing else."""
    rng = numpy_stream(SEED, "permutation")
    spans = zip(structures.offsets[:-1], structures.offsets[1:], strict=True)
    order = torch.tensor(np.concatenate([rng.permutation(np.arange(a, b)) for a, b in spans]))
    shuffled = Structures(
        structures.positions[order],
        structures.numbers[order],
        structures.cell,
        structures.pbc,
        structures.owner,
        structures.free[order],
        structures.ids,
    )
    wanted, found = potential(structures), potential(shuffled)
    close(found.energy, wanted.energy)
    close(found.forces, wanted.forces[order])


def additivity(potential: Potential, structures: Structures) -> None:
    """Two clusters 60 Å apart have the sum of their energies, and each its own forces."""
    clusters = [Atoms(a.numbers, a.positions) for a in structures.to_atoms()[:2]]
    apart = clusters[1].copy()
    apart.positions += [60.0, 0.0, 0.0]
    parts = potential(Structures.from_atoms(clusters))
    whole = potential(Structures.from_atoms(clusters[0] + apart))
    close(whole.energy, parts.energy.sum().unsqueeze(0))
    close(whole.forces, parts.forces)


def smooth_cutoff(potential: Potential, structures: Structures) -> None:
    """An atom that enters the cutoff of one other at depth δ changes the energy by no more than O(δ⁴).

    So value and three derivatives are continuous there; from depth to half the depth the change must fall by
    2⁴, short of the next order, or be lost in rounding.
    """
    numbers = structures.numbers.tolist()
    side = 0.55 * potential.cutoff
    base = [[0.0, 0.0, 0.0], [-side, 0.0, 0.0], [-0.4 * side, 0.8 * side, 0.0]]

    def energy(distance: float) -> float:
        frame = Atoms([*numbers[:3], numbers[-1]], [*base, [distance, -0.1, 0.0]])
        return float(potential(Structures.from_atoms(frame)).energy)

    edge = (potential.cutoff**2 - 0.1**2) ** 0.5
    outside = energy(edge + 0.05)
    assert energy(edge + 1e-6) == outside
    changes = [abs(energy(edge - depth) - outside) for depth in (0.04, 0.02, 0.01)]
    rounding = 1e-13 * (1.0 + abs(outside))
    for deep, shallow in pairwise(changes):
        assert shallow <= deep / 2**3.8 + rounding, f"changes at halved depths: {changes}"


def forces_are_the_gradient(potential: Potential, structures: Structures) -> None:
    """Forces are −∂E/∂X along random directions, against central differences."""
    forces = potential(structures).forces
    for k in range(2):
        v = noise(structures.positions, f"direction {k}")

        def energy(h: float, v: Tensor = v) -> Tensor:
            return potential(structures.with_positions(structures.positions + h * v)).energy.sum()

        plateau(energy, -float((forces * v).sum()))


def stress_is_the_strain_derivative(potential: Potential, structures: Structures) -> None:
    """V σ : s is the derivative of the energy along a random symmetric strain s; σ is symmetric."""
    periodic = structures.select([k for k in range(len(structures)) if bool(structures.pbc[k].all())])
    stress = potential(periodic, stress=True).stress
    assert stress is not None
    close(stress, stress.transpose(1, 2))
    s = noise(periodic.cell, "strain")
    s = 0.5 * (s + s.transpose(1, 2))
    volume = torch.linalg.det(periodic.cell).abs()

    def energy(h: float) -> Tensor:
        positions = periodic.positions + h * (periodic.positions.unsqueeze(1) @ s[periodic.owner]).squeeze(1)
        cell = periodic.cell + h * periodic.cell @ s
        return potential(periodic.with_positions(positions).with_cell(cell)).energy.sum()

    plateau(energy, float((volume * (stress * s).sum(dim=(1, 2))).sum()))


def forces_differentiate(potential: Potential, structures: Structures) -> None:
    """F·v differentiates to parameters and positions as differences say."""
    v, u = noise(structures.positions, "v"), noise(structures.positions, "u")
    parameters = [p for p in potential.parameters() if p.requires_grad]
    w = [noise(p, f"parameter {n}") for n, p in enumerate(parameters)]
    start = structures.positions.clone().requires_grad_()
    forces = potential(structures.with_positions(start), graph=True).forces
    to_v = torch.autograd.grad((forces * v).sum(), [start, *parameters], allow_unused=True)
    assert to_v[0] is not None

    def moved(h: float) -> Tensor:
        return (potential(structures.with_positions(structures.positions + h * u)).forces * v).sum()

    def taught(h: float) -> Tensor:
        other = deepcopy(potential)
        with torch.no_grad():
            for p, step in zip((p for p in other.parameters() if p.requires_grad), w, strict=True):
                p.add_(step, alpha=h)
        return (other(structures).forces * v).sum()

    plateau(moved, float((to_v[0] * u).sum()), bound=1e-6)
    along = sum((float((g * step).sum()) for g, step in zip(to_v[1:], w, strict=True) if g is not None), 0.0)
    plateau(taught, along, bound=1e-6)


def hessian_is_symmetric(potential: Potential, structures: Structures) -> None:
    """v·(∂F/∂X) u and u·(∂F/∂X) v are equal."""
    v, u = noise(structures.positions, "v"), noise(structures.positions, "u")
    start = structures.positions.clone().requires_grad_()
    forces = potential(structures.with_positions(start), graph=True).forces
    to_v = torch.autograd.grad((forces * v).sum(), start, retain_graph=True)[0]
    to_u = torch.autograd.grad((forces * u).sum(), start)[0]
    close((to_v * u).sum(), (to_u * v).sum())


def stress_refused(potential: Potential, structures: Structures) -> None:
    """A stress asked for is refused in words, not answered with None."""
    with pytest.raises(PotentialError, match="stress"):
        potential(structures, stress=True)


def energy_differentiates_to_parameters(potential: Potential, structures: Structures) -> None:
    """`graph=True` gives energies whose gradient reaches some parameter."""
    energy = potential(structures, graph=True).energy
    found = torch.autograd.grad(energy.sum(), list(potential.parameters()), allow_unused=True)
    assert any(g is not None and bool((g != 0).any()) for g in found)


def _clusters(structures: Structures) -> Structures:
    """Return the atoms of the structures without their cells."""
    return Structures.from_atoms([Atoms(frame.numbers, frame.positions) for frame in structures.to_atoms()])


def clusters(potential: Potential, structures: Structures) -> None:
    """Structures without a cell have finite energies and forces."""
    found = potential(_clusters(structures))
    assert bool(found.energy.isfinite().all())
    assert bool(found.forces.isfinite().all())


def clusters_refused(potential: Potential, structures: Structures) -> None:
    """A structure without a cell is refused in words, alone and among others."""
    alone = _clusters(structures)
    for batch in (alone, Structures.concatenate([structures, alone])):
        with pytest.raises(PotentialError, match="periodic along"):
            potential(batch)


def batch_independence(potential: Potential, structures: Structures) -> None:
    """A structure alone has the energy, forces and stress that it has in any batch."""
    wanted = potential(structures)
    alone = [potential(structures.select([k])) for k in range(len(structures))]
    close(torch.cat([p.energy for p in alone]), wanted.energy)
    close(torch.cat([p.forces for p in alone]), wanted.forces)
    backwards = potential(structures.select(list(reversed(range(len(structures))))))
    close(backwards.energy.flip(0), wanted.energy)


def determinism(potential: Potential, structures: Structures) -> None:
    """The same input gives bitwise the same output."""
    first, second = potential(structures), potential(structures)
    assert torch.equal(first.energy, second.energy)
    assert torch.equal(first.forces, second.forces)


def floating_types(potential: Potential, structures: Structures) -> None:
    """A float32 copy answers in float32, close to float64; so does one on any other device here."""
    wanted = potential(structures)
    single = deepcopy(potential).to(torch.float32)
    found = single(structures.to(dtype=torch.float32))
    assert found.energy.dtype == found.forces.dtype == torch.float32
    widened = Prediction(found.energy.double(), found.forces.double())
    same_prediction(widened, wanted, tolerance=2e-5)
    if torch.cuda.is_available():
        there = deepcopy(potential).to("cuda")(structures.to("cuda"))
        assert there.forces.device.type == "cuda"
        same_prediction(Prediction(there.energy.cpu(), there.forces.cpu()), wanted)


def saved_and_loaded(potential: Potential, structures: Structures) -> None:
    """A file gives back the same kind, settings and bitwise the same predictions."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_potential(path, potential)
        again = load_potential(path)
    assert type(again) is type(potential)
    assert again.settings == potential.settings
    found, wanted = again(structures), potential(structures)
    assert torch.equal(found.energy, wanted.energy)
    assert torch.equal(found.forces, wanted.forces)


def unknown_element_refused(potential: Potential, structures: Structures) -> None:
    """An element outside `species` is refused by name."""
    strange = next(z for z in (2, 10, 18) if z not in potential.species)
    frame = structures.to_atoms()[0]
    frame.numbers[0] = strange
    with pytest.raises(PotentialError, match=frame.get_chemical_symbols()[0]):
        potential(Structures.from_atoms(frame))


def detached_without_graph(potential: Potential, structures: Structures) -> None:
    """Without `graph` nothing returned carries a graph, even from positions that ask for one."""
    start = structures.with_positions(structures.positions.clone().requires_grad_())
    periodic = bool(structures.pbc.all(dim=1).all())
    found = potential(start, stress=periodic and potential.conservative)
    tensors: Sequence[Tensor | None] = (found.energy, found.forces, found.stress)
    assert not any(t is not None and t.requires_grad for t in tensors)
    assert start.positions.grad is None
    assert all(p.grad is None for p in potential.parameters())


def long_edge_lists(potential: Potential, structures: Structures) -> None:
    """Edges given are used, and those beyond the cutoff (a list with a skin) add nothing."""
    wanted = potential(structures)
    same_prediction(potential(structures, edges=potential.edges(structures)), wanted, tolerance=1e-14)
    same_prediction(potential(structures, edges=find_edges(structures, 1.15 * potential.cutoff)), wanted)


ALWAYS: list[Check] = [
    forces_differentiate,
    energy_differentiates_to_parameters,
    batch_independence,
    determinism,
    floating_types,
    saved_and_loaded,
    unknown_element_refused,
    detached_without_graph,
    long_edge_lists,
]
CLAIMED: dict[str, list[Check]] = {
    "conservative": [forces_are_the_gradient, hessian_is_symmetric],
    "stress": [stress_is_the_strain_derivative],
    "translation": [translation],
    "images": [images],
    "permutation": [permutation],
    "clusters": [clusters],
    "equivariant": [rotation, reflection],
    "additive": [additivity],
    "smooth": [smooth_cutoff],
}
REFUSALS: dict[str, list[Check]] = {
    "stress": [stress_refused],
    "clusters": [clusters_refused],
}
"""What holds instead where a claim is not made; for every other claim its checks must fail."""
OF_CLUSTERS = {"additive", "smooth"}
"""Claims that are checked on clusters: nothing to prove where those are refused."""
EVERY = [*ALWAYS, *(check for group in CLAIMED.values() for check in group)]


def lacking(check: Check) -> Check:
    """Return the check that a potential does not pass `check`: that a claim is left out for a reason."""

    def proof(potential: Potential, structures: Structures) -> None:
        try:
            check(potential, structures)
        except AssertionError:
            return
        pytest.fail(f"{check.__name__} holds, though the claim is not made: claim it")

    proof.__name__ = f"lacks_{check.__name__}"
    return proof
