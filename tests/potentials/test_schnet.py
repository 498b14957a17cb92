"""SchNet: equal to its formula taken edge by edge, blind to angles in one layer, seeded, refusing bad settings."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor
from torch.nn.functional import silu

from thalweg.errors import PotentialError
from thalweg.potentials import build_potential
from thalweg.potentials.contract import Potential
from thalweg.potentials.radial import softened_length
from thalweg.potentials.reference import Reference
from thalweg.potentials.schnet import SchNet
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures


def network(**settings: Any) -> SchNet:
    return SchNet.from_settings({"species": [48, 52], "channels": 6, **settings}).double()


def telluride() -> Structures:
    frames = [bulk("CdTe", "zincblende", a=6.48, cubic=True), bulk("CdTe", "zincblende", a=6.2)]
    for k, frame in enumerate(frames):
        frame.positions += 0.1 * numpy_stream(11, "schnet test", k).standard_normal((len(frame), 3))
    return Structures.from_atoms(frames)


def energy_edge_by_edge(potential: SchNet, structures: Structures) -> Tensor:
    """The published order of operations: a filter per edge and channel, messages added one by one."""
    edges = potential.edges(structures)
    radial = potential.radial(softened_length(edges.vectors(structures).T)).T  # edges, radial
    kinds = torch.searchsorted(torch.tensor(potential.species), structures.numbers)
    s = potential.embedding[kinds]
    for layer in potential.interactions:
        filters = silu(radial @ layer.inner.T) @ layer.outer  # edges, channels
        messages = filters * (s @ layer.send.weight)[edges.neighbour]
        sums = torch.zeros_like(s).index_add(0, edges.centre, messages) / potential.settings["average_neighbours"]
        s = s + layer.mix(sums)
    return structures.total(potential.scale * potential.readout(s)[:, 0] + potential.shift[kinds])


@pytest.mark.parametrize("settings", [{"layers": 1}, {"layers": 3, "radial": "gaussian", "filter_functions": 5}])
def test_reordered_sums_equal_the_formula_edge_by_edge(settings: dict[str, Any]) -> None:
    potential, structures = network(**settings), telluride()
    potential.set_reference(Reference({48: -1.0, 52: -2.5}, 0.7))
    wanted = energy_edge_by_edge(potential, structures)
    torch.testing.assert_close(potential(structures).energy, wanted, rtol=1e-12, atol=1e-12)


def test_the_angle_between_bonds_whose_ends_are_out_of_reach_is_not_seen() -> None:
    """Directions would show it: PaiNN of the same reach tells the two shapes apart."""

    def spread(potential: Potential) -> float:
        shapes = []
        for angle in (math.radians(90.0), math.radians(120.0)):
            ends = [[2.5, 0.0, 0.0], [2.5 * math.cos(angle), 2.5 * math.sin(angle), 0.0]]
            shapes.append(Atoms("CdTe2", [[0.0, 0.0, 0.0], *ends]))
        energy = potential(Structures.from_atoms(shapes)).energy
        return float((energy[0] - energy[1]).abs())

    painn = build_potential("painn", {"species": [48, 52], "channels": 6, "cutoff": 3.0}).double()
    assert spread(network(layers=3, cutoff=3.0)) < 1e-12
    assert spread(painn) > 1e-6


@pytest.mark.parametrize(("layers", "feels"), [(1, False), (2, True)])
def test_layers_carry_further_than_the_cutoff(layers: int, feels: bool) -> None:
    """In a chain of four the force on the first atom answers to the last one from two layers on."""
    potential = network(layers=layers, cutoff=3.0)
    chain = Structures.from_atoms(Atoms("Cd4", [[2.5 * k, 0.1 * k * k, 0.0] for k in range(4)]))
    x = chain.positions.clone().requires_grad_()
    forces = potential(chain.with_positions(x), graph=True).forces
    (answer,) = torch.autograd.grad(forces[0, 0], x)
    assert bool((answer[3] != 0).any()) == feels
    assert bool((answer[2] != 0).any())


def test_every_parameter_shapes_the_forces_save_the_last_bias() -> None:
    potential = network(layers=3)
    potential(telluride(), graph=True).forces.square().sum().backward()
    silent = [n for n, p in potential.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == ["readout.outer.bias"]  # it shifts the energy of every atom


def test_lone_atoms_have_the_energy_of_their_species_and_no_force() -> None:
    found = network()(Structures.from_atoms([Atoms("Cd"), Atoms("Te"), Atoms("Cd")]))
    assert bool((found.forces == 0).all())
    assert float(found.energy[0]) == float(found.energy[2]) != float(found.energy[1])


@pytest.mark.parametrize("distance", [0.0, 1e-6, 0.3])
def test_overlapping_atoms_give_finite_derivatives(distance: float) -> None:
    pair = Structures.from_atoms(Atoms("Cd2", [[0, 0, 0], [distance, 0, 0]]))
    pair = pair.with_positions(pair.positions.requires_grad_())
    forces = network()(pair, graph=True).forces
    (second,) = torch.autograd.grad(forces.square().sum(), pair.positions)
    assert bool(forces.isfinite().all())
    assert bool(second.isfinite().all())


def test_parameters_follow_the_seed_and_nothing_else() -> None:
    torch.manual_seed(1)
    first = network(seed=3).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = network(seed=3).state_dict(), network(seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedding"], other["embedding"])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("settings", [{"layers": 2}, {"layers": 3, "channels": 48}, {"radial": "gaussian"}])
def test_fresh_networks_start_with_forces_of_order_one(settings: dict[str, Any]) -> None:
    frame = bulk("Si", cubic=True)
    frame.positions += 0.1 * numpy_stream(5, "schnet test").standard_normal((8, 3))
    structures = Structures.from_atoms(frame)
    for seed in range(4):
        potential = SchNet.from_settings({"species": [14], "seed": seed, **settings}).double()
        rms = float(potential(structures).forces.square().mean().sqrt())
        assert 0.05 < rms < 20.0


def test_settings_come_back() -> None:
    assert network(layers=3, cutoff=5, species=(52, 48)).settings == {
        "species": [48, 52],
        "channels": 6,
        "layers": 3,
        "cutoff": 5.0,
        "radial": "bessel",
        "radial_functions": 8,
        "average_neighbours": 16.0,
        "filter_functions": 16,
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs the setting 'species'"),
        ({"species": [14], "filter_function": 8}, "no setting 'filter_function': did you mean 'filter_functions'"),
        ({"species": [14], "filter_functions": 0}, "'filter_functions' is 0"),
        ({"species": [14], "channels": 0}, "'channels' is 0"),
        ({"species": [14], "layers": 0}, "'layers' is 0"),
        ({"species": [14], "cutoff": math.nan}, "'cutoff' is nan"),
        ({"species": [14], "radial": "spline"}, "'radial' is 'spline'"),
        ({"species": [14], "radial_functions": 1.5}, "'radial_functions' is 1.5"),
        ({"species": [14], "average_neighbours": 0}, "'average_neighbours' is 0"),
        ({"species": [14], "seed": "one"}, "'seed' is 'one'"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PotentialError, match=f"schnet .*{message}") as caught:
        SchNet.from_settings(settings)
    assert "\n" not in str(caught.value)
