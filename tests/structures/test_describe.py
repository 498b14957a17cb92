import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms

from thalweg.errors import SettingsError
from thalweg.structures.batch import Structures
from thalweg.structures.describe import describe, energy_levels, geometric_basins
from thalweg.structures.pairs import Pairs
from thalweg.structures.readers import import_pairs

DATA = Path(__file__).parent.parent / "data" / "cdte_vacancy"


@pytest.fixture(scope="module")
def vacancy() -> Pairs:
    return import_pairs(DATA).pairs


def test_the_cadmium_vacancy_has_two_levels_and_three_shapes(vacancy):
    description = describe(vacancy)
    (group,) = description.groups
    assert group.composition == "Cd31 Te32"
    assert [level.population for level in group.energy_levels] == [14, 12]
    assert [round(level.energy, 3) for level in group.energy_levels] == [-206.478, -205.727]
    assert group.energy_levels[1].energy_range == pytest.approx(0.00562, abs=1e-5)
    assert [(b.population, round(b.energy, 3)) for b in group.geometric_basins] == [
        (3, -206.478),
        (11, -206.478),
        (12, -205.727),
    ]
    assert all(0 < b.width < 0.08 for b in group.geometric_basins)
    alone = {name.split("/")[1] for name in group.geometric_basins[0].members}
    assert alone == {"Bond_Distortion_-55.0%", "Bond_Distortion_-57.5%", "Bond_Distortion_-60.0%"}
    assert "vac_1_Cd_0/Unperturbed" in group.geometric_basins[2].members


def test_a_finer_gap_and_a_finer_distance_tell_the_unperturbed_minimum_apart(vacancy):
    (group,) = describe(vacancy, energy_gap=0.002, distance=0.05).groups
    assert [level.population for level in group.energy_levels] == [14, 11, 1]
    assert [b.population for b in group.geometric_basins] == [3, 11, 11, 1]
    assert group.geometric_basins[3].members == ("vac_1_Cd_0/Unperturbed",)


def test_the_description_does_not_depend_on_the_order_of_the_pairs(vacancy):
    order = np.random.default_rng(0).permutation(len(vacancy)).tolist()
    assert asdict(describe(vacancy.select(order)))["groups"] == asdict(describe(vacancy))["groups"]


def test_the_description_is_json_and_counts_what_is_there(vacancy):
    plain = json.loads(json.dumps(asdict(describe(vacancy)), allow_nan=False))
    assert plain["pairs"] == 26
    assert plain["parents"] == 1
    assert plain["atoms"]["median"] == 63
    assert plain["elements"] == {"Cd": 31 * 26, "Te": 32 * 26}
    assert plain["energies_known"] == 26
    assert plain["fixed_atoms"] == 0
    assert 6 < plain["delta_q"]["least"] < plain["delta_q"]["median"] < plain["delta_q"]["largest"] < 50
    assert sum(b["population"] for b in plain["groups"][0]["geometric_basins"]) == 26


def test_without_energies_there_are_no_levels_but_shapes(vacancy):
    few = replace(vacancy.select(range(6)), energy_minimum=None)
    (group,) = describe(few).groups
    assert group.energy_levels == ()
    assert sum(b.population for b in group.geometric_basins) == 6
    assert all(b.energy is None for b in group.geometric_basins)
    json.dumps(asdict(describe(few)), allow_nan=False)


def test_one_unknown_energy_is_in_no_level_and_in_its_shape(vacancy):
    energies = vacancy.energy_minimum.clone()
    energies[0] = math.nan
    description = describe(replace(vacancy, energy_minimum=energies))
    (group,) = description.groups
    assert description.energies_known == 25
    assert sum(level.population for level in group.energy_levels) == 25
    assert [b.population for b in group.geometric_basins] == [3, 11, 12]


def test_structures_of_other_cells_or_compositions_share_no_basin():
    frames = [bulk("Si"), bulk("Si", a=5.6), bulk("Ge"), bulk("Si")]
    frames[0].set_constraint(FixAtoms([1]))
    s = Structures.from_atoms(frames)
    description = describe(Pairs(s, s, ("p",) * 4))
    assert sorted((g.composition, g.pairs) for g in description.groups) == [
        ("Ge2", 1),
        ("Si2", 1),
        ("Si2", 2),
    ]
    assert description.groups[0].pairs == 2
    assert description.fixed_atoms == 1
    assert description.delta_q.largest == 0


def with_vacancy(index: int, seed: int) -> Atoms:
    atoms = bulk("Si", cubic=True) * (2, 2, 2)
    del atoms[index]
    atoms.rattle(0.01, seed=seed)
    return atoms


def test_a_translated_copy_with_atoms_in_another_order_is_the_same_basin_on_demand():
    # atoms 0 and 8 are one site of the conventional cell, 1 lies on the other sublattice
    minima = Structures.from_atoms([with_vacancy(0, 1), with_vacancy(8, 2), with_vacancy(1, 3)])
    free = geometric_basins(minima, [None] * 3, 0.2)
    assert [sorted(b) for b in free] == [[0, 1], [2]]
    held = geometric_basins(minima, [None] * 3, 0.2, any_origin=False)
    assert [sorted(b) for b in held] == [[0], [1], [2]]


def test_minima_of_other_energy_are_not_one_basin_however_alike():
    minima = Structures.from_atoms([with_vacancy(0, 1), with_vacancy(0, 2)])
    assert len(geometric_basins(minima, [-1.0, -1.04], 0.2)) == 1
    assert len(geometric_basins(minima, [-1.0, -1.06], 0.2)) == 2


def test_levels_begin_where_the_gap_is_exceeded():
    assert energy_levels([0.0, 2.0, 0.9, 5.0, 1.8], 1.0) == [[0, 2, 4, 1], [3]]
    assert energy_levels([0.0, 1.0], 1.0) == [[0, 1]]
    assert energy_levels([0.0, 1.0], 0.99) == [[0], [1]]
    assert energy_levels([], 1.0) == []


@pytest.mark.parametrize("name", ["energy_gap", "distance"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_tolerance_that_is_not_above_zero_is_refused(vacancy, name, value):
    with pytest.raises(SettingsError, match=f"{name} is"):
        describe(vacancy, **{name: value})


def test_describing_keeps_no_graph(vacancy):
    few = vacancy.select([0, 1])
    tied = replace(few, starts=few.starts.with_positions(few.starts.positions.clone().requires_grad_()))
    assert isinstance(describe(tied).delta_q.mean, float)
    assert torch.is_grad_enabled()
