"""Oxide surfaces: what slabs are, what is changed on them, and that minima are discrete and long to reach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from thalweg.errors import SettingsError, StructureError
from thalweg.potentials.contract import Potential
from thalweg.relaxation import FIRE, relax
from thalweg.relaxation.stability import check_alpha
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Pairs
from thalweg.testbeds import TESTBEDS
from thalweg.testbeds.oxide import MIXTURE, SETTLING, Oxide
from thalweg.testbeds.oxide_slabs import CHANGES, CLEARANCE, CRYSTALS, Slab, rattled
from thalweg.testbeds.settling import Settling
from thalweg.testbeds.silicon import Silicon
from thalweg.testbeds.testbed import Drawn

SMALL = Oxide("MgO", cells_x=2, cells_y=2, layers=2, changes=MIXTURE)


@pytest.fixture(scope="module")
def few() -> Drawn:
    return SMALL.draw(6, seed=0)


@pytest.fixture(scope="module")
def rutile() -> Pairs:
    return Oxide().make(3, seed=0)


def bare(material: str, layers: int = 3, fixed: int = 1) -> Slab:
    return CRYSTALS[material].slab((2, 1), layers, fixed, 15.0)


def periodic(slab: Slab, height: float) -> Structures:
    """The ions of a slab stacked on themselves without a vacuum."""
    cell = torch.diag(torch.tensor([slab.cell[0], slab.cell[1], height]))[None]
    count = len(slab.numbers)
    return Structures(
        torch.tensor(slab.positions),
        torch.tensor(slab.numbers),
        cell,
        torch.ones(1, 3, dtype=torch.bool),
        torch.zeros(count, dtype=torch.long),
        torch.ones(count, 3, dtype=torch.bool),
        ("stacked",),
    )


@pytest.mark.parametrize("material", CRYSTALS)
def test_layers_stacked_without_a_vacuum_are_the_crystal_at_rest(material: str) -> None:
    crystal, reference = CRYSTALS[material], Oxide(material).reference()
    stacked = periodic(bare(material, layers=2), 2 * crystal.edges[2])
    found = reference(stacked, stress=True)
    assert float(found.energy) / len(stacked.numbers) == pytest.approx(crystal.energy_per_ion, abs=1e-5)
    assert float(found.forces.abs().max()) < 1e-3
    assert found.stress is not None
    assert float(found.stress.abs().max()) < 1e-4
    wrong = replace(crystal, shift=(0.0, 0.0)).slab((2, 1), 2, 1, 15.0)
    assert float(reference(periodic(wrong, 2 * crystal.edges[2])).energy) > float(found.energy) + 10.0


def test_the_faces_are_the_known_ones() -> None:
    # rutile (110): half of the titanium of the outermost layer has five oxygen neighbours, half six
    slab = CRYSTALS["TiO2"].slab((2, 1), 3, 1, 15.0)
    titanium = np.flatnonzero(slab.top & (slab.numbers == 22))
    around = sorted(int((slab.distances(slab.positions[k])[slab.numbers == 8] < 2.2).sum()) for k in titanium)
    assert around == [5, 5, 6, 6]
    salt = bare("MgO")
    assert {round(float(np.sort(salt.distances(p))[1]), 3) for p in salt.positions} == {2.107}


def test_the_lowest_layers_are_held_and_nothing_else(rutile: Pairs) -> None:
    held = ~rutile.starts.free.any(dim=1)
    heights = rutile.starts.positions[:, 2]
    assert held.sum() == 3 * 18
    assert torch.equal(held, ~rutile.starts.free.all(dim=1))
    assert torch.equal(rutile.starts.positions[held], rutile.minima.positions[held])
    assert float(heights[held].max()) < 2.6


@pytest.mark.parametrize("material", CRYSTALS)
@pytest.mark.parametrize(("change", "units"), [("added", 1), ("removed", -1), ("moved", 0)])
def test_every_change_keeps_the_slab_neutral_and_its_ions_clear(material: str, change: str, units: int) -> None:
    slab, symbols = bare(material), CRYSTALS[material].symbols
    reference = Oxide(material).reference()
    for k in range(4):
        generator = numpy_stream(3, "changes", k)
        parent = CHANGES[change](slab, symbols, 3.0, generator)
        assert len(parent.numbers) - len(slab.numbers) == units * len(symbols)
        assert parent.placed == {"added": len(symbols), "removed": 0, "moved": 1}[change]
        kinds = reference.slots[torch.tensor(parent.numbers)]
        assert float(reference.charges[kinds].sum()) == pytest.approx(0.0, abs=1e-9)
        positions = rattled(parent, 0.1, generator)
        host = len(parent.numbers) - parent.placed
        assert np.array_equal(positions[parent.fixed], parent.positions[parent.fixed])
        assert np.array_equal(positions[host:], parent.positions[host:])
        for site in positions[host:]:
            assert np.sort(replace(parent, positions=positions).distances(site))[1] >= CLEARANCE


def test_ions_that_find_no_place_are_refused_with_advice() -> None:
    low = replace(bare("MgO"), cell=np.array([8.4, 4.2, 4.3]))  # no vacuum: the image above is in the way
    with pytest.raises(StructureError, match=r"1.6 Å clear of all ions"):
        CHANGES["added"](low, ("Mg", "O"), 0.1, numpy_stream(0, "full"))


def test_minima_are_minima_of_the_reference_and_the_step_is_stable(few: Drawn, rutile: Pairs) -> None:
    for testbed, pairs in ((SMALL, few.pairs), (Oxide(), rutile)):
        reference = testbed.reference()
        found = reference(pairs.minima)
        free = found.forces * pairs.minima.free
        assert float(free.norm(dim=1).max()) < SETTLING.fmax
        assert pairs.energy_minimum is not None
        assert torch.allclose(found.energy, pairs.energy_minimum, rtol=0, atol=1e-8)
        assert check_alpha(reference, pairs.minima.select([0, 1]), SETTLING.alpha).stable
        assert not check_alpha(reference, pairs.minima.select([0, 1]), 2.5 * SETTLING.alpha).stable


def test_relaxations_are_longer_than_those_of_silicon(rutile: Pairs) -> None:
    def steps(potential: Potential, starts: Structures) -> float:
        end = relax(potential, starts, FIRE(), fmax=0.05, max_steps=1000)
        return float(end.steps.double().mean())

    silicon = Silicon()
    short = steps(silicon.reference(), silicon._starts(range(3), 0)[0])
    assert steps(Oxide().reference(), rutile.starts) > 1.5 * short


def test_starts_and_minima_depend_on_seed_and_index_alone(few: Drawn) -> None:
    fewer, other = SMALL.draw(2, seed=0).pairs, SMALL.draw(2, seed=1).pairs
    same = few.pairs.select([0, 1])
    assert fewer.ids == same.ids
    assert torch.equal(fewer.starts.positions, same.starts.positions)
    assert torch.allclose(fewer.minima.positions, same.minima.positions, rtol=0, atol=1e-5)
    assert set(fewer.ids).isdisjoint(other.ids)


def test_frames_carry_the_labels_of_the_reference_and_share_no_parent_with_pairs(few: Drawn) -> None:
    frames = SMALL.frames(7, seed=0)
    label = SMALL.reference()(frames.structures)
    assert torch.allclose(frames.forces, label.forces, rtol=0, atol=1e-12)
    assert set(frames.parents).isdisjoint(few.pairs.parents)
    assert len(set(frames.ids)) == 7
    held = ~frames.structures.free.any(dim=1)
    slab = SMALL._slab
    assert set(frames.structures.positions[held].flatten().tolist()) <= set(slab.positions.flatten().tolist())


def test_starts_of_one_parent_share_what_was_changed() -> None:
    starts, parents = replace(SMALL, starts_per_parent=2)._starts(range(4), 0)
    assert parents[0] == parents[1] != parents[2] == parents[3]
    one, two = (starts.select([k]) for k in (0, 1))
    assert torch.equal(one.numbers, two.numbers)
    assert not torch.equal(one.positions, two.positions)


def test_the_mixture_draws_every_change_in_proportion() -> None:
    names = [SMALL._parent("oxide pair parent", k, 0)[0] for k in range(200)]
    assert set(names) == set(CHANGES) == set(MIXTURE)
    assert names.count("removed") / 200 == pytest.approx(MIXTURE["removed"], abs=0.1)


def test_the_excess_energy_of_a_bare_slab_is_that_of_two_faces() -> None:
    # MgO(001): 0.068 eV/Å² for these parameters with a full Ewald sum
    testbed = Oxide("MgO", cells_x=1, cells_y=1, layers=6, fixed_layers=0)
    slab = testbed._slab
    structure = replace(periodic(slab, float(slab.cell[2])), ids=("slab",))
    end = testbed.path().run(testbed.reference(), structure)
    excess = float(testbed.excess_energy(end.structures, end.energy)) / (2 * slab.cell[0] * slab.cell[1])
    assert excess == pytest.approx(0.068, abs=0.010)


def test_the_crystal_is_offered_where_it_is_cubic() -> None:
    crystal = SMALL.crystal()
    assert crystal is not None
    found = SMALL.reference()(crystal)
    assert float(found.energy) / 8 == pytest.approx(CRYSTALS["MgO"].energy_per_ion, abs=1e-5)
    assert Oxide("TiO2").crystal() is None


def test_settings_rebuild_the_testbed() -> None:
    for testbed in (Oxide(), SMALL, Oxide("MgO", settling=Settling(alpha=0.01, descent_steps=5))):
        assert TESTBEDS["oxide"].from_settings(testbed.settings) == testbed
    assert Oxide.from_settings({}) == Oxide()
    assert Oxide.from_settings({"settling": {"descent_steps": 9}}).settling == replace(SETTLING, descent_steps=9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": 3}, "did you mean 'layers'"),
        ({"layers": 1}, "layers is 1: allowed is 2 to 12"),
        ({"fixed_layers": 3}, "fixed_layers is 3: allowed is 0 to 2"),
        ({"cells_x": 0}, "cells_x is 0"),
        ({"cells_y": 2.0}, "cells_y is 2.0: give a value of type int"),
        ({"material": "TiO"}, "no material 'TiO'; did you mean 'TiO2'"),
        ({"material": 3}, "material is 3"),
        ({"changes": {"remove": 1.0}}, "did you mean 'removed'"),
        ({"changes": {"removed": -1.0}}, "weight of removed is -1.0"),
        ({"changes": {"removed": 0.0}}, "at least one weight"),
        ({"height": 20.0}, "height is 20.0: allowed is 2 to 8 Å"),
        ({"starts_per_parent": 0}, "starts_per_parent is 0"),
        ({"rattle": 1.0}, "rattle is 1.0: allowed is 0 to 0.4 Å"),
        ({"settling": {"alpha": -1.0}}, "alpha is -1.0"),
    ],
)
def test_bad_settings_are_refused_with_advice(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Oxide.from_settings(settings)
