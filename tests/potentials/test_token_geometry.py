"""Inputs of tokens and the distance bias: closed forms, images, minimum-image distances of ASE, no kinks."""

from __future__ import annotations

import math

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

from thalweg.potentials.radial import softened_length
from thalweg.potentials.seats import Seats
from thalweg.potentials.token_geometry import DistanceBias, fractional_inputs
from thalweg.seeds import numpy_stream, torch_stream
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import find_edges

HEADS = 3


def made(cutoff: float) -> DistanceBias:
    return DistanceBias(HEADS, cutoff, 5, torch_stream(3, "token geometry test")).double()


def bias(module: DistanceBias, structures: Structures) -> Tensor:
    edges = find_edges(structures, module.radial.cutoff)
    return module(structures, edges, Seats.of(structures))


def silicon(amplitude: float = 0.15) -> Atoms:
    frame = bulk("Si", cubic=True)
    frame.positions += amplitude * numpy_stream(9, "token geometry test").standard_normal((8, 3))
    return frame


def test_waves_of_a_quarter_of_the_cell() -> None:
    """At f = (1/4, 1/2, 0): sines 1, 0, 0 then 0, 0, 0; cosines 0, −1, 1 then −1, 1, 1."""
    cell = Structures.from_atoms(Atoms("Si", scaled_positions=[[0.25, 0.5, 0.0]], cell=[2.0, 4.0, 6.0], pbc=True))
    found = fractional_inputs(cell, 2.0, 2)
    wanted = [1.0, 0, 0, 0, 0, 0, 0, -1, 1, -1, 1, 1, 1, 0, 0, 0, 2, 0, 0, 0, 3]
    torch.testing.assert_close(found, torch.tensor([wanted], dtype=torch.float64), rtol=0, atol=1e-15)


def test_waves_of_images_agree_and_those_of_other_places_do_not() -> None:
    structures = Structures.from_atoms(bulk("Si"))
    moves = {"image": structures.cell[0, 0] - 2 * structures.cell[0, 2], "half": 0.5 * structures.cell[0, 0]}
    wanted = fractional_inputs(structures, 1.0, 3)
    for name, move in moves.items():
        moved = structures.positions + torch.tensor([[0.0], [1.0]], dtype=torch.float64) * move
        found = fractional_inputs(structures.with_positions(moved), 1.0, 3)
        assert torch.allclose(found, wanted, rtol=0, atol=1e-12) == (name == "image")


def test_in_a_wide_cell_the_bias_is_that_of_minimum_image_distances() -> None:
    """5.43 Å between faces, 2.7 Å to the cutoff; distances by ASE."""
    frame, module = silicon(), made(2.7)
    distance = torch.tensor(frame.get_all_distances(mic=True))
    soft = softened_length(distance.unsqueeze(0))
    wanted = torch.einsum("kij,kh->hij", module.radial(soft), module.weights)
    wanted = wanted * (1 - torch.eye(8, dtype=torch.float64))  # none of an atom with itself
    found = bias(module, Structures.from_atoms(frame))[0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert int((found[0].abs() > 0).sum()) > 16


def test_the_bias_knows_neither_place_nor_orientation_nor_image() -> None:
    frame, module = silicon(), made(4.0)
    wanted = bias(module, Structures.from_atoms(frame))
    frame.rotate(40, (1, 2, 3), rotate_cell=True)
    frame.positions += [0.3, -4.0, 11.0]
    frame.positions[2] += frame.cell[1] - frame.cell[0]
    torch.testing.assert_close(bias(module, Structures.from_atoms(frame)), wanted, rtol=0, atol=1e-11)
    frame.positions[2] += 0.1
    assert not torch.allclose(bias(module, Structures.from_atoms(frame)), wanted, rtol=0, atol=1e-3)


def test_empty_seats_are_out_of_reach() -> None:
    lone = Atoms("Si", cell=[9.0, 9.0, 9.0], pbc=True)
    found = bias(made(4.0), Structures.from_atoms([lone, silicon()]))
    assert bool((found[0, :, :, 1:] == -torch.inf).all())
    assert bool((found[0, :, :, 0] == 0).all())
    assert bool(found[1].isfinite().all())


@pytest.mark.parametrize(("place", "level"), [(1.5, True), (1.3, False)])
def test_there_is_no_kink_where_two_images_are_equally_near(place: float, level: bool) -> None:
    """Half-way along a cell of 3 Å the slope is zero by symmetry; of the nearest image alone it is not."""
    module = made(4.0)
    pair = Structures.from_atoms(Atoms("Si2", [[0, 0, 0], [place, 0, 0]], cell=[3.0, 30.0, 30.0], pbc=True))
    x = pair.positions.clone().requires_grad_()
    (slope,) = torch.autograd.grad(bias(module, pair.with_positions(x))[0, 0, 0, 1], x)
    assert (abs(float(slope[1, 0])) < 1e-10) == level
    distance = torch.tensor([place], dtype=torch.float64, requires_grad=True)
    nearest = (module.radial(distance)[:, 0] * module.weights[:, 0]).sum()
    assert float(torch.autograd.grad(nearest, distance)[0].abs()) > 1e-2


def test_the_bias_ends_with_a_fivefold_zero() -> None:
    """Four of the cutoff and one of the Bessel functions: three derivatives vanish there, and a fourth."""
    module = made(4.0)

    def at(depth: float) -> float:
        pair = Atoms("Si2", [[0, 0, 0], [4.0 - depth, 0, 0]])
        return float(bias(module, Structures.from_atoms(pair))[0, 0, 0, 1].detach())

    assert at(-0.01) == 0.0
    assert math.log2(abs(at(0.02) / at(0.01))) == pytest.approx(5.0, abs=0.2)
    assert abs(at(0.01)) < 1e-6
