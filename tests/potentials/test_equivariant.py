"""The equivariant potential: equal to e3nn's tensor products edge by edge, features that turn with Wigner's D."""

from __future__ import annotations

import math
import pickle
import sys
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from e3nn import o3
from torch import Tensor

from thalweg.errors import CheckpointError, PotentialError
from thalweg.gradients import Split
from thalweg.gradients.verification import verify
from thalweg.potentials.equivariant import Equivariant
from thalweg.potentials.files import load_potential, save_potential
from thalweg.potentials.radial import softened_length
from thalweg.potentials.reference import Reference
from thalweg.potentials.spherical import coupling, orders, paths, shares
from thalweg.relaxation.path import Path
from thalweg.relaxation.update import Descent
from thalweg.seeds import numpy_stream, torch_stream
from thalweg.structures.batch import Structures


def network(**settings: Any) -> Equivariant:
    return Equivariant.from_settings({"species": [48, 52], "channels": 3, **settings}).double()


def telluride() -> Structures:
    frame = bulk("CdTe", "zincblende", a=6.2)
    frame.positions += 0.1 * numpy_stream(11, "equivariant test").standard_normal((len(frame), 3))
    return Structures.from_atoms([frame, Atoms("CdTe2", [[0, 0, 0], [2.6, 0.2, 0], [-0.7, 2.5, 0.4]])])


def directions(count: int) -> Tensor:
    x = torch.randn((count, 3), generator=torch_stream(2, "directions"), dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("l_max", [1, 2, 3])
def test_harmonics_equal_those_of_e3nn(l_max: int) -> None:
    u = directions(5)
    found = network(l_max=l_max).harmonics(u.T)[1:].T
    wanted = o3.spherical_harmonics(list(range(1, l_max + 1)), u, normalize=False, normalization="component")
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)


def test_coefficients_have_the_signs_that_model_files_rely_on() -> None:
    """Closed forms: d² has the components √(1/10), √(2/15) … in the basis (x, y, z) and (xz, xy, y², yz, z² − x²)."""
    found = coupling(1, 1, 2) / math.sqrt(5)
    assert float(found[0, 2, 0]) == pytest.approx(math.sqrt(1 / 10), abs=1e-14)
    assert float(found[1, 1, 2]) == pytest.approx(math.sqrt(2 / 15), abs=1e-14)
    torch.testing.assert_close(coupling(0, 3, 3)[0], torch.eye(7, dtype=torch.float64), rtol=0, atol=1e-14)
    assert float(coupling(2, 2, 0)[4, 4, 0]) == pytest.approx(1 / math.sqrt(5), abs=1e-14)
    assert float(coupling(2, 2, 2)[2, 2, 2]) == pytest.approx(math.sqrt(2 / 7), abs=1e-14)


def sums_edge_by_edge(potential: Equivariant, layer: int, features: Tensor, structures: Structures) -> Tensor:
    """The order of operations of the literature: a weighted tensor product of e3nn per edge, then the sum."""
    message = potential.messages[layer]
    edges = potential.edges(structures)
    r = edges.vectors(structures)
    d = softened_length(r.T)
    radial = potential.radial(d).T
    top, channels = potential.settings["l_max"], potential.settings["channels"]
    y = o3.spherical_harmonics(list(range(top + 1)), r / d.unsqueeze(1), normalize=False, normalization="component")
    found = [torch.zeros(len(structures.positions), 2 * n + 1, channels) for n in range(top + 1)]
    chosen = paths(top if layer else 0, top, top)
    n = potential.settings["average_neighbours"]
    for path, (l1, l2, l3) in enumerate(chosen):
        norm = shares(chosen)[path] / (math.sqrt(n) if path else n)
        left, right, out = (o3.Irreps([(c, (n, (-1) ** n))]) for c, n in ((channels, l1), (1, l2), (channels, l3)))
        product = o3.TensorProduct(
            left, right, out, [(0, 0, 0, "uvu", True)], path_normalization="none", shared_weights=False
        )
        sent = (
            (features[l1**2 : (l1 + 1) ** 2] @ message.mix[path]).permute(1, 2, 0)[edges.neighbour].flatten(1)
        )  # edges, channel component
        each = product(sent, y[:, l2**2 : (l2 + 1) ** 2], radial @ message.filters[path])
        each = norm * each.unflatten(1, (channels, -1)).transpose(1, 2)
        found[l3] = found[l3].index_add(0, edges.centre, each)
    return torch.cat([x.transpose(0, 1) for x in found])


@pytest.fixture
def wide() -> Iterator[None]:
    """Make float64 the default: e3nn rounds coefficients of tensor products and Wigner's D to the default."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("wide")
def test_reordered_sums_equal_tensor_products_of_e3nn_edge_by_edge() -> None:
    potential, structures = network(layers=3), telluride()
    seen: dict[int, tuple[Any, Any]] = {}
    for n, message in enumerate(potential.messages):
        message.register_forward_hook(lambda _, given, found, n=n: seen.update({n: (given[0], found)}))
    potential(structures)
    for n, (features, found) in seen.items():
        wanted = sums_edge_by_edge(potential, n, features, structures)
        assert all(float(wanted[m].detach().abs().max()) > 1e-3 for m in range(9))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def features_of(potential: Equivariant, structures: Structures) -> Tensor:
    """Return the features after the first layer."""
    seen: list[Tensor] = []
    handle = potential.updates[0].register_forward_hook(lambda *given: seen.append(given[2]))
    potential(structures)
    handle.remove()
    return seen[0]


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("correlation", [1, 3])
def test_features_turn_with_the_matrices_of_wigner(correlation: int) -> None:
    potential, structures = network(l_max=3, correlation=correlation), telluride()
    turn = o3.angles_to_matrix(*(torch.tensor(angle) for angle in (0.4, 1.1, -2.0)))
    turned = structures.with_positions(structures.positions @ turn.T).with_cell(structures.cell @ turn.T)
    all_before, all_after = features_of(potential, structures), features_of(potential, turned)
    for order in range(4):
        before, after = all_before[orders(3) == order], all_after[orders(3) == order]
        wigner = o3.Irrep(order, (-1) ** order).D_from_matrix(turn)
        torch.testing.assert_close(after, torch.tensordot(wigner, before, 1), rtol=0, atol=1e-10)
        if order:
            assert float((after - before).detach().abs().max()) > 1e-3


@pytest.mark.parametrize(
    "settings",
    [{}, {"layers": 3, "correlation": 1}, {"layers": 1, "correlation": 3, "l_max": 1}, {"radial": "gaussian"}],
)
def test_every_parameter_shapes_the_forces_save_the_last_bias(settings: dict[str, Any]) -> None:
    potential = network(**settings)
    potential(telluride(), graph=True).forces.square().sum().backward()
    silent = [n for n, p in potential.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == ["readout.outer.bias"]  # it shifts the energy of every atom


def test_gradient_of_a_path_and_of_its_minimum_meets_central_differences() -> None:
    """A strained primitive cell: its two atoms sit where the parameters say, not where symmetry does."""
    potential = Equivariant.from_settings({"species": [14], "channels": 2, "seed": 2})  # curvature 8 eV/Å²
    frame = bulk("Si")
    frame.set_cell(
        frame.cell.array @ torch.tensor([[1.0, 0.04, 0], [0, 0.98, 0], [0.03, 0, 1.0]]).numpy(), scale_atoms=True
    )
    frame.positions[1] += [0.05, -0.03, 0.02]
    starts = Structures.from_atoms(frame)
    verdicts = verify(potential, starts, Path(Descent(alpha=0.02), steps=4), [Split(horizon=3)], directions=1)
    assert [v.point for v in verdicts] == ["guided", "equilibrium"]
    for verdict in verdicts:
        assert verdict.passed, verdict


def test_lone_atoms_have_the_energy_of_their_species_and_no_force() -> None:
    found = network()(Structures.from_atoms([Atoms("Cd"), Atoms("Te"), Atoms("Cd")]))
    assert bool((found.forces == 0).all())
    assert float(found.energy[0]) == float(found.energy[2]) != float(found.energy[1])


@pytest.mark.parametrize("distance", [0.0, 1e-6, 0.3])
def test_overlapping_atoms_give_finite_derivatives(distance: float) -> None:
    potential = Equivariant.from_settings({"species": [48], "channels": 3})
    pair = Structures.from_atoms(Atoms("Cd2", [[0, 0, 0], [distance, 0, 0]]), dtype=torch.float32)
    pair = pair.with_positions(pair.positions.requires_grad_())
    forces = potential(pair, graph=True).forces
    (second,) = torch.autograd.grad(forces.square().sum(), pair.positions)
    assert bool(forces.isfinite().all())
    assert bool(second.isfinite().all())


def test_copies_and_pickles_predict_the_same_and_widen_without_loss() -> None:
    potential, structures = network(), telluride()
    wanted = potential(structures)
    narrow = deepcopy(potential).float()
    for copy in (deepcopy(potential), pickle.loads(pickle.dumps(potential))):
        found = copy(structures)
        assert torch.equal(found.energy, wanted.energy)
        assert torch.equal(found.forces, wanted.forces)
    with torch.no_grad():
        for p in potential.parameters():  # what float32 holds, so that only the coefficients could differ
            p.copy_(p.float().double())
    torch.testing.assert_close(narrow.double()(structures).forces, potential(structures).forces, rtol=0, atol=1e-13)


def test_parameters_follow_the_seed_and_nothing_else() -> None:
    torch.manual_seed(1)
    first = network(seed=3).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = network(seed=3).state_dict(), network(seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedding"], other["embedding"])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "settings", [{}, {"correlation": 1}, {"correlation": 3, "l_max": 3, "layers": 3, "channels": 4}]
)
def test_fresh_networks_start_with_forces_of_order_one(settings: dict[str, Any]) -> None:
    frame = bulk("Si", cubic=True)
    frame.positions += 0.1 * numpy_stream(5, "equivariant test").standard_normal((8, 3))
    structures = Structures.from_atoms(frame, dtype=torch.float32)
    for seed in range(3):
        potential = Equivariant.from_settings({"species": [14], "seed": seed, **settings})
        rms = float(potential(structures).forces.square().mean().sqrt())
        assert 0.05 < rms < 20.0


def test_settings_come_back_and_build_the_same_network() -> None:
    potential = network(layers=3, cutoff=5, species=(52, 48), correlation=1)
    assert potential.settings == {
        "species": [48, 52],
        "seed": 0,
        "channels": 3,
        "l_max": 2,
        "layers": 3,
        "correlation": 1,
        "cutoff": 5.0,
        "radial": "bessel",
        "radial_functions": 8,
        "average_neighbours": 16.0,
    }
    again = Equivariant.from_settings(potential.settings).double()
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), potential.parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "equivariant needs the setting 'species'"),
        ({"species": [14], "lmax": 2}, "no setting 'lmax': did you mean 'l_max'"),
        ({"species": [14], "l_max": 4}, "'l_max' is 4"),
        ({"species": [14], "l_max": 0}, "'l_max' is 0"),
        ({"species": [14], "correlation": 4}, "'correlation' is 4"),
        ({"species": [14], "channels": 0}, "'channels' is 0"),
        ({"species": [14], "layers": 0}, "'layers' is 0"),
        ({"species": [14], "cutoff": math.inf}, "'cutoff' is inf"),
        ({"species": [14], "radial": "spline"}, "'radial' is 'spline'"),
        ({"species": [14], "average_neighbours": 0}, "'average_neighbours' is 0"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PotentialError, match=message) as caught:
        Equivariant.from_settings(settings)
    assert "\n" not in str(caught.value)


def test_without_e3nn_building_and_loading_say_what_to_install(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    save_potential(tmp_path / "model.safetensors", network())
    monkeypatch.setitem(sys.modules, "e3nn.o3", None)
    with pytest.raises(PotentialError, match=r"pip install 'thalweg\[equivariant\]'") as caught:
        network()
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="needs the package e3nn"):
        load_potential(tmp_path / "model.safetensors")


def test_reference_shifts_and_scales_the_energy() -> None:
    potential, structures = network(), telluride()
    before = potential(structures)
    potential.set_reference(Reference({48: -1.0, 52: -2.0}, 2.0))
    after = potential(structures)
    shift = structures.total(torch.where(structures.numbers == 48, -1.0, -2.0).double())
    torch.testing.assert_close(after.energy, 2.0 * before.energy + shift)
    torch.testing.assert_close(after.forces, 2.0 * before.forces)


@pytest.mark.parametrize(
    ("settings", "energy", "force"),
    [
        ({}, 0.00024056054485546707, [-0.43555410652763804, 1.0637029750856573, -0.21117312099033092]),
        (
            {"l_max": 3, "correlation": 3, "channels": 4, "layers": 1},
            -0.9114212170298024,
            [2.756512737494712, -4.158959348452644, 2.8331083227368],
        ),
    ],
)
def test_energies_and_forces_stay_what_they_were(settings: dict[str, Any], energy: float, force: list[float]) -> None:
    """Numbers from the sums over neighbours as one product, before they became one product a block."""
    frame = bulk("CdTe", "zincblende", a=6.4)
    frame.positions[1] += [0.1, -0.2, 0.05]
    potential = Equivariant.from_settings({"species": [48, 52], "seed": 4, **settings}).double()
    found = potential(Structures.from_atoms(frame))
    assert float(found.energy) == pytest.approx(energy, abs=1e-10)
    torch.testing.assert_close(found.forces[0], torch.tensor(force, dtype=torch.float64), rtol=0, atol=1e-10)
