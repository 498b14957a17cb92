"""Every testbed keeps the contract: `TESTBEDS` is run through, so one line there joins; each check rejects a fault.

A testbed whose defaults are slow to draw gives smaller ones in `SMALL`, and in `HASTY`, where it has no `settling`,
settings with which references cannot finish.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch

from thalweg.errors import SettingsError
from thalweg.relaxation.outcome import Outcome
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Frames, Pairs
from thalweg.testbeds import TESTBEDS
from thalweg.testbeds.testbed import Drawn, Testbed
from thalweg.testbeds.titanium import Titanium

SHORT = {"settling": {"descent_steps": 20}}
SMALL: dict[str, dict[str, Any]] = {
    "silicon": SHORT,
    "titanium": {"layers": 3, "fixed_layers": 1, **SHORT},
    "oxide": {"material": "MgO", "cells_x": 2, "cells_y": 2, "layers": 2},
    "crystals": {"most": 4},
}
HASTY: dict[str, dict[str, Any]] = {}
UNFINISHED = {"settling": {"descent_steps": 1, "max_steps": 1}}
COUNT = 2


def small(kind: str, **changes: Any) -> Testbed:
    """Return the testbed as it is tested."""
    return TESTBEDS[kind].from_settings(SMALL.get(kind, {}) | changes)


@cache
def drawn(testbed: str, count: int, seed: int) -> Drawn:
    """Draw from a testbed once for all checks."""
    return small(testbed).draw(count, seed)


@cache
def framed(testbed: str, count: int, seed: int) -> Frames:
    """Label frames of a testbed once for all checks."""
    return small(testbed).frames(count, seed)


Draw = Callable[[int, int], Drawn]
Label = Callable[[int, int], Frames]


def same_structures(found: Structures, wanted: Structures, tolerance: float) -> None:
    """Require the same names, atoms and masks, and positions and cells to a tolerance (Å)."""
    assert found.ids == wanted.ids
    assert torch.equal(found.numbers, wanted.numbers)
    assert torch.equal(found.free, wanted.free)
    assert torch.allclose(found.positions, wanted.positions, rtol=0, atol=tolerance)
    assert torch.allclose(found.cell, wanted.cell, rtol=0, atol=tolerance)


# the checks


def pairs_depend_on_seed_and_index_alone(draw: Draw) -> None:
    """Draw k is the same however many are drawn; another seed gives others under other names."""
    few, many, other = draw(COUNT - 1, 0).pairs, draw(COUNT, 0).pairs, draw(1, 1).pairs
    again = many.with_ids(few.ids)
    same_structures(few.starts, again.starts, 0.0)
    same_structures(few.minima, again.minima, 1e-5)
    assert few.parents == again.parents
    assert set(other.ids).isdisjoint(many.ids)
    one, two = other.starts.select([0]).positions, many.starts.select([0]).positions
    assert one.shape != two.shape or not torch.equal(one, two)


def frames_depend_on_seed_and_index_alone(label: Label) -> None:
    """Frame k is the same however many are labelled, and no two have one name."""
    few, many = label(4, 0), label(7, 0)
    again = many.select(range(4))
    same_structures(few.structures, again.structures, 1e-5)
    assert few.parents == again.parents
    assert len(set(many.ids)) == len(many) == 7
    assert set(label(4, 1).ids).isdisjoint(many.ids)


def pairs_and_frames_share_no_parent(pairs: Pairs, frames: Frames) -> None:
    """A base fitted to frames has seen no pair: no parent, no name and no structure is in both."""
    assert set(pairs.parents).isdisjoint(frames.parents)
    assert set(pairs.ids).isdisjoint(frames.ids)
    for k in range(len(frames)):
        frame = frames.structures.select([k]).positions
        for one in (pairs.starts, pairs.minima):
            seen = [one.select([n]).positions for n in range(len(one))]
            assert not any(frame.shape == s.shape and float((frame - s).abs().max()) < 1e-6 for s in seen)


def minima_are_minima_of_the_reference(testbed: Testbed, pairs: Pairs) -> None:
    """At a minimum all that may move feels less than fmax, and energies and forces told are the reference's."""
    reference, path = testbed.reference(), testbed.path()
    # half as much again: where the cell moves, its force depends on the cell that strain is measured from
    still = replace(path, steps=0, max_steps=0, fmax=1.5 * path.fmax).run(reference, pairs.minima)
    assert set(still.outcomes) == {Outcome.CONVERGED}
    at_start, at_end = reference(pairs.starts), reference(pairs.minima)
    assert pairs.energy_start is not None
    assert pairs.energy_minimum is not None
    assert pairs.forces_start is not None
    assert torch.allclose(at_end.energy, pairs.energy_minimum, rtol=0, atol=1e-6)
    assert torch.allclose(at_start.energy, pairs.energy_start, rtol=0, atol=1e-6)
    assert torch.allclose(at_start.forces, pairs.forces_start, rtol=0, atol=1e-6)
    assert (pairs.energy_minimum < pairs.energy_start).all()


def the_path_leads_from_starts_to_minima(testbed: Testbed, pairs: Pairs) -> None:
    """The path told is the path taken."""
    end = testbed.path().run(testbed.reference(), pairs.starts)
    same_structures(end.structures, pairs.minima, 1e-3)


def held_atoms_stay(pairs: Pairs) -> None:
    """What the free mask holds is in the minimum where it is in the start, to the bit."""
    assert torch.equal(pairs.starts.free, pairs.minima.free)
    held = ~pairs.starts.free
    assert torch.equal(pairs.starts.positions[held], pairs.minima.positions[held])


def labels_are_those_of_the_reference(testbed: Testbed, frames: Frames) -> None:
    """Frames carry energies and forces of the reference, and are not all at rest."""
    label = testbed.reference()(frames.structures)
    assert torch.allclose(frames.energy, label.energy, rtol=0, atol=1e-6)
    assert torch.allclose(frames.forces, label.forces, rtol=0, atol=1e-6)
    assert float(frames.forces.norm(dim=1).max()) > 0.05


def settings_rebuild_the_testbed(testbed: Testbed) -> None:
    """Settings are JSON and build the same testbed again; none at all build the default."""
    plain = json.loads(json.dumps(testbed.settings))
    again = type(testbed).from_settings(plain)
    assert again == testbed
    assert again.settings == testbed.settings
    assert type(testbed).from_settings({}) == type(testbed)()


def unknown_keys_are_refused_with_the_nearest(testbed: Testbed) -> None:
    """A misspelt key is refused and the right one named."""
    for key in testbed.settings:
        with pytest.raises(SettingsError, match=rf"{key}q.*did you mean '{key}'"):
            type(testbed).from_settings({f"{key}q": testbed.settings[key]})


def lost_draws_are_told(draw: Draw) -> None:
    """A draw whose relaxation does not end is named and is no pair; if all are lost that is said in one line."""
    try:
        hasty = draw(COUNT, 0)
    except SettingsError as error:
        said = str(error)
    else:
        assert hasty.lost
        assert len(hasty.pairs) + len(hasty.lost) == COUNT
        assert set(hasty.pairs.ids).isdisjoint(name for name, _ in hasty.lost)
        assert Outcome.CONVERGED not in {outcome for _, outcome in hasty.lost}
        return
    assert f"none of {COUNT}" in said
    assert "converged" in said


def nothing_asked_for_is_refused(testbed: Testbed) -> None:
    """A count below 1 is refused."""
    for ask in (testbed.draw, testbed.frames):
        with pytest.raises(SettingsError, match="1 or more"):
            ask(0, 0)


# every testbed keeps them


@pytest.fixture(params=TESTBEDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Every testbed in turn."""
    return str(request.param)


def test_pairs_depend_on_seed_and_index_alone(kind: str) -> None:
    pairs_depend_on_seed_and_index_alone(lambda count, seed: drawn(kind, count, seed))


def test_frames_depend_on_seed_and_index_alone(kind: str) -> None:
    frames_depend_on_seed_and_index_alone(lambda count, seed: framed(kind, count, seed))


def test_pairs_and_frames_share_no_parent(kind: str) -> None:
    pairs_and_frames_share_no_parent(drawn(kind, COUNT, 0).pairs, framed(kind, 7, 0))


def test_minima_are_minima_of_the_reference(kind: str) -> None:
    minima_are_minima_of_the_reference(small(kind), drawn(kind, COUNT, 0).pairs)


def test_the_path_leads_from_starts_to_minima(kind: str) -> None:
    the_path_leads_from_starts_to_minima(small(kind), drawn(kind, COUNT, 0).pairs)


def test_held_atoms_stay(kind: str) -> None:
    held_atoms_stay(drawn(kind, COUNT, 0).pairs)


def test_labels_are_those_of_the_reference(kind: str) -> None:
    labels_are_those_of_the_reference(small(kind), framed(kind, 7, 0))


def test_settings_rebuild_the_testbed(kind: str) -> None:
    for testbed in (small(kind), TESTBEDS[kind]()):
        settings_rebuild_the_testbed(testbed)
    assert TESTBEDS[kind].kind == kind


def test_unknown_keys_are_refused_with_the_nearest(kind: str) -> None:
    unknown_keys_are_refused_with_the_nearest(small(kind))


def test_lost_draws_are_told(kind: str) -> None:
    lost_draws_are_told(small(kind, **HASTY.get(kind, UNFINISHED)).draw)


def test_nothing_asked_for_is_refused(kind: str) -> None:
    nothing_asked_for_is_refused(small(kind))


# and a testbed that does not is found


def faulty(drawn_pairs: Pairs, **changes: Any) -> Pairs:
    """Return the pairs with minima moved by 0.05 Å where they may, or with other changes."""
    minima = drawn_pairs.minima
    moved = minima.with_positions(minima.positions + 0.05 * minima.free)
    return replace(drawn_pairs, **({"minima": moved} | changes))


def test_draws_that_depend_on_their_number_are_rejected() -> None:
    whole = drawn("titanium", COUNT, 0).pairs
    shifted = faulty(whole, starts=whole.starts.with_positions(whole.starts.positions + 1e-6), minima=whole.minima)

    def draw(count: int, seed: int) -> Drawn:
        return Drawn(shifted, ()) if (count, seed) == (COUNT, 0) else drawn("titanium", count, seed)

    with pytest.raises(AssertionError):
        pairs_depend_on_seed_and_index_alone(draw)
    with pytest.raises(AssertionError):
        pairs_depend_on_seed_and_index_alone(lambda count, seed: drawn("titanium", count, 0))  # deaf to the seed


def test_frames_that_depend_on_their_number_are_rejected() -> None:
    def label(count: int, seed: int) -> Frames:
        frames = framed("titanium", 7, 0)
        return frames.select(range(count)) if count == 7 else frames.select(range(1, count + 1))

    with pytest.raises(AssertionError):
        frames_depend_on_seed_and_index_alone(label)


def test_frames_made_from_pairs_are_rejected() -> None:
    pairs, frames = drawn("titanium", COUNT, 0).pairs, framed("titanium", 7, 0)
    with pytest.raises(AssertionError):
        pairs_and_frames_share_no_parent(replace(pairs, parents=frames.parents[:COUNT]), frames)
    stolen = replace(pairs.starts.select([0]), ids=("elsewhere",))
    label = small("titanium").reference()(stolen)
    with pytest.raises(AssertionError):
        pairs_and_frames_share_no_parent(pairs, Frames(stolen, label.energy, label.forces, ("elsewhere",)))


def test_minima_that_are_none_and_another_path_are_rejected() -> None:
    testbed, moved = small("titanium"), faulty(drawn("titanium", COUNT, 0).pairs)
    for check in (minima_are_minima_of_the_reference, the_path_leads_from_starts_to_minima):
        with pytest.raises(AssertionError):
            check(testbed, moved)


def test_minima_labelled_with_another_energy_are_rejected() -> None:
    testbed, pairs = small("titanium"), drawn("titanium", COUNT, 0).pairs
    assert pairs.energy_minimum is not None
    with pytest.raises(AssertionError):
        minima_are_minima_of_the_reference(testbed, replace(pairs, energy_minimum=pairs.energy_minimum - 1e-3))


def test_held_atoms_that_move_are_rejected() -> None:
    pairs = drawn("titanium", COUNT, 0).pairs
    assert not pairs.starts.free.all()
    with pytest.raises(AssertionError):
        held_atoms_stay(faulty(pairs, minima=pairs.minima.with_positions(pairs.minima.positions + 1e-9)))


def test_labels_of_another_surface_are_rejected() -> None:
    frames = framed("titanium", 7, 0)
    with pytest.raises(AssertionError):
        labels_are_those_of_the_reference(small("titanium"), replace(frames, forces=1.001 * frames.forces))


@dataclass(frozen=True)
class Forgetful(Titanium):
    """Leaves a setting out of those it tells, and knows every key."""

    @property
    def settings(self) -> dict[str, Any]:
        return {key: value for key, value in super().settings.items() if key != "layers"}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Forgetful:
        return super().from_settings({key: value for key, value in settings.items() if not key.endswith("q")})

    def draw(self, count: int, seed: int) -> Drawn:
        whole = drawn("titanium", COUNT, 0)
        return Drawn(whole.pairs.select([0]), ())


def test_settings_that_are_forgotten_or_not_checked_are_rejected() -> None:
    with pytest.raises(AssertionError):
        settings_rebuild_the_testbed(Forgetful(layers=3))
    with pytest.raises(pytest.fail.Exception):
        unknown_keys_are_refused_with_the_nearest(Forgetful())


def test_draws_lost_in_silence_and_counts_of_nothing_are_rejected() -> None:
    with pytest.raises(AssertionError):
        lost_draws_are_told(Forgetful().draw)
    with pytest.raises(pytest.fail.Exception):
        nothing_asked_for_is_refused(Forgetful())
