"""The transformer: its size, its blindness and how it ends, its two ways of attention, its first derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ase.build import bulk
from tests.potentials.pinned import fitted, sites, trapped_forces

from thalweg.errors import PotentialError
from thalweg.gradients.adjoint import ProjectedCurvature, measure_asymmetry
from thalweg.gradients.memory import SavedBytes
from thalweg.potentials import build_potential
from thalweg.potentials.contract import Potential
from thalweg.potentials.transformer import Transformer
from thalweg.relaxation import Descent, Outcome, Positions, largest_curvature, relax
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures

SMALL = {"species": [14, 48, 52], "width": 32, "feed_forward": 48, "layers": 2, "heads": 4}


def small(**settings: Any) -> Potential:
    return build_potential("transformer", {**SMALL, **settings}).double()


VARIANTS: list[dict[str, Any]] = [
    {},
    {"coordinates": "fractional"},
    {"distance_bias": "minimum-image", "cutoff": 4.0},
    {"coordinates": "fractional", "harmonics": 2, "distance_bias": "minimum-image", "cutoff": 4.0},
]
"""Every combination of what tokens and attention know of places."""


@pytest.fixture
def cells() -> Structures:
    """Cells of 2 and 8 atoms, rattled."""
    frames = [bulk("Si"), bulk("CdTe", "zincblende", a=6.48, cubic=True)]
    for k, frame in enumerate(frames):
        frame.positions += 0.1 * numpy_stream(7, "transformer cells", k).standard_normal((len(frame), 3))
    return Structures.from_atoms(frames)


def count(potential: Potential) -> int:
    return sum(p.numel() for p in potential.parameters())


def test_the_published_size_has_the_published_number_of_parameters() -> None:
    layer = 4 * (256 * 256 + 256) + (256 * 512 + 512) + (512 * 256 + 256) + 4 * 256
    tokens = (12 * 128 + 128) + (128 * 256 + 256) + (256 * 256 + 256)
    heads = (256 * 3 + 3) + 256
    assert count(build_potential("transformer", {"species": [14]})) == 8 * layer + tokens + heads == 4_318_339


def test_small_ones_are_small() -> None:
    assert count(small(width=8, feed_forward=8, layers=1, heads=2)) < 1000


def test_parameters_come_from_the_seed_alone() -> None:
    first = small(seed=3).state_dict()
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again, other = small(seed=3).state_dict(), small(seed=4).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["push.weight"], other["push.weight"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_fused_and_plain_attention_are_one_potential(variant: dict[str, Any], cells: Structures) -> None:
    fused, plain = small(**variant), small(attention="plain", **variant)
    found, wanted = fused(cells), plain(cells)
    torch.testing.assert_close(found.forces, wanted.forces, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.energy, wanted.energy, rtol=0, atol=1e-12)


def test_atoms_of_other_structures_and_empty_seats_have_no_influence(ragged: Structures) -> None:
    """Moving one member of a batch moves the forces of that member alone, to the last bit."""
    potential = small()
    moved = ragged.positions + 0.1 * (ragged.owner == 1).to(ragged.dtype)[:, None]
    before, after = potential(ragged).forces, potential(ragged.with_positions(moved)).forces
    others = ragged.owner != 1
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[~others], after[~others])


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_sees_the_cell_only_where_told_to(variant: dict[str, Any], silicon8: Structures) -> None:
    potential = small(**variant)
    found, wanted = potential(silicon8.with_cell(1.1 * silicon8.cell)).forces, potential(silicon8).forces
    assert torch.equal(found, wanted) == (not variant)


@pytest.mark.parametrize("attention", ["fused", "plain"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_backward_reaches_every_parameter_that_shapes_forces(
    variant: dict[str, Any], attention: str, cells: Structures
) -> None:
    potential = small(attention=attention, **variant)
    potential(cells, graph=True).forces.square().sum().backward()
    silent = {name for name, p in potential.named_parameters() if p.grad is None or not p.grad.any()}
    assert silent == {"readout"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_plain_attention_differentiates_forces_twice(variant: dict[str, Any], cells: Structures) -> None:
    potential = small(attention="plain", **variant)
    x = cells.positions.clone().requires_grad_()
    v = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))

    def response(at: torch.Tensor) -> torch.Tensor:
        forces = potential(cells.with_positions(at), graph=True).forces
        return torch.autograd.grad((forces * v).sum(), at, create_graph=True)[0].square().sum()

    slope = float((torch.autograd.grad(response(x), x)[0] * v).sum())
    h = 1e-4
    near, far = (
        [float(response((x.detach() + s * step * v).requires_grad_()).detach()) for s in (1, -1)] for step in (h, 2 * h)
    )
    differences = (8 * (near[0] - near[1]) - (far[0] - far[1])) / (12 * h)
    assert slope == pytest.approx(differences, rel=1e-6)


def test_random_forces_are_far_from_a_gradient_and_fitted_ones_are_nearer() -> None:
    at = sites(1, 0.0, "home")

    def asymmetry(potential: Potential) -> float:
        operator = ProjectedCurvature(potential, at, Positions())
        return float(measure_asymmetry(operator, potential, at, Positions()))

    random = Transformer.from_settings(fitted().settings).double()
    assert asymmetry(random) > 0.4
    assert 0.05 < asymmetry(fitted()) < 0.25


def test_the_fit_learned_something() -> None:
    """What stands on the fitted transformer stands on forces, not on noise."""
    held = sites(8, 0.1, "held out")
    wanted = trapped_forces(held)
    error = (fitted()(held).forces - wanted).square().mean()
    assert float(error) < 0.3 * float(wanted.square().mean())


def test_it_relaxes_by_descent_and_its_curvature_bounds_alpha() -> None:
    potential, starts = fitted(), sites(3, 0.05, "relaxed")
    done = relax(potential, starts, Descent(alpha=0.03), fmax=1e-8, max_steps=300)
    assert done.outcomes == (Outcome.CONVERGED,) * 3
    jacobian = torch.autograd.functional.jacobian(
        lambda x: potential(starts.with_positions(x), graph=True).forces, done.structures.positions
    )
    modes = torch.linalg.eigvals(-jacobian[:8, :, :8].reshape(24, 24))
    exact = (modes.abs().square() / modes.real).max()
    found = largest_curvature(potential, done.structures, tolerance=1e-8)
    assert float(found[0]) == pytest.approx(float(exact), rel=1e-6)


def test_without_graph_nothing_is_saved_for_backward(ragged: Structures) -> None:
    potential = small()
    with SavedBytes() as account:
        potential(ragged)
    assert account.peak == 0


def test_a_structure_that_is_lost_does_not_spoil_its_companions(ragged: Structures) -> None:
    potential = small()
    lost = ragged.positions.clone()
    lost[0] = torch.nan
    found, wanted = potential(ragged.with_positions(lost)), potential(ragged)
    kept = ragged.owner > 0
    assert torch.equal(found.forces[kept], wanted.forces[kept])
    assert not torch.isfinite(found.forces[~kept]).any()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"heads": 5}, "transformer settings: width is 32 and heads 5"),
        ({"species": [14, 97]}, "atomic numbers from 1 to 96"),
        ({"species": []}, "transformer setting 'species'"),
        ({"widht": 8}, "did you mean 'width'"),
        ({"length": 0.0}, "transformer setting 'length' is 0.0"),
        ({"coordinates": "polar"}, "transformer setting 'coordinates' is 'polar'"),
        ({"harmonics": 0}, "transformer setting 'harmonics' is 0"),
        ({"distance_bias": "minimum_image"}, "transformer setting 'distance_bias' is 'minimum_image'"),
        ({"cutoff": 0.0}, "transformer setting 'cutoff' is 0.0"),
        ({"radial_functions": 0}, "transformer setting 'radial_functions' is 0"),
        ({"attention": "flash"}, "transformer setting 'attention' is 'flash'"),
        ({"dropout": 0.05}, "transformer has no setting 'dropout'"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(PotentialError, match=complaint) as caught:
        small(**settings)
    assert "\n" not in str(caught.value)


def test_a_stress_and_another_floating_type_are_refused(silicon8: Structures) -> None:
    with pytest.raises(PotentialError, match="has no stress, for its forces"):
        small()(silicon8, stress=True)
    with pytest.raises(PotentialError, match="float32"):
        small()(silicon8.to(dtype=torch.float32))


@pytest.mark.parametrize("variant", VARIANTS)
def test_fractional_coordinates_refuse_a_structure_without_a_cell(variant: dict[str, Any], cells: Structures) -> None:
    slab = bulk("Si")
    slab.info["id"] = "slab"
    slab.pbc = [True, True, False]
    batch = Structures.concatenate([cells, Structures.from_atoms(slab)])
    if "coordinates" in variant:
        with pytest.raises(
            PotentialError, match=r"'slab' is periodic along \[True, True, False\].*: absolute"
        ) as caught:
            small(**variant)(batch)
        assert "\n" not in str(caught.value)
    else:
        assert torch.isfinite(small(**variant)(batch).forces).all()


def test_one_atom_alone_is_a_structure() -> None:
    found = small()(Structures.from_atoms(bulk("Si")[:1]))
    assert torch.isfinite(found.forces).all()
