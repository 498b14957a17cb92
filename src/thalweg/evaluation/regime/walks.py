"""The potential's own relaxations, walked once and shared by every coordinate: X_0, X_1, …, X_T and X*."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from thalweg.potentials.contract import Potential
from thalweg.relaxation.loop import Relaxation
from thalweg.relaxation.outcome import Outcome
from thalweg.relaxation.path import Path
from thalweg.seeds import torch_stream
from thalweg.structures.batch import Structures


@dataclass(frozen=True, eq=False)
class Walks:
    """A batch of relaxations with their first T updates."""

    potential: Potential
    path: Path
    states: tuple[Structures, ...]
    """X_0 … X_T; fewer where every structure ended earlier. One that ended stands where it ended."""
    ends: Relaxation
    """X* and how each got there."""

    def __len__(self) -> int:
        return len(self.ends.outcomes)

    def at(self, update: int) -> Structures:
        """Return the batch after so many updates."""
        return self.states[min(update, len(self.states) - 1)]

    def places(self, where: Sequence[tuple[int, int]]) -> Structures:
        """Return structures by (structure, update), in the order given."""
        return Structures.concatenate([self.at(update).select([k]) for k, update in where])

    @property
    def converged(self) -> list[int]:
        """The structures whose relaxation converged."""
        return [k for k, outcome in enumerate(self.ends.outcomes) if outcome is Outcome.CONVERGED]


def walk(
    potential: Potential,
    starts: Structures,
    path: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Walks:
    """Relax the starts along the path and keep where they were after each update.

    Args:
        potential: in evaluation mode, see `evaluating`.
        starts: in the potential's own floating type.
        path: how to relax.
        progress: called with (step, structures still moving).
    """
    ends = path.run(potential, starts, keep_trace=True, progress=progress)
    trace = ends.trace or (starts,)
    return Walks(potential, path, trace[: path.steps + 1], ends)


@contextmanager
def evaluating(potential: nn.Module) -> Iterator[None]:
    """Put a potential in evaluation mode; afterwards each part is as it was."""
    modes = {module: module.training for module in potential.modules()}
    try:
        potential.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def perturbed(
    structures: Structures, deviation: float, copies: int, *, seed: int, purpose: str, first_as_is: bool = False
) -> Structures:
    """Return copies of each structure, every free coordinate moved by a normal deviate of its own.

    Args:
        structures: what is copied.
        deviation: standard deviation, Å.
        copies: how many of each; those of one structure come one after the other.
        seed: root of the streams, which are keyed by id and copy.
        purpose: name of the streams.
        first_as_is: leave the first copy of each where it is.
    """
    parts = []
    for k, name in enumerate(structures.ids):
        one = structures.select([k])
        for copy in range(copies):
            if copy == 0 and first_as_is:
                parts.append(one)
                continue
            noise = torch.randn(
                one.positions.shape, generator=torch_stream(seed, purpose, f"{name}/{copy}"), dtype=torch.float64
            ).to(one.positions)
            parts.append(one.with_positions(one.positions + deviation * noise * one.free))
    return Structures.concatenate(parts)


def in_chunks(structures: Structures, max_atoms: int) -> Iterator[list[int]]:
    """Yield consecutive places with at most `max_atoms` atoms together, at least one place each."""
    chosen: list[int] = []
    atoms = 0
    for k, count in enumerate(structures.counts.tolist()):
        if chosen and atoms + count > max_atoms:
            yield chosen
            chosen, atoms = [], 0
        chosen.append(k)
        atoms += count
    if chosen:
        yield chosen
