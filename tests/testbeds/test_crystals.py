"""The testbed of bulk crystals: its starts, its minima with cells of their own, its frames with stresses, its rule."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.geometry import minkowski_reduce

from thalweg.errors import SettingsError, StructureError
from thalweg.evaluation.basins import CrystalQuench, Verdict
from thalweg.potentials import build_potential
from thalweg.relaxation import LBFGS, Outcome, PositionsAndCell, Relaxation, relax
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures
from thalweg.structures.describe import describe
from thalweg.structures.extended_xyz import read_frames, read_pairs, write_frames, write_pairs
from thalweg.structures.pairs import Pairs
from thalweg.structures.same_crystal import crystal_distances
from thalweg.testbeds import TESTBEDS
from thalweg.testbeds.crystals import SURFACES, Crystals
from thalweg.testbeds.prototypes import PROTOTYPES, random_crystal, supercell
from thalweg.testbeds.settling import Settling
from thalweg.training.matching_loss import label_errors


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return Crystals().make(12, seed=0)


def ended(structures: Structures, energy: torch.Tensor) -> Relaxation:
    n = len(structures)
    zeros = torch.zeros(n, dtype=torch.float64)
    return Relaxation(structures, (Outcome.CONVERGED,) * n, torch.zeros(n, dtype=torch.long), zeros, energy)


@pytest.mark.parametrize("elements", SURFACES)
def test_the_crystal_is_at_rest_on_its_surface(elements: tuple[str, ...]) -> None:
    testbed = Crystals(elements=elements)
    found = testbed.reference()(testbed.crystal(), stress=True)
    assert float(found.forces.abs().max()) < 1e-9
    assert float(found.stress.abs().max()) < 5e-5  # eV/Å³: the lattice constant is given to 0.0001 Å
    assert float(found.energy) / 8 == pytest.approx({1: -4.3366, 2: -2.1780}[len(elements)], abs=1e-4)


def test_minima_have_cells_of_their_own_and_are_at_rest(pairs: Pairs) -> None:
    surface = Crystals().reference()
    found = surface(pairs.minima, stress=True)
    assert float(found.forces.norm(dim=1).max()) < 2e-4
    volume = torch.linalg.det(pairs.minima.cell).abs()
    assert float((volume[:, None, None] * found.stress / pairs.minima.counts[:, None, None]).abs().max()) < 2e-4
    assert float((pairs.minima.cell - pairs.starts.cell).abs().amax(dim=(1, 2)).min()) > 1e-3
    assert torch.allclose(found.energy, pairs.energy_minimum, rtol=0, atol=1e-9)
    # the cell does not turn
    stretch = torch.linalg.solve(pairs.starts.cell, pairs.minima.cell)
    assert float((stretch - stretch.transpose(1, 2)).abs().max()) < 1e-10


def test_images_within_the_cutoff_are_all_counted(pairs: Pairs) -> None:
    """Energies per atom of cells too small for one image each are those of their threefold supercells."""
    surface = Crystals().reference()
    small = [atoms for atoms in pairs.minima.to_atoms() if min(atoms.cell.lengths()) < 2 * surface.cutoff][:3]
    assert len(small) == 3
    one, many = (surface(Structures.from_atoms([a.repeat(n) for a in small])).energy for n in (1, 3))
    assert torch.allclose(27 * one, many, rtol=1e-10, atol=0)


def test_random_starts_keep_their_clearance_and_volume() -> None:
    stream = numpy_stream(3, "test")
    for atoms in (4, 8):
        crystal = random_crystal(atoms, 30.0 * atoms, 2.2, stream)
        assert crystal.volume == pytest.approx(30.0 * atoms)
        steps = np.array(list(itertools.product(range(-2, 3), repeat=3))) @ crystal.cell
        between = crystal.positions[:, None] - crystal.positions[None]
        distances = np.linalg.norm(between[:, :, None] + steps, axis=-1)
        assert distances[distances > 1e-9].min() >= 2.2
    with pytest.raises(StructureError, match="left no room"):
        random_crystal(8, 8.0, 2.2, stream)


@pytest.mark.parametrize("name", PROTOTYPES)
def test_supercells_of_a_prototype_are_that_prototype(name: str) -> None:
    stream, prototype = numpy_stream(1, name), PROTOTYPES[name]
    found = [supercell(prototype, 4, 8, stream).scaled(30.0) for _ in range(3)]
    plain = supercell(prototype, 2 if len(prototype.kinds) == 2 else 4, 4, stream).scaled(30.0)
    testbed = Crystals()
    for crystal in found:
        assert 4 <= len(crystal.kinds) <= 8
        assert crystal.volume == pytest.approx(30.0 * len(crystal.kinds))
        assert np.bincount(crystal.kinds).tolist() == [len(crystal.kinds) // 2] * 2
        assert np.allclose(minkowski_reduce(crystal.cell)[0], crystal.cell)
        if len(crystal.kinds) == len(plain.kinds):
            one, other = (Structures.from_atoms(testbed._atoms(c, "")) for c in (crystal, plain))
            assert float(crystal_distances(one, other)) < 1e-6


def test_frames_carry_stresses_of_the_reference_and_share_no_parent_with_pairs(pairs: Pairs) -> None:
    frames = Crystals().frames(7, seed=0)
    found = Crystals().reference()(frames.structures, stress=True)
    assert torch.allclose(frames.stress, found.stress, rtol=0, atol=1e-12)
    assert float(frames.stress.abs().amax(dim=(1, 2)).min()) > 1e-4
    assert set(frames.parents).isdisjoint(pairs.parents)
    surface = Crystals().reference()
    energy, forces, stress = label_errors(surface, frames, surface.edges(frames.structures), graph=False, stress=True)
    assert max(float(e.abs().max()) for e in (energy, forces, stress)) < 1e-9
    lost = replace(frames, stress=frames.stress.index_fill(0, torch.tensor([1, 4]), math.nan))
    *_, stress = label_errors(surface, lost, surface.edges(lost.structures), graph=False, stress=True)
    assert stress.shape == (5, 9)


def test_files_keep_cells_and_stresses(pairs: Pairs, tmp_path) -> None:
    write_pairs(tmp_path / "pairs.extxyz", pairs)
    again = read_pairs(tmp_path / "pairs.extxyz")
    assert torch.equal(again.minima.cell, pairs.minima.cell)
    assert torch.equal(again.starts.cell, pairs.starts.cell)
    frames = Crystals().frames(3, seed=1)
    write_frames(tmp_path / "frames.extxyz", frames)
    assert torch.allclose(read_frames(tmp_path / "frames.extxyz").stress, frames.stress, rtol=0, atol=1e-15)


def test_minima_of_one_composition_are_told_apart_as_crystals() -> None:
    silicon = Crystals(elements=("Si",), fewest=4, most=4, random=0.0, strain=0.02, rattle=0.02)
    drawn = silicon.make(12, seed=2)
    (group,) = describe(drawn).groups
    deepest = group.geometric_basins[0]
    assert deepest.energy == pytest.approx(4 * -4.3366, abs=0.01)
    assert deepest.population >= 2  # diamond, from cells of different shape
    assert len(group.geometric_basins) < len(drawn)


def test_the_rule_takes_another_cell_of_the_minimum_for_it_and_no_other_crystal() -> None:
    silicon = Crystals(elements=("Si",), fewest=4, most=4, random=0.0, strain=0.02, rattle=0.02)
    surface = silicon.reference()
    two, three = PROTOTYPES["zincblende"], PROTOTYPES["wurtzite"]
    stream = numpy_stream(0, "cells")
    crystals = [supercell(p, 4, 4, stream).scaled(20.5) for p in (two, two, two, three)]
    starts = Structures.from_atoms([silicon._atoms(c, str(k)) for k, c in enumerate(crystals)])
    end = relax(surface, starts, LBFGS(), fmax=1e-4, max_steps=300, coordinates=PositionsAndCell())
    assert set(end.outcomes) == {Outcome.CONVERGED}
    minima = end.structures.select([0, 0, 0, 0])
    found = CrystalQuench().compare(ended(end.structures, end.energy), minima, reference=surface)
    assert found.verdicts(0.2) == (Verdict.RIGHT, Verdict.RIGHT, Verdict.RIGHT, Verdict.WRONG)
    assert float(found.displacement[3]) >= 0.6
    # diamond and lonsdaleite have one energy on this surface, so geometry alone tells them apart
    assert abs(float(found.energy_difference[3])) < 1e-3


def test_the_rule_quenches_with_the_cell_and_minds_the_energy(pairs: Pairs) -> None:
    surface, few = Crystals().reference(), pairs.select([0, 1])
    swollen = few.minima.with_cell(1.02 * few.minima.cell).with_positions(1.02 * few.minima.positions)
    ends = ended(swollen, few.energy_minimum)
    found = CrystalQuench().compare(ends, few.minima, reference=surface)
    assert found.verdicts(0.2) == (Verdict.RIGHT, Verdict.RIGHT)
    assert float(found.displacement.max()) < 0.02
    assert torch.equal(found.energy_limit, 0.01 * few.minima.counts.double())
    strange = replace(found, energy_difference=1.01 * found.energy_limit)
    assert strange.verdicts(0.2) == (Verdict.WRONG, Verdict.WRONG)
    for changes, message in (
        ({"energy_per_atom": 0.0}, "energy_per_atom is 0.0"),
        ({"threshold": 0.7}, "threshold is 0.7"),
    ):
        with pytest.raises(SettingsError, match=message):
            CrystalQuench(**changes)


def test_settings_rebuild_the_testbed_and_its_path_moves_the_cell() -> None:
    for testbed in (Crystals(), Crystals(("Si",), 2, 16, volume=(0.9, 1.1), settling=Settling(alpha=0.02))):
        assert TESTBEDS[testbed.kind].from_settings(testbed.settings) == testbed
    assert Crystals().path().coordinates == PositionsAndCell()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"element": ["Si"]}, "did you mean 'elements'"),
        ({"elements": ["Te", "Cd"]}, r"allowed is \[Si\] or \[Cd, Te\]"),
        ({"elements": [14]}, "give a list of symbols"),
        ({"fewest": 9}, "fewest is 9 and most 8"),
        ({"most": 64}, "most 64"),
        ({"fewest": 5, "most": 7}, "a multiple of 4"),
        ({"random": 1.5}, "random is 1.5"),
        ({"strain": -0.1}, "strain is -0.1"),
        ({"clearance": 1.0}, "clearance is 1.0"),
        ({"volume": [1.0]}, "give two numbers"),
        ({"volume": [1.2, 0.9]}, "volume is"),
        ({"settling": {"alpha": -1.0}}, "alpha is -1.0"),
    ],
)
def test_bad_settings_are_refused_with_advice(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Crystals.from_settings(settings)


@pytest.mark.parametrize(("cutoff", "feels"), [(4.2, False), (5.5, True)])
def test_a_tetragonal_strain_of_zinc_blende_is_felt_through_second_neighbours(cutoff: float, *, feels: bool) -> None:
    """PaiNN that sees bonds alone has no resistance to it, see the page of the testbed."""
    painn = build_potential("painn", {"species": [48, 52], "cutoff": cutoff}).double()
    crystal = Crystals().crystal()
    along = 1.05
    across = math.sqrt((3 - along**2) / 2)  # bonds keep their length exactly
    stretch = torch.diag(torch.tensor([along, across, across], dtype=torch.float64))
    strained = crystal.with_positions(crystal.positions @ stretch).with_cell(crystal.cell @ stretch)
    change = float((painn(strained).energy - painn(crystal).energy).abs())
    assert change > 1e-4 if feels else change < 1e-10
