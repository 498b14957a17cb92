from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from thalweg.cli import app
from thalweg.errors import SettingsError, StructureError
from thalweg.relaxation.outcome import Outcome
from thalweg.relaxation.stability import largest_curvature
from thalweg.structures.batch import Structures
from thalweg.structures.extended_xyz import read_pairs
from thalweg.structures.lattice import shortest_images
from thalweg.testbeds.settling import Settling
from thalweg.testbeds.slabs import ADSORBATES, CLEARANCE
from thalweg.testbeds.testbed import Drawn
from thalweg.testbeds.titanium import HEIGHT_CONSTANT, LATTICE_CONSTANT, MIXTURE, SETTLING, Titanium

HOST = 36
ENERGIES = {  # eV: fcc hollow, hcp hollow; of CO by the hollow that its carbon is over
    "H": (-2.0833, -2.0948),
    "N": (-4.6017, -4.6146),
    "O": (-4.6009, -4.6190),
    "Ti": (-3.8049, -3.8126),
    "CO": (-8.4534, -8.4409),
}


@pytest.fixture(scope="module")
def mixed() -> Drawn:
    return Titanium().draw(20, seed=0)


def name_of(parent: str) -> str:
    return parent.split("-")[3]


def sites(structures: Structures) -> list[str]:
    """What the first atom on each slab rests above: an atom of the second layer (hcp), a hole of it (fcc), or less."""
    found = []
    for k in range(len(structures)):
        atoms = structures.positions[structures.offsets[k] : structures.offsets[k + 1]].numpy()
        cell = structures.cell[k].numpy()
        flat = atoms[:HOST] - atoms[HOST]
        flat = flat + shortest_images(flat, cell, np.array([True, True, True])) @ cell
        aside = np.linalg.norm(flat[:, :2], axis=1)
        top, second = aside[HOST - 9 : HOST].min(), aside[HOST - 18 : HOST - 9].min()
        if top < 1.2:
            found.append("top or bridge")
        else:
            found.append("hcp" if second < 0.6 else "fcc")
    return found


def test_the_bare_slab_is_the_crystal_cut_between_layers() -> None:
    slab = Titanium(layers=5, size=4, fixed_layers=2)._bare
    heights = slab.atoms.positions[:, 2].reshape(5, 16)
    assert heights == pytest.approx(np.arange(5)[:, None] * HEIGHT_CONSTANT / 2 * np.ones(16))
    distances = slab.atoms.get_all_distances(mic=True)
    inside = np.sort(distances[32])[1:13]  # an atom of the middle layer
    between = (LATTICE_CONSTANT**2 / 3 + HEIGHT_CONSTANT**2 / 4) ** 0.5
    assert inside == pytest.approx(np.sort([LATTICE_CONSTANT] * 6 + [between] * 6), abs=1e-9)
    assert slab.free.all(axis=1).sum() == 3 * 16
    assert not slab.free[: 2 * 16].any()


def test_starts_hold_the_lowest_layers_where_the_crystal_has_them(mixed: Drawn) -> None:
    starts, crystal = mixed.pairs.starts, Titanium()._bare.atoms.positions
    for k in range(len(starts)):
        own = slice(starts.offsets[k], starts.offsets[k] + HOST)
        free = starts.free[own].all(dim=1).numpy()
        assert free.tolist() == [False] * 18 + [True] * 18
        assert np.array_equal(starts.positions[own].numpy()[:18], crystal[:18])
        moved = starts.positions[own].numpy()[18:] - crystal[18:]
        assert moved.std() == pytest.approx(0.1, abs=0.035)


def test_adsorbates_start_at_the_stated_heights_clear_of_the_slab(mixed: Drawn) -> None:
    starts, testbed = mixed.pairs.starts, Titanium()
    top = testbed._bare.atoms.positions[:, 2].max()
    edges = testbed.reference().edges(starts)
    distances = edges.vectors(starts).norm(dim=1)
    index = torch.arange(len(starts.owner)) - torch.tensor(starts.offsets[:-1])[starts.owner]
    across = (index[edges.centre] >= HOST) & (index[edges.neighbour] < HOST)
    assert distances[across].min() >= CLEARANCE
    for k, parent in enumerate(mixed.pairs.parents):
        what = ADSORBATES[name_of(parent)]
        on = starts.positions[starts.offsets[k] + HOST : starts.offsets[k + 1]].numpy()
        assert len(on) == len(what.symbols)
        assert testbed.lowest <= on[:, 2].mean() - top <= testbed.highest
        assert np.linalg.norm(on[-1] - on[0]) == pytest.approx(what.length)


def test_minima_are_at_both_kinds_of_hollow_with_the_energies_of_each(mixed: Drawn) -> None:
    pairs = mixed.pairs
    assert mixed.lost == ()
    assert pairs.energy_minimum is not None
    energies = Titanium().adsorption_energy(pairs.minima, pairs.energy_minimum)
    where = sites(pairs.minima)
    for k, parent in enumerate(pairs.parents):
        assert where[k] in ("fcc", "hcp")
        assert float(energies[k]) == pytest.approx(ENERGIES[name_of(parent)][where[k] == "hcp"], abs=2e-4)
    assert len({(name_of(p), site) for p, site in zip(pairs.parents, where, strict=True)}) >= 7


def test_starts_are_at_no_such_place(mixed: Drawn) -> None:
    assert "top or bridge" in sites(mixed.pairs.starts)  # the classifier knows others


def test_carbon_monoxide_lies_down() -> None:
    testbed = Titanium(adsorbates={"CO": 1.0})
    pairs = testbed.make(4, seed=3)
    ends = torch.tensor(pairs.minima.offsets[1:])
    bond = pairs.minima.positions[ends - 1] - pairs.minima.positions[ends - 2]
    assert (bond[:, 2].abs() < 0.4).all()
    assert (bond.norm(dim=1) - 1.2).abs().max() < 0.1
    upright = pairs.starts.positions[ends - 1] - pairs.starts.positions[ends - 2]
    assert float(upright[:, 2].abs().max()) > 0.6


def test_far_from_the_surface_nothing_is_adsorbed() -> None:
    testbed = Titanium()
    slab = testbed._bare.atoms
    frames = []
    for name, what in ADSORBATES.items():
        frame = slab.copy()
        for n, symbol in enumerate(what.symbols):
            frame.append(symbol)
            frame.positions[-1] = [n * what.length, 0.0, slab.positions[:, 2].max() + 7.0]
        frame.info["id"] = name
        frames.append(frame)
    far = Structures.from_atoms(frames)
    end = testbed.path().run(testbed.reference(), far)
    assert testbed.adsorption_energy(end.structures, end.energy).abs().max() < 1e-5


def test_what_is_no_adsorbate_has_no_energy_of_adsorption() -> None:
    testbed = Titanium()
    bare = Structures.from_atoms(testbed._bare.atoms, ids=["bare"])
    with pytest.raises(StructureError, match="'bare' has 'nothing' on its 36 slab atoms"):
        testbed.adsorption_energy(bare, torch.zeros(1, dtype=torch.float64))


def test_the_step_size_is_stable_at_the_stiffest_minima() -> None:
    for adsorbates, stiffest in (({"CO": 1.0}, 37.9), ({"O": 1.0}, 23.4)):
        testbed = Titanium(adsorbates=adsorbates)
        found = float(largest_curvature(testbed.reference(), testbed.make(2, seed=1).minima).max())
        assert found == pytest.approx(stiffest, abs=0.2)
        assert SETTLING.alpha * found < 1.2


def test_starts_of_one_parent_share_the_adsorbate_and_differ_in_the_slab() -> None:
    pairs = Titanium(starts_per_parent=2, layers=3, fixed_layers=1).make(4, seed=2)
    assert [pairs.parents.count(p) for p in dict.fromkeys(pairs.parents)] == [2, 2]
    first, second, third = (pairs.starts.select([k]).positions for k in range(3))
    assert torch.equal(first[27:], second[27:])
    assert not torch.equal(first[:27], second[:27])
    assert first[27:].shape != third[27:].shape or not torch.equal(first[27:], third[27:])


def test_the_mixture_draws_every_adsorbate_in_proportion() -> None:
    names = [Titanium()._parent("titanium pair parent", k, 0)[0] for k in range(300)]
    assert set(names) == set(MIXTURE) == set(ADSORBATES)
    assert names.count("O") / 300 == pytest.approx(MIXTURE["O"], abs=0.08)


def test_frames_keep_the_held_layers_and_reach_from_start_to_minimum() -> None:
    frames = Titanium().frames(10, seed=4)
    crystal = Titanium()._bare.atoms.positions
    structures = frames.structures
    for k in range(10):
        own = structures.positions[structures.offsets[k] : structures.offsets[k] + 18].numpy()
        assert np.array_equal(own, crystal[:18])
    assert [frames.parents.count(p) for p in dict.fromkeys(frames.parents)] == [5, 5]
    energies = frames.energy.reshape(2, 5)
    assert (energies[:, 4] < energies[:, 1]).all()


def test_references_that_do_not_converge_are_dropped_and_counted() -> None:
    hasty = Titanium(layers=3, fixed_layers=1, settling=Settling(alpha=0.03, max_steps=18))
    drawn = hasty.draw(6, seed=0)
    assert 0 < len(drawn.lost) < 6
    assert len(drawn.pairs) + len(drawn.lost) == 6
    assert {outcome for _, outcome in drawn.lost} == {Outcome.OUT_OF_STEPS}
    with pytest.raises(SettingsError, match="none of 2 titanium references converged"):
        Titanium(layers=3, fixed_layers=1, settling=Settling(max_steps=0)).draw(2, seed=0)


def test_a_setting_of_the_settling_leaves_the_others_as_they_are_here() -> None:
    settling = Titanium.from_settings({"settling": {"max_steps": 500}}).settling
    assert settling == Settling(alpha=SETTLING.alpha, max_steps=500)


def test_there_is_no_cubic_crystal() -> None:
    assert Titanium().crystal() is None


def test_pairs_come_from_the_command_line_with_their_masks(tmp_path: Path) -> None:
    out = tmp_path / "pairs.extxyz"
    asked = ["data", "make", "titanium", str(out), "--count", "1", "layers=3", "fixed_layers=1", "adsorbates.O=1"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "wrote 1 pairs" in done.output
    read, made = read_pairs(out), Titanium(layers=3, fixed_layers=1, adsorbates={"O": 1.0}).make(1, seed=0)
    assert torch.equal(read.starts.positions, made.starts.positions)
    assert torch.equal(read.starts.free, made.starts.free)
    assert not read.starts.free.all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": 4}, "did you mean 'layers'"),
        ({"layers": 2}, "layers is 2: allowed is 3 to 12"),
        ({"size": 2}, "size is 2: allowed is 3 to 10"),
        ({"fixed_layers": 4}, "fixed_layers is 4: allowed is 1 to 3"),
        ({"layers": "4"}, "layers is '4'"),
        ({"adsorbates": {"Oxygen": 1.0}}, "adsorbates has no setting 'Oxygen'"),
        ({"adsorbates": {"O": -1.0}}, "weight of O is -1.0"),
        ({"adsorbates": {"O": 0.0}}, "at least one weight"),
        ({"lowest": 3.0}, "lowest and highest are 3.0 and 2.6"),
        ({"highest": 9.0}, "allowed is 0.5 to 4 Å"),
        ({"starts_per_parent": 0}, "starts_per_parent is 0"),
        ({"rattle": 1.0}, "rattle is 1.0"),
        ({"settling": {"alpha": -1.0}}, "alpha is -1.0"),
        ({"settling": {"step": 10}}, "no setting 'step'"),
    ],
)
def test_bad_settings_are_refused_with_advice(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Titanium.from_settings(settings)
