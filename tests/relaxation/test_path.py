"""`Path`: updates, then a finisher; counts, outcomes and settings."""

from __future__ import annotations

import math

import pytest
import torch
from ase import Atoms
from tests.relaxation.surfaces import Counting, Morse, Poisoned, rattled_argon

from thalweg.errors import SettingsError
from thalweg.relaxation import FIRE, LBFGS, Descent, Outcome, Path, relax
from thalweg.structures.batch import Structures

UPDATE = Descent(alpha=0.02)


def starts() -> Structures:
    near, far, vacancy = rattled_argon(1, 0.01, 1), rattled_argon(1, 0.25, 2), rattled_argon(2, 0.1, 3, True)
    return Structures.from_atoms([near, far, vacancy], ids=["near", "far", "vacancy"])


def test_it_is_the_updates_followed_by_the_finisher() -> None:
    end = Path(UPDATE, steps=10).run(Morse(), starts())
    first = relax(Morse(), starts(), UPDATE, fmax=0.005, max_steps=10)
    second = relax(Morse(), first.structures, LBFGS(), fmax=0.005, max_steps=400)
    torch.testing.assert_close(end.structures.positions, second.structures.positions, rtol=0, atol=1e-12)
    torch.testing.assert_close(end.energy, second.energy, rtol=0, atol=1e-12)
    assert end.steps.tolist() == (first.steps + second.steps).tolist()
    assert end.outcomes == (Outcome.CONVERGED,) * 3
    assert (end.fmax < 0.005).all()


def test_a_structure_that_converges_during_the_updates_stops_there() -> None:
    counting = Counting(Morse())
    end = Path(UPDATE, steps=45).run(counting, starts())
    assert int(end.steps[0]) < 45 < int(end.steps[1])
    assert sum("near" in ids for ids in counting.ids) == int(end.steps[0]) + 1


@pytest.mark.parametrize("finish", [LBFGS(), FIRE()], ids=["lbfgs", "fire"])
def test_skipping_updates_made_elsewhere_ends_at_the_same_minimum(finish: LBFGS | FIRE) -> None:
    path = Path(UPDATE, steps=20, finish=finish)
    whole = path.run(Morse(), starts())
    x = starts()
    for _ in range(8):
        x = x.with_positions(UPDATE.move(x.positions, Morse()(x).forces))
    rest = path.run(Morse(), x, skip=8)
    assert (rest.steps[1:] + 8).tolist() == whole.steps[1:].tolist()
    torch.testing.assert_close(
        rest.structures.select([1, 2]).positions, whole.structures.select([1, 2]).positions, rtol=0, atol=1e-9
    )


def test_skipping_all_updates_leaves_the_finisher() -> None:
    end = Path(UPDATE, steps=5).run(Morse(), starts(), skip=5)
    alone = relax(Morse(), starts(), LBFGS(), fmax=0.005, max_steps=400)
    assert torch.equal(end.structures.positions, alone.structures.positions)
    assert torch.equal(
        Path(UPDATE, steps=0).run(Morse(), starts()).structures.positions, end.structures.positions
    )


def test_the_trace_holds_the_start_and_every_move_of_both_phases() -> None:
    end = Path(UPDATE, steps=4).run(Morse(), starts(), keep_trace=True)
    assert end.trace is not None
    assert len(end.trace) == int(end.steps.max()) + 1
    assert torch.equal(end.trace[0].positions, starts().positions)
    assert torch.equal(end.trace[-1].positions, end.structures.positions)
    third = end.trace[2]
    by_hand = UPDATE.move(third.positions, Morse()(third).forces)
    torch.testing.assert_close(end.trace[3].positions, by_hand, rtol=0, atol=1e-12)


def test_progress_counts_on_through_both_phases() -> None:
    seen: list[tuple[int, int]] = []
    end = Path(UPDATE, steps=4).run(Morse(), starts(), progress=lambda *now: seen.append(now))
    assert seen == [(t, int((end.steps > t).sum())) for t in range(int(end.steps.max()))]


def test_outcomes_of_both_phases_are_told_apart() -> None:
    overlapping = Atoms("Ar2", [[0, 0, 0], [0, 0, 0.1]])
    batch = Structures.concatenate([starts(), Structures.from_atoms(overlapping, ids=["overlap"])])
    potential = Poisoned(Morse(), "far", 7, math.nan)
    end = Path(UPDATE, steps=5, max_steps=3).run(potential, batch)
    assert end.outcomes[1:] == (Outcome.EXPLODED, Outcome.OUT_OF_STEPS, Outcome.TOO_CLOSE)
    assert end.steps[1:].tolist() == [6, 8, 0]
    assert torch.isfinite(end.structures.positions).all()


def test_the_path_is_deterministic() -> None:
    ends = [Path(UPDATE, steps=6).run(Morse(), starts()) for _ in range(2)]
    assert torch.equal(ends[0].structures.positions, ends[1].structures.positions)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps": -1}, "steps is -1"),
        ({"fmax": 0.0}, "fmax is 0.0"),
        ({"fmax": math.nan}, "fmax is nan"),
        ({"max_steps": -2}, "max_steps is -2"),
        ({"max_displacement": 0.0}, "max_displacement is 0.0"),
        ({"min_distance": -0.3}, "min_distance is -0.3"),
    ],
)
def test_settings_outside_their_range_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        Path(UPDATE, **wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("skip", [-1, 6])
def test_skipping_outside_the_path_is_refused(skip: int) -> None:
    with pytest.raises(SettingsError, match=f"skip is {skip}"):
        Path(UPDATE, steps=5).run(Morse(), starts(), skip=skip)
