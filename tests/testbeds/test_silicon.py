import numpy as np
import pytest
import torch
from ase.build import bulk

from thalweg.errors import SettingsError
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relaxation.outcome import Outcome
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Pairs
from thalweg.testbeds import TESTBEDS
from thalweg.testbeds.defects import CLEARANCE, DEFECTS
from thalweg.testbeds.settling import Settling
from thalweg.testbeds.silicon import BULK_ENERGY, LATTICE_CONSTANT, MIXTURE, Silicon
from thalweg.testbeds.testbed import Drawn


@pytest.fixture(scope="module")
def interstitials() -> Drawn:
    return Silicon().draw(24, seed=0)


def formation_energies(testbed: Silicon, pairs: Pairs) -> np.ndarray:
    assert pairs.energy_minimum is not None
    return testbed.formation_energy(pairs.minima, pairs.energy_minimum).numpy()


def perfect_crystal(scale: float = 1.0) -> Structures:
    return Structures.from_atoms(bulk("Si", "diamond", scale * LATTICE_CONSTANT, cubic=True) * (2, 2, 2))


def lowest_curvature(surface: StillingerWeber, minimum: Structures) -> float:
    """Lowest eigenvalue of the Hessian beyond the three translations, eV/Å²."""
    edges = surface.edges(minimum)

    def energy(positions: torch.Tensor) -> torch.Tensor:
        return surface.energy(minimum.with_positions(positions), edges).sum()

    hessian = torch.autograd.functional.hessian(energy, minimum.positions)
    eigenvalues = torch.linalg.eigvalsh(hessian.reshape([minimum.positions.numel()] * 2))
    assert eigenvalues.abs().sort().values[2] < 1e-8
    return float(eigenvalues[eigenvalues.abs() > 1e-8][0])


def test_the_perfect_crystal_is_at_rest_with_the_energy_that_formation_energies_subtract() -> None:
    prediction = Silicon().reference()(perfect_crystal(), stress=True)
    assert pytest.approx(5.431, abs=1e-4) == LATTICE_CONSTANT
    assert prediction.energy.item() / 64 == pytest.approx(BULK_ENERGY, abs=1e-9)
    assert prediction.stress is not None
    assert prediction.stress.abs().max() < 1e-8


def test_the_crystal_offered_is_one_cubic_cell_of_the_same_crystal() -> None:
    crystal, reference = Silicon(atoms=216).crystal(), Silicon().reference()
    assert (len(crystal), crystal.counts.tolist(), crystal.dtype) == (1, [8], torch.float64)
    assert torch.equal(crystal.cell[0], LATTICE_CONSTANT * torch.eye(3, dtype=torch.float64))
    found = reference(crystal)
    assert float(found.energy) / 8 == pytest.approx(BULK_ENERGY, abs=1e-9)
    assert float(found.forces.abs().max()) < 1e-10


def test_formation_energies_are_those_of_discrete_minima(interstitials: Drawn) -> None:
    found = formation_energies(Silicon(), interstitials.pairs)
    known = np.array([3.86, 4.61, 5.19])
    assert np.abs(found[:, None] - known).min(axis=1).max() < 0.02
    assert len(set(found.round(2))) >= 2


@pytest.mark.parametrize(
    ("defect", "published", "starts"),
    [("vacancy", [2.82], 6), ("interstitial", [4.68, 5.25], 8)],  # the latter split along 110 and tetrahedral
)
def test_formation_energies_tend_to_the_published_ones_in_large_cells(
    defect: str, published: list[float], starts: int
) -> None:
    # Balamane, Halicioglu and Tiller, Phys. Rev. B 46, 2250 (1992), use ε = 2.315 eV; energies scale with ε
    lowest = []
    for atoms in (64, 216):
        testbed = Silicon(atoms=atoms, defects={defect: 1.0})
        found = np.unique(formation_energies(testbed, testbed.make(starts, seed=1)).round(3))
        lowest.append(found[found > 4.0][: len(published)] if defect == "interstitial" else found[:1])
    small, large = lowest
    without_images = large - (small - large) / (216 / 64 - 1)  # strain energy of the images falls as 1/n
    assert without_images == pytest.approx(np.array(published) * 2.1683 / 2.315, abs=0.03)


def test_an_ideal_vacancy_at_rest_costs_twice_epsilon() -> None:
    # four bonds of ε are cut and the atom gains 2 ε in the bulk; gently rattled it does not reconstruct
    testbed = Silicon(defects={"vacancy": 1.0}, rattle=0.02)
    assert formation_energies(testbed, testbed.make(2, seed=1)) == pytest.approx(2 * 2.1683, abs=1e-4)


def test_minima_are_minima_of_the_reference(interstitials: Drawn) -> None:
    surface, pairs = Silicon().reference(), interstitials.pairs
    prediction = surface(pairs.minima)
    assert prediction.forces.norm(dim=1).max() < 1e-4
    assert pairs.energy_minimum is not None
    assert torch.allclose(prediction.energy, pairs.energy_minimum, rtol=0, atol=1e-9)
    assert min(lowest_curvature(surface, pairs.minima.select([k])) for k in (0, 1)) > 0.05


def test_the_curvature_check_rejects_a_crystal_stretched_until_it_tears() -> None:
    surface = Silicon().reference()
    crystal = perfect_crystal(scale=1.35)
    assert surface(crystal).forces.abs().max() < 1e-9
    assert lowest_curvature(surface, crystal) < -0.05


def test_starts_and_minima_depend_on_seed_and_index_alone(interstitials: Drawn) -> None:
    few, other = Silicon().draw(5, seed=0).pairs, Silicon().draw(5, seed=1).pairs
    many = interstitials.pairs.select(range(5))
    assert few.ids == many.ids
    assert few.parents == many.parents
    assert torch.equal(few.starts.positions, many.starts.positions)
    assert torch.allclose(few.minima.positions, many.minima.positions, rtol=0, atol=1e-7)
    assert not torch.equal(few.starts.positions, other.starts.positions)
    assert set(few.ids).isdisjoint(other.ids)


def test_an_inserted_atom_is_clear_of_all_others(interstitials: Drawn) -> None:
    starts = interstitials.pairs.starts
    last = torch.tensor(starts.offsets[1:]) - 1
    edges = Silicon().reference().edges(starts)
    distances = edges.vectors(starts).norm(dim=1)[torch.isin(edges.centre, last)]
    assert distances.min() >= CLEARANCE
    assert (starts.counts == 65).all()


@pytest.mark.parametrize(
    ("defect", "change"),
    [
        ("interstitial", 1),
        ("vacancy", -1),
        ("divacancy", -2),
        ("diinterstitial", 2),
        ("frenkel", 0),
        ("distortion", -1),
    ],
)
def test_every_defect_is_carved_and_relaxed(defect: str, change: int) -> None:
    drawn = Silicon(defects={defect: 1.0}).draw(4, seed=5)
    assert drawn.lost == ()
    assert (drawn.pairs.starts.counts == 64 + change).all()
    assert all(f"-{defect}-" in parent for parent in drawn.pairs.parents)
    energies = formation_energies(Silicon(), drawn.pairs)
    assert (energies > -1e-3).all()
    assert drawn.pairs.energy_start is not None
    assert (drawn.pairs.energy_start > drawn.pairs.energy_minimum).all()


def test_the_mixture_draws_every_defect_in_proportion() -> None:
    testbed = Silicon(defects=MIXTURE)
    names = [testbed._parent("silicon pair parent", k, 0)[0] for k in range(400)]
    assert set(names) == set(DEFECTS)
    assert names.count("interstitial") / 400 == pytest.approx(MIXTURE["interstitial"], abs=0.08)


def test_starts_of_one_parent_share_its_site_and_no_split_separates_them() -> None:
    pairs = Silicon(starts_per_parent=3).make(12, seed=2)
    assert [pairs.parents.count(p) for p in dict.fromkeys(pairs.parents)] == [3, 3, 3, 3]
    sites = [pairs.starts.positions[stop - 1] for stop in pairs.starts.offsets[1:]]
    assert torch.equal(sites[0], sites[2])
    assert not torch.equal(sites[2], sites[3])
    assert not torch.equal(pairs.starts.positions[:64], pairs.starts.positions[65:129])
    kept, held = pairs.split_by_parent(0.25, seed=0)
    assert set(kept.parents).isdisjoint(held.parents)


def test_frames_carry_the_labels_of_the_reference_and_share_no_parent_with_pairs(
    interstitials: Drawn,
) -> None:
    frames = Silicon().frames(12, seed=0)
    label = Silicon().reference()(frames.structures)
    assert torch.equal(frames.energy, label.energy)
    assert torch.equal(frames.forces, label.forces)
    assert set(frames.parents).isdisjoint(interstitials.pairs.parents)
    starts = interstitials.pairs.starts.positions.reshape(-1, 65, 3)
    own = frames.structures.positions.reshape(-1, 65, 3)
    assert torch.cdist(own.flatten(1), starts.flatten(1)).min() > 1.0


def test_frames_depend_on_seed_and_index_alone() -> None:
    few, many = Silicon().frames(7, seed=4), Silicon().frames(20, seed=4)
    assert few.ids == many.ids[:7]
    assert torch.allclose(few.structures.positions, many.structures.positions[: 7 * 65], rtol=0, atol=1e-7)
    assert len(set(many.ids)) == 20


def test_references_that_do_not_converge_are_dropped_and_counted() -> None:
    hasty = Silicon(settling=Settling(max_steps=60))
    drawn = hasty.draw(12, seed=0)
    assert 0 < len(drawn.lost) < 12
    assert len(drawn.pairs) + len(drawn.lost) == 12
    assert {outcome for _, outcome in drawn.lost} == {Outcome.OUT_OF_STEPS}
    assert set(drawn.pairs.ids).isdisjoint(name for name, _ in drawn.lost)
    with pytest.raises(SettingsError, match="none of 2 silicon references converged"):
        Silicon(settling=Settling(max_steps=0)).draw(2, seed=0)


def test_settings_rebuild_the_testbed() -> None:
    for testbed in (Silicon(), Silicon(216, MIXTURE, 2, 0.1, Settling(alpha=0.02, descent_steps=10))):
        assert TESTBEDS[testbed.kind].from_settings(testbed.settings) == testbed
    assert Silicon.from_settings({}) == Silicon()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"atom": 64}, "did you mean 'atoms'"),
        ({"atoms": 65}, "allowed is 8 m³"),
        ({"atoms": "64"}, "atoms is '64'"),
        ({"defects": {"vacancies": 1.0}}, "did you mean 'vacancy'"),
        ({"defects": {"vacancy": -1.0}}, "weight of vacancy is -1.0"),
        ({"defects": {"vacancy": 0.0}}, "at least one weight"),
        ({"defects": {"vacancy": "much"}}, "vacancy is 'much'"),
        ({"starts_per_parent": 0}, "starts_per_parent is 0"),
        ({"rattle": 2.0}, "rattle is 2.0"),
        ({"settling": {"alpha": -1.0}}, "alpha is -1.0"),
        ({"settling": {"alpha": "x"}}, "alpha is 'x'"),
        ({"settling": {"fmax": 0.0}}, "fmax is 0.0"),
        ({"settling": {"max_steps": -1}}, "max_steps is -1"),
        ({"settling": {"steps": 10}}, "no setting 'steps'"),
    ],
)
def test_bad_settings_are_refused_with_advice(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Silicon.from_settings(settings)


def test_a_count_below_one_is_refused() -> None:
    for ask in (Silicon().draw, Silicon().frames):
        with pytest.raises(SettingsError, match="0 structures were asked for"):
            ask(0, 0)
