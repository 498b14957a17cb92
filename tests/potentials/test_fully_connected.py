"""The fully connected network: its formula written out, its seats, its size, its refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ase.build import bulk

from thalweg.errors import PotentialError
from thalweg.potentials.fully_connected import FullyConnected
from thalweg.potentials.reference import Reference
from thalweg.structures.batch import Structures


def network(**settings: Any) -> FullyConnected:
    small = {"species": [48, 52], "atoms": 10, "width": 12, "layers": 2}
    return FullyConnected.from_settings({**small, **settings}).double()


def test_the_energy_is_that_of_the_formula(cdte8: Structures) -> None:
    potential = network(length=2.0)
    potential.set_reference(Reference({48: -1.0, 52: -2.5}, 0.7))
    row = torch.zeros(10, 5, dtype=torch.float64)
    for i, (x, z) in enumerate(zip(cdte8.positions, cdte8.numbers.tolist(), strict=True)):
        row[i] = torch.cat([x / 2.0, torch.tensor([z == 48, z == 52])])
    y = torch.cat([row.flatten(), cdte8.cell[0].flatten() / 2.0])
    for n, linear in enumerate(potential.maps):
        y = torch.sigmoid(y) * y if n else y
        y = y @ linear.weight + linear.bias
    scale, shift = float(potential.scale), 4 * float(potential.shift.sum())
    assert float(potential(cdte8).energy) == pytest.approx(scale * float(y.detach()) + shift, abs=1e-12)


def test_its_size_is_that_of_its_maps() -> None:
    inputs = 64 * (3 + 1) + 9
    wanted = (inputs + 1) * 128 + 2 * (128 + 1) * 128 + 128 + 1
    assert sum(p.numel() for p in FullyConnected.from_settings({"species": [14]}).parameters()) == wanted


def test_a_structure_fills_all_seats_or_is_refused(cdte8: Structures) -> None:
    assert bool(network(atoms=8)(cdte8).forces.isfinite().all())
    small = Structures.from_atoms(bulk("CdTe", "zincblende", a=6.48))
    with pytest.raises(PotentialError, match=r"'cdte8' has 8 atoms, .* seats for 7: .* atoms: 8") as caught:
        network(atoms=7)(Structures.concatenate([small, cdte8]))
    assert "\n" not in str(caught.value)


def test_parameters_follow_the_seed_and_nothing_else() -> None:
    first = network(seed=3).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = network(seed=3).state_dict(), network(seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["maps.0.weight"], other["maps.0.weight"])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"atoms": 0}, "setting 'atoms' is 0"),
        ({"width": 0}, "setting 'width' is 0"),
        ({"layers": 0}, "setting 'layers' is 0"),
        ({"length": float("inf")}, "setting 'length' is inf"),
        ({"species": [52, 52]}, "different atomic numbers from 1 to 118"),
        ({"seed": 1.5}, "setting 'seed' is 1.5"),
        ({"atom": 8}, "no setting 'atom': did you mean 'atoms'"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(PotentialError, match=f"fully_connected .*{complaint}") as caught:
        network(**settings)
    assert "\n" not in str(caught.value)
