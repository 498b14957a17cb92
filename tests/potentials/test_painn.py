"""PaiNN: equal to the published formula taken edge by edge, seeded, referenced, refusing bad settings."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor
from torch.nn.functional import silu

from thalweg.errors import PotentialError, StructureError
from thalweg.potentials.painn import PaiNN
from thalweg.potentials.radial import softened_length
from thalweg.potentials.reference import Reference, fit_reference
from thalweg.seeds import numpy_stream, torch_stream
from thalweg.structures.batch import Structures


def network(**settings: Any) -> PaiNN:
    return PaiNN.from_settings({"species": [48, 52], "channels": 6, **settings}).double()


def telluride() -> Structures:
    frames = [bulk("CdTe", "zincblende", a=6.48, cubic=True), bulk("CdTe", "zincblende", a=6.2)]
    for k, frame in enumerate(frames):
        frame.positions += 0.1 * numpy_stream(11, "painn test", k).standard_normal((len(frame), 3))
    return Structures.from_atoms(frames)


def energy_edge_by_edge(potential: PaiNN, structures: Structures) -> Tensor:
    """The published order of operations: a filter per edge and channel, messages added one by one."""
    edges = potential.edges(structures)
    vectors = edges.vectors(structures)
    d = softened_length(vectors.T)
    unit = vectors / d.unsqueeze(1)
    radial = potential.radial(d).T  # edges, radial
    mean = potential.settings["average_neighbours"]
    kinds = torch.searchsorted(torch.tensor(potential.species), structures.numbers)
    atoms, channels = len(kinds), potential.settings["channels"]
    s, v = potential.embedding[kinds], torch.zeros(atoms, 3, channels, dtype=torch.float64)
    for n, (message, update) in enumerate(zip(potential.messages, potential.updates, strict=True)):
        if n == 0:  # φ depends on the species alone, and there are no vectors to send
            phi = [message.mix[0][kinds], message.mix[1][kinds], torch.zeros(atoms, channels)]
            filters = [
                radial @ message.filters[0],
                radial @ message.filters[1],
                torch.zeros(len(d), channels),
            ]
        else:
            h = silu(s @ message.hidden.weight + message.hidden.bias)
            phi = [h @ message.mix[p] for p in range(3)]
            filters = [radial @ message.filters[p] for p in range(3)]
        x = [w * f[edges.neighbour] for w, f in zip(filters, phi, strict=True)]
        ds = torch.zeros_like(s).index_add(0, edges.centre, x[0]) / mean
        each = x[1].unsqueeze(1) * unit.unsqueeze(2) + x[2].unsqueeze(1) * v[edges.neighbour]
        s, v = s + ds, v + torch.zeros_like(v).index_add(0, edges.centre, each) / math.sqrt(mean)
        u, w = v @ update.mix.weight[:, :channels], v @ update.mix.weight[:, channels:]
        gates = update.gates(torch.cat([s, (1 + (w * w).sum(1)).sqrt() - 1], dim=1)).split(channels, dim=1)
        s = s + gates[0] + gates[1] * (u * w).sum(1)
        if not update.last:
            v = v + gates[2].unsqueeze(1) * u
    per_atom = potential.scale * potential.readout(s)[:, 0] + potential.shift[kinds]
    return structures.total(per_atom)


@pytest.mark.parametrize("settings", [{"layers": 1}, {"layers": 2}, {"layers": 3, "radial": "gaussian"}])
def test_reordered_sums_equal_the_formula_edge_by_edge(settings: dict[str, Any]) -> None:
    potential, structures = network(**settings), telluride()
    potential.set_reference(Reference({48: -1.0, 52: -2.5}, 0.7))
    wanted = energy_edge_by_edge(potential, structures)
    torch.testing.assert_close(potential(structures).energy, wanted, rtol=1e-12, atol=1e-12)


def test_every_parameter_shapes_the_forces_save_the_last_bias() -> None:
    potential = network(layers=3)
    forces = potential(telluride(), graph=True).forces
    forces.square().sum().backward()
    silent = [n for n, p in potential.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == ["readout.outer.bias"]  # it shifts the energy of every atom


def test_lone_atoms_have_the_energy_of_their_species_and_no_force() -> None:
    potential = network()
    found = potential(Structures.from_atoms([Atoms("Cd"), Atoms("Te"), Atoms("Cd")]))
    assert bool((found.forces == 0).all())
    assert float(found.energy[0]) == float(found.energy[2]) != float(found.energy[1])


@pytest.mark.parametrize("distance", [0.0, 1e-6, 0.3])
def test_overlapping_atoms_give_finite_derivatives(distance: float) -> None:
    potential = PaiNN.from_settings({"species": [48], "channels": 6})
    pair = Structures.from_atoms(Atoms("Cd2", [[0, 0, 0], [distance, 0, 0]]), dtype=torch.float32)
    pair = pair.with_positions(pair.positions.requires_grad_())
    forces = potential(pair, graph=True).forces
    (second,) = torch.autograd.grad(forces.square().sum(), pair.positions)
    assert bool(forces.isfinite().all())
    assert bool(second.isfinite().all())


def test_second_derivatives_are_finite_where_vectors_vanish() -> None:
    """At an inversion centre the vector features are zero by symmetry: a plain norm gives NaN there."""
    potential = PaiNN.from_settings({"species": [14], "channels": 6, "cutoff": 3.0}).double()
    line = Structures.from_atoms(Atoms("Si3", [[-2.3, 0, 0], [0, 0, 0], [2.3, 0, 0]]))
    line = line.with_positions(line.positions.requires_grad_())
    forces = potential(line, graph=True).forces
    for v in torch.eye(9, dtype=torch.float64).view(9, 3, 3):
        (row,) = torch.autograd.grad(forces, line.positions, v, retain_graph=True)
        assert bool(row.isfinite().all())


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
    frame = bulk("Si", cubic=True) * (2, 2, 2)
    frame.positions += 0.1 * numpy_stream(5, "painn test").standard_normal((64, 3))
    structures = Structures.from_atoms(frame)
    for seed in range(4):
        potential = PaiNN.from_settings({"species": [14], "seed": seed, **settings}).double()
        rms = float(potential(structures).forces.square().mean().sqrt())
        assert 0.05 < rms < 20.0


def test_settings_come_back_and_build_the_same_network() -> None:
    potential = network(layers=3, cutoff=5, species=(52, 48))
    assert potential.settings == {
        "species": [48, 52],
        "channels": 6,
        "layers": 3,
        "cutoff": 5.0,
        "radial": "bessel",
        "radial_functions": 8,
        "average_neighbours": 16.0,
        "seed": 0,
    }
    again = PaiNN.from_settings(potential.settings).double()
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), potential.parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs the setting 'species'"),
        ({"species": [14], "chanels": 8}, "no setting 'chanels': did you mean 'channels'"),
        ({"species": []}, "'species' is \\[\\]"),
        ({"species": [14, 14]}, "different atomic numbers from 1 to 118"),
        ({"species": [0]}, "different atomic numbers from 1 to 118"),
        ({"species": ["Si"]}, "'species.0' is 'Si'"),
        ({"species": [14], "channels": 0}, "'channels' is 0"),
        ({"species": [14], "channels": 8.0}, "'channels' is 8.0"),
        ({"species": [14], "layers": True}, "'layers' is True"),
        ({"species": [14], "cutoff": -1.0}, "'cutoff' is -1.0"),
        ({"species": [14], "cutoff": math.inf}, "'cutoff' is inf"),
        ({"species": [14], "radial": "spline"}, "'radial' is 'spline'"),
        ({"species": [14], "average_neighbours": 0}, "'average_neighbours' is 0"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PotentialError, match=message) as caught:
        PaiNN.from_settings(settings)
    assert "\n" not in str(caught.value)


def test_structures_of_another_floating_type_are_refused() -> None:
    with pytest.raises(PotentialError, match=r"torch\.float32 but this painn potential is torch\.float64"):
        network()(telluride().to(dtype=torch.float32))


def test_reference_shifts_and_scales_the_energy() -> None:
    potential, structures = network(), telluride()
    before = potential(structures)
    potential.set_reference(Reference({48: -1.0, 52: -2.0, 14: 5.0}, 2.0))
    after = potential(structures)
    shift = structures.total(torch.where(structures.numbers == 48, -1.0, -2.0).double())
    torch.testing.assert_close(after.energy, 2.0 * before.energy + shift)
    torch.testing.assert_close(after.forces, 2.0 * before.forces)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (Reference({48: 0.0}, 1.0), "no shift for Te"),
        (Reference({48: 0.0, 52: math.nan}, 1.0), "nan"),
        (Reference({48: 0.0, 52: 0.0}, 0.0), "scale is 0.0"),
    ],
)
def test_bad_references_are_refused(reference: Reference, message: str) -> None:
    potential = network()
    with pytest.raises(PotentialError, match=message):
        potential.set_reference(reference)
    assert float(potential.scale) == 1.0


def _formulas(*formulas: str) -> Structures:
    return Structures.from_atoms([Atoms(f) for f in formulas])


def _noise(structures: Structures) -> Tensor:
    return torch.randn(structures.positions.shape, generator=torch_stream(3, "labels"), dtype=torch.float64)


def test_fit_recovers_energies_of_the_elements_and_rms_force() -> None:
    structures = _formulas("Cd2Te", "CdTe", "Te3", "CdTe4")
    forces = _noise(structures)
    energy = structures.total(torch.where(structures.numbers == 48, -1.5, -2.25).double())
    found = fit_reference(structures, energy, 3.0 * forces / forces.square().mean().sqrt())
    assert found.shift == pytest.approx({48: -1.5, 52: -2.25})
    assert found.scale == pytest.approx(3.0)


def test_fit_to_one_formula_gives_its_energy_by_the_smallest_shifts() -> None:
    structures = _formulas("Cd2Te", "Cd4Te2")
    found = fit_reference(structures, torch.tensor([-6.0, -12.0]).double(), _noise(structures))
    assert 2 * found.shift[48] + found.shift[52] == pytest.approx(-6.0)
    assert found.shift[48] == pytest.approx(2 * found.shift[52])


def test_bad_labels_are_refused() -> None:
    structures = _formulas("CdTe", "Te")
    energy, forces = torch.zeros(2).double(), _noise(structures)
    with pytest.raises(StructureError, match="all forces on Cd, Te are zero"):
        fit_reference(structures, energy, 0.0 * forces)
    with pytest.raises(StructureError, match="not finite"):
        fit_reference(structures, energy * math.nan, forces)
    with pytest.raises(StructureError, match=r"shapes \(2,\) and \(2, 3\)"):
        fit_reference(structures, energy, forces[:2])
