"""What every relaxer in `RELAXERS` must keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian
from tests.relaxation.surfaces import Bowl, Morse, rattled_argon

from thalweg.relaxation import RELAXERS, Descent, Outcome, Relaxer, State, relax
from thalweg.relaxation.relaxer import largest_norm
from thalweg.structures.batch import Structures


def build(kind: str) -> Relaxer:
    return Descent(alpha=0.05) if kind == "descent" else RELAXERS[kind]()


relaxers = pytest.mark.parametrize("relaxer", [build(kind) for kind in RELAXERS], ids=list(RELAXERS))


def bowl_starts() -> Structures:
    """Return three structures of different size, some atoms at rest already, for `Bowl`."""
    generator = torch.Generator().manual_seed(7)
    frames = []
    for numbers in ([1, 5], [2, 3, 9], [14]):
        positions = torch.randn((len(numbers), 3), generator=generator).double()
        positions[:, 0] += 3.0 * torch.tensor(numbers)
        frames.append(Atoms(numbers, positions.numpy()))
    return Structures.from_atoms(frames)


def crystal_starts() -> Structures:
    """Return structures of different size that finish after different numbers of steps."""
    easy, hard, vacancy = rattled_argon(1, 0.02, 1), rattled_argon(1, 0.25, 2), rattled_argon(2, 0.1, 3, True)
    return Structures.from_atoms([easy, hard, vacancy], ids=["easy", "hard", "vacancy"])


def assert_alone_as_in_batch(relaxer: Relaxer) -> None:
    """Fail unless every structure ends in a batch where it ends alone, after as many steps."""
    starts = crystal_starts()
    together = relax(Morse(), starts, relaxer, fmax=0.02, max_steps=500)
    assert len(set(together.steps.tolist())) == 3, "the structures must finish one by one"
    for k in range(len(starts)):
        alone = relax(Morse(), starts.select([k]), relaxer, fmax=0.02, max_steps=500)
        assert alone.outcomes[0] is together.outcomes[k]
        assert int(alone.steps[0]) == int(together.steps[k])
        part = together.structures.select([k])
        torch.testing.assert_close(part.positions, alone.structures.positions, rtol=0, atol=1e-9)


@relaxers
def test_reaches_the_closed_form_minimum_of_a_bowl(relaxer: Relaxer) -> None:
    starts = bowl_starts()
    end = relax(Bowl(), starts, relaxer, fmax=1e-6, max_steps=2000)
    assert end.outcomes == (Outcome.CONVERGED,) * 3
    assert (end.fmax < 1e-6).all()
    softest = 2.0  # stiffness of the softest atom, eV/Å²: an error of the position costs at least this force
    away = end.structures.positions - Bowl().centres(starts)
    assert away.norm(dim=1).max() < 1e-6 / softest
    assert end.energy.abs().max() < 1e-11


@relaxers
def test_converges_on_a_crystal_with_a_vacancy(relaxer: Relaxer) -> None:
    end = relax(Morse(), crystal_starts(), relaxer, fmax=0.005, max_steps=2000)
    assert end.outcomes == (Outcome.CONVERGED,) * 3
    forces = Morse()(end.structures).forces
    assert largest_norm(forces, end.structures.owner, 3).max() < 0.005


@relaxers
def test_no_atom_moves_farther_than_allowed_and_some_atom_is_held_back(relaxer: Relaxer) -> None:
    starts = Structures.from_atoms([rattled_argon(1, 0.4, 5), rattled_argon(1, 0.3, 6)])
    end = relax(Morse(), starts, relaxer, fmax=1e-3, max_steps=10, keep_trace=True)
    assert end.trace is not None
    moves = torch.stack([b.positions - a.positions for a, b in zip(end.trace, end.trace[1:], strict=False)])
    assert moves.norm(dim=2).max() <= 0.2 * (1 + 1e-12)
    per_structure = moves.square().sum(dim=2).unflatten(1, (2, 4)).sum(dim=2).sqrt()
    held = per_structure if relaxer.kind == "fire" else moves.norm(dim=2)
    assert held.max() == pytest.approx(0.2, abs=1e-12)


@relaxers
def test_a_structure_ends_in_a_batch_where_it_ends_alone(relaxer: Relaxer) -> None:
    assert_alone_as_in_batch(relaxer)


@relaxers
def test_what_is_fixed_does_not_move_at_all(relaxer: Relaxer) -> None:
    frame = rattled_argon(2, 0.1, 4)
    frame.set_constraint([FixAtoms([0, 5]), FixCartesian([7, 9], mask=(True, False, True))])
    starts = Structures.from_atoms([frame, rattled_argon(1, 0.1, 5)])
    end = relax(Morse(), starts, relaxer, fmax=0.01, max_steps=500)
    assert end.outcomes == (Outcome.CONVERGED,) * 2
    assert torch.equal(end.structures.positions[~starts.free], starts.positions[~starts.free])
    moved = (end.structures.positions - starts.positions).abs()
    assert moved[starts.free].min() > 0


@relaxers
def test_a_state_keeps_exactly_the_memory_of_what_goes_on(relaxer: Relaxer) -> None:
    starts = crystal_starts()
    rows, owner = starts.positions, starts.owner
    state = relaxer.start(rows, owner, 3)
    for _ in range(4):
        rows, state = relaxer.step(state, rows, Morse()(starts.with_positions(rows)).forces, owner)
    stay = torch.tensor([False, True, True])
    kept = stay[owner]
    forces = Morse()(starts.with_positions(rows)).forces
    whole, _ = relaxer.step(state, rows, forces, owner)
    part, _ = relaxer.step(state.keep(kept, stay), rows[kept], forces[kept], owner[kept] - 1)
    torch.testing.assert_close(part, whole[kept], rtol=0, atol=1e-14)


@relaxers
def test_one_precision_is_kept_and_converges(relaxer: Relaxer) -> None:
    starts = crystal_starts().to(dtype=torch.float32)
    end = relax(Morse(), starts, relaxer, fmax=0.02, max_steps=500)
    assert end.structures.dtype == end.fmax.dtype == end.energy.dtype == torch.float32
    assert end.outcomes == (Outcome.CONVERGED,) * 3


@relaxers
def test_the_same_call_gives_the_same_bits(relaxer: Relaxer) -> None:
    ends = [relax(Morse(), crystal_starts(), relaxer, fmax=0.01, max_steps=60) for _ in range(2)]
    assert torch.equal(ends[0].structures.positions, ends[1].structures.positions)


@dataclass(frozen=True)
class Mixing(Relaxer):
    """Broken on purpose: one step length for the whole batch, from the largest force in it."""

    kind: ClassVar[str] = "mixing"

    def start(self, rows: torch.Tensor, owner: torch.Tensor, structures: int) -> State:
        return State()

    def step(
        self, state: State, rows: torch.Tensor, forces: torch.Tensor, owner: torch.Tensor
    ) -> tuple[torch.Tensor, State]:
        return rows + forces * min(0.05, 0.2 / float(forces.norm(dim=1).max())), state


def test_the_check_of_independence_rejects_a_relaxer_that_mixes_structures() -> None:
    with pytest.raises(AssertionError):
        assert_alone_as_in_batch(Mixing())
