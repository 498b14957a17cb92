"""Lookups: what they remember, what they are blind to, what they refuse, and how they are judged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ase import Atoms
from ase.build import bulk

from thalweg.errors import PotentialError, SettingsError
from thalweg.evaluation.label_errors import measure_label_errors
from thalweg.evaluation.lookups import LOOKUPS, Lookup, NearestFrame, SpeciesMean, measure_lookup_errors
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Frames


def labelled(frames: list[Atoms], key: str = "lookups") -> Frames:
    for k, frame in enumerate(frames):
        frame.positions += 0.15 * numpy_stream(3, key, k).standard_normal((len(frame), 3))
    structures = Structures.from_atoms(frames, ids=[f"{key}-{k}" for k in range(len(frames))])
    found = StillingerWeber.from_published("CdTe-2013")(structures)
    return Frames(structures, found.energy, found.forces, structures.ids)


def tellurides(key: str = "lookups") -> Frames:
    cell = bulk("CdTe", "zincblende", a=6.48)
    return labelled([cell * (2, 1, 1), cell.copy(), cell * (2, 1, 1), cell.copy()], key)


def test_the_species_mean_finds_energies_that_add_up() -> None:
    vapour = [Atoms("Cd"), Atoms("CdTe", [[0, 0, 0], [9, 0, 0]]), Atoms("Te2", [[0, 0, 0], [9, 0, 0]])]
    structures = Structures.from_atoms(vapour)
    frames = Frames(structures, torch.tensor([-1.5, -4.0, -5.0]).double(), torch.ones(5, 3).double(), ("a", "b", "c"))
    found = SpeciesMean.fit(frames)
    assert found.energies == pytest.approx({48: -1.5, 52: -2.5}, abs=1e-12)
    new = found.predict(Structures.from_atoms(Atoms("Cd2Te3", [[3.0 * k, 0, 0] for k in range(5)])))
    assert float(new.energy) == pytest.approx(-10.5, abs=1e-12)
    assert not new.forces.any()


def test_the_nearest_frame_of_a_frame_is_itself_wherever_and_however_it_lies() -> None:
    frames = tellurides()
    lookup = NearestFrame.fit(frames)
    moved = frames.structures.to_atoms()
    for frame in moved:
        frame.rotate(70, (1, 0, 2), rotate_cell=True)
        frame.positions += [1.0, -7.0, 0.3]
        frame.positions[1] += frame.cell[2]
    found = Structures.from_atoms(moved)
    assert lookup.nearest(found) == [0, 1, 2, 3]
    assert torch.equal(lookup.predict(found).energy, frames.energy)
    assert torch.equal(lookup.predict(found).forces, frames.forces)  # as they stand in the frame, not turned


def test_the_nearest_frame_is_the_one_a_little_away() -> None:
    frames = tellurides()
    noise = torch.from_numpy(numpy_stream(3, "a little away").standard_normal(tuple(frames.forces.shape)))
    near = frames.structures.with_positions(frames.structures.positions + 0.01 * noise)
    backwards = near.select([3, 2, 1, 0])
    assert NearestFrame.fit(frames).nearest(backwards) == [3, 2, 1, 0]


def test_errors_vanish_on_what_was_seen_and_not_on_what_was_not() -> None:
    frames, held = tellurides(), tellurides("held out")
    lookup = NearestFrame.fit(frames)
    seen, unseen = measure_lookup_errors(lookup, frames), measure_lookup_errors(lookup, held)
    assert seen.energy_rmse == seen.force_rmse == 0.0
    assert unseen.force_rmse is not None
    assert unseen.force_rmse > 100.0


def test_a_lookup_is_judged_as_a_potential_is() -> None:
    """No forces: the error is the rms force, there is no direction; a potential that made the labels has none."""
    frames = tellurides()
    judged = measure_lookup_errors(SpeciesMean.fit(frames), frames)
    assert judged.force_rmse == pytest.approx(1000.0 * float(frames.forces.square().mean().sqrt()), rel=1e-12)
    assert judged.force_cosine is None
    exact = measure_label_errors(StillingerWeber.from_published("CdTe-2013"), frames)
    assert (judged.frames, judged.atoms) == (exact.frames, exact.atoms) == (4, 12)
    assert exact.force_rmse == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("kind", LOOKUPS.values(), ids=LOOKUPS)
def test_predictions_have_the_floating_type_asked_for(kind: type[Lookup]) -> None:
    frames = tellurides()
    found = kind.fit(frames).predict(frames.structures.to(dtype=torch.float32))
    assert found.energy.dtype == found.forces.dtype == torch.float32
    assert found.energy.shape == (4,)
    assert found.forces.shape == (12, 3)


@pytest.mark.parametrize(("kind", "complaint"), [(SpeciesMean, "Zn"), (NearestFrame, "same elements in the same")])
def test_what_no_frame_held_is_refused(kind: type[Lookup], complaint: str) -> None:
    frames = tellurides()
    strange = bulk("ZnTe", "zincblende", a=6.1)
    strange.info["id"] = "strange"
    batch = Structures.concatenate([frames.structures, Structures.from_atoms(strange)])
    with pytest.raises(PotentialError, match=f"'strange'.*{complaint}") as caught:
        kind.fit(frames).predict(batch)
    assert "\n" not in str(caught.value)


def test_atoms_in_another_order_are_refused() -> None:
    frames = tellurides()
    turned = Structures.from_atoms(frames.structures.to_atoms()[1][::-1], ids=["turned"])
    with pytest.raises(PotentialError, match="'turned' of 2 atoms has no frame"):
        NearestFrame.fit(frames).predict(turned)


@pytest.mark.parametrize("kind", LOOKUPS.values(), ids=LOOKUPS)
def test_no_frames_are_refused(kind: type[Lookup]) -> None:
    frames = tellurides()
    empty = replace(
        frames,
        structures=replace(
            frames.structures.select([0]),
            positions=torch.zeros(0, 3).double(),
            numbers=torch.zeros(0, dtype=torch.long),
            cell=torch.zeros(0, 3, 3).double(),
            pbc=torch.zeros(0, 3, dtype=torch.bool),
            owner=torch.zeros(0, dtype=torch.long),
            free=torch.zeros(0, 3, dtype=torch.bool),
            ids=(),
        ),
        energy=torch.zeros(0).double(),
        forces=torch.zeros(0, 3).double(),
        parents=(),
    )
    with pytest.raises(SettingsError, match="no labelled frames"):
        kind.fit(empty)
    with pytest.raises(SettingsError, match="no labelled frames"):
        measure_lookup_errors(kind.fit(frames), empty)


def test_a_reach_that_is_none_is_refused() -> None:
    with pytest.raises(PotentialError, match="cutoff is 0"):
        NearestFrame(tellurides(), cutoff=0.0)
