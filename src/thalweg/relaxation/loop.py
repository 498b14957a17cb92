"""The one relaxation loop: batched, without a graph, each structure stopping on its own.

Finished structures leave the batch and cost nothing more. `fmax` is checked before each step, as in ASE, so a
structure that starts relaxed takes no step; `steps` counts moves and `steps + 1` evaluations were made of it.
Verdicts of a whole step reach the host together, so a step waits for the device once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thalweg.errors import SettingsError
from thalweg.potentials.contract import Potential
from thalweg.relaxation.coordinates import FreeCoordinates, Positions
from thalweg.relaxation.outcome import Outcome
from thalweg.relaxation.relaxer import Relaxer, State, largest_norm
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

_GOING = -1


@dataclass(frozen=True, eq=False)
class Relaxation:
    """The end of a batch of relaxations."""

    structures: Structures
    """Where each ended; finite always: an exploded one stands where it last was finite and within bounds."""
    outcomes: tuple[Outcome, ...]
    """How each ended; CONVERGED was evaluated at the returned positions."""
    steps: Int[Tensor, " structures"]
    """Moves made."""
    fmax: Float[Tensor, " structures"]
    """Largest force at the returned coordinates, eV/Å; inf or NaN only where exploded or too close."""
    energy: Float[Tensor, " structures"]
    """Energy at the returned coordinates, eV; inf or NaN only where exploded or too close."""
    trace: tuple[Structures, ...] | None = None
    """The whole batch after each move, the start first; only when asked for."""


@torch.no_grad()
def relax(
    potential: Potential,
    structures: Structures,
    relaxer: Relaxer,
    *,
    fmax: float,
    max_steps: int,
    coordinates: FreeCoordinates | None = None,
    reference: Structures | None = None,
    max_displacement: float = 20.0,
    min_distance: float = 0.3,
    keep_trace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Relaxation:
    """Relax every structure until its largest force is below `fmax`.

    A structure ends as too close when a pair is shorter than `min_distance` (periodic images included), as
    exploded when energy or a force is not finite or its next move would be, or would leave the bound, as
    converged when its largest force is below `fmax`, and as out of steps otherwise; the first that applies.

    Args:
        potential: what gives the forces.
        structures: the starts.
        relaxer: how to step.
        fmax: largest norm of a force that counts as relaxed, eV/Å.
        max_steps: most moves of a structure.
        coordinates: what moves; atoms in a fixed cell by default.
        reference: what strain is measured from, where the cell moves; the starts by default.
        max_displacement: an atom that moved farther than this from its start (Å) has exploded.
        min_distance: atoms closer than this (Å) are too close; 0 turns the check off.
        keep_trace: record the batch after each move.
        progress: called with (step, structures still moving) before each move.

    Raises:
        SettingsError: a limit outside its range, or `min_distance` beyond the potential's cutoff.
    """
    _check_limits(potential, fmax, max_steps, max_displacement, min_distance)
    coordinates = Positions() if coordinates is None else coordinates
    structures = structures.detach()
    rows = coordinates.rows(structures, reference)
    reference = structures if reference is None else reference.detach()
    batch = _Moving.begin(reference, rows, coordinates, relaxer)
    ends = _Ends.begin(reference, rows)
    trace = [structures]
    step = 0
    while len(batch.structures):
        placed = coordinates.place(batch.structures, batch.rows)
        edges = potential.edges(placed) if min_distance > 0 else None
        energy, forces = coordinates.evaluate(potential, batch.structures, batch.rows, edges=edges)
        largest = largest_norm(forces, batch.owner, len(batch.structures))
        close = _overlapping(placed, edges, min_distance)
        following, state = relaxer.step(batch.state, batch.rows, forces, batch.owner)
        lost = coordinates.escaped(batch.structures, batch.origin, following, max_displacement)
        verdict = _judge(energy, largest, close, lost, fmax, last=step == max_steps).cpu()
        going = verdict == _GOING
        if not bool(going.all()):
            ends.record(batch, ~going, verdict, step, largest, energy)
        batch = batch.advance(following, state, going)
        if len(batch.structures) == 0:
            break
        if progress is not None:
            progress(step, len(batch.structures))
        step += 1
        if keep_trace:
            ends.rows[batch.row_index] = batch.rows
            trace.append(coordinates.place(reference, ends.rows.clone()))
    return ends.result(coordinates.place(reference, ends.rows), tuple(trace) if keep_trace else None)


@dataclass(frozen=True, eq=False)
class _Moving:
    """The structures that still move, compacted, and where their rows lie in the whole batch."""

    structures: Structures
    """The reference: rows say where they are."""
    rows: Float[Tensor, "rows 3"]
    origin: Float[Tensor, "rows 3"]
    owner: Int[Tensor, " rows"]
    state: State
    index: Int[Tensor, " structures"]
    row_index: Int[Tensor, " rows"]

    @staticmethod
    def begin(
        structures: Structures, rows: Float[Tensor, "rows 3"], coordinates: FreeCoordinates, relaxer: Relaxer
    ) -> _Moving:
        owner = coordinates.owner(structures)
        return _Moving(
            structures=structures,
            rows=rows,
            origin=rows,
            owner=owner,
            state=relaxer.start(rows, owner, len(structures)),
            index=torch.arange(len(structures), device=rows.device),
            row_index=torch.arange(len(rows), device=rows.device),
        )

    def advance(self, rows: Float[Tensor, "rows 3"], state: State, going: Bool[Tensor, " structures"]) -> _Moving:
        """Return what goes on, at the next rows; `going` lies on the host."""
        if bool(going.all()):
            return _Moving(self.structures, rows, self.origin, self.owner, state, self.index, self.row_index)
        stay = going.to(rows.device)
        kept = stay[self.owner]
        renumber = torch.cumsum(stay, 0) - 1
        return _Moving(
            structures=self.structures.select(going.nonzero().squeeze(1)),
            rows=rows[kept],
            origin=self.origin[kept],
            owner=renumber[self.owner[kept]],
            state=state.keep(kept, stay),
            index=self.index[stay],
            row_index=self.row_index[kept],
        )


@dataclass(frozen=True, eq=False)
class _Ends:
    """What is recorded of each structure of the whole batch when it finishes; filled in place."""

    rows: Float[Tensor, "rows 3"]
    outcomes: Int[Tensor, " structures"]
    steps: Int[Tensor, " structures"]
    fmax: Float[Tensor, " structures"]
    energy: Float[Tensor, " structures"]

    @staticmethod
    def begin(structures: Structures, rows: Float[Tensor, "rows 3"]) -> _Ends:
        n = len(structures)
        steps = torch.zeros(n, dtype=torch.long, device=rows.device)
        outcomes = torch.full((n,), _GOING)  # on the host
        return _Ends(rows.clone(), outcomes, steps, rows.new_zeros(n), rows.new_zeros(n))

    def record(
        self,
        batch: _Moving,
        done: Bool[Tensor, " moving"],
        verdict: Int[Tensor, " moving"],
        step: int,
        fmax: Float[Tensor, " moving"],
        energy: Float[Tensor, " moving"],
    ) -> None:
        """Write down what finished at the present rows; `done` and `verdict` lie on the host."""
        self.outcomes[batch.index.cpu()[done]] = verdict[done]
        done = done.to(batch.rows.device)
        where, rows = batch.index[done], done[batch.owner]
        self.steps[where] = step
        self.fmax[where] = fmax[done]
        self.energy[where] = energy[done].to(self.energy.dtype)
        self.rows[batch.row_index[rows]] = batch.rows[rows]

    def result(self, structures: Structures, trace: tuple[Structures, ...] | None) -> Relaxation:
        """Return the record as what the caller gets."""
        outcomes = tuple(Outcome(value) for value in self.outcomes.tolist())
        return Relaxation(structures, outcomes, self.steps, self.fmax, self.energy, trace)


def _judge(
    energy: Float[Tensor, " structures"],
    largest: Float[Tensor, " structures"],
    close: Bool[Tensor, " structures"],
    lost: Bool[Tensor, " structures"],
    fmax: float,
    *,
    last: bool,
) -> Int[Tensor, " structures"]:
    """Return the outcome of each structure, or −1 for those that go on."""
    rest = Outcome.OUT_OF_STEPS if last else _GOING
    verdict = torch.full_like(largest, rest, dtype=torch.long)
    if not last:
        verdict[lost] = Outcome.EXPLODED
    verdict[largest < fmax] = Outcome.CONVERGED
    verdict[~(torch.isfinite(largest) & torch.isfinite(energy))] = Outcome.EXPLODED
    verdict[close] = Outcome.TOO_CLOSE
    return verdict


def _overlapping(structures: Structures, edges: Edges | None, min_distance: float) -> Bool[Tensor, " structures"]:
    """Return which structures have a pair of atoms closer than `min_distance`."""
    count = torch.zeros(len(structures), dtype=torch.long, device=structures.device)
    if edges is None:
        return count > 0
    short = edges.vectors(structures).square().sum(dim=1) < min_distance**2
    return count.index_add(0, structures.owner[edges.centre], short.long()) > 0


def _check_limits(
    potential: Potential, fmax: float, max_steps: int, max_displacement: float, min_distance: float
) -> None:
    if not (fmax > 0 and math.isfinite(fmax)):
        raise SettingsError(f"fmax is {fmax}: allowed is a force above 0 eV/Å, e.g. 0.005")
    if max_steps < 0:
        raise SettingsError(f"max_steps is {max_steps}: allowed is 0 or more moves, e.g. 400")
    if not max_displacement > 0:
        raise SettingsError(f"max_displacement is {max_displacement}: allowed is a length above 0 Å, e.g. 20")
    if not 0 <= min_distance <= potential.cutoff:
        raise SettingsError(
            f"min_distance is {min_distance}: allowed is 0 Å (no check) up to the cutoff of the potential, "
            f"{potential.cutoff} Å, because shorter pairs are looked for in its neighbour list"
        )
