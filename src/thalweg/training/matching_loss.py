"""The loss of force matching on batches of labelled frames, each process its share of a batch.

    L = w_E mean_s p(ΔE_s / (N_s e)) + w_F mean_i p(|ΔF_i| / f) + w_S mean_s p(|Δσ_s| / g),      p(x) = sqrt(1 + x²) − 1

p is the pseudo-Huber loss (square near zero, linear beyond the unit e or f); it takes the length of ΔF, so it
does not depend on the orientation. Frames come in a new order every epoch, keyed by (seed, epoch); neighbour
lists are found once. Called by force matching, where it is all of the loss, and by tuning, where it is replayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.errors import PotentialError
from thalweg.potentials.contract import Potential
from thalweg.seeds import torch_stream
from thalweg.structures.neighbours import Edges
from thalweg.structures.pairs import Frames
from thalweg.structures.rotation import random_rotations, rotate_frames
from thalweg.structures.store import AtomBatches
from thalweg.training.labelled import Labelled
from thalweg.training.processes import Processes
from thalweg.training.settings import MatchingSettings


@dataclass(frozen=True)
class Draw:
    """How batches are drawn."""

    batch: int
    """Frames in a batch, over all processes."""
    seed: int
    """Root seed."""
    purpose: str
    """Name of the stream of epochs."""
    rotate: bool
    """Whether every frame is turned at random, anew in every update."""
    series: AtomBatches | None = None
    """Batches with a cap on their atoms; None for batches of a number of frames."""


@dataclass(frozen=True, eq=False)
class FrameLoss:
    """The force-matching loss of a potential on the batches of a set of frames."""

    potential: Potential
    """What is fitted."""
    labelled: Labelled
    """Frames and their edges, on the device and in the floating type of the potential."""
    settings: MatchingSettings
    """Weights and units."""
    processes: Processes
    """Who shares a batch."""
    draw: Draw
    """How batches are drawn."""

    def backward(self, update: int) -> Float[Tensor, " kinds"]:
        """Add the gradient of this process's share of a batch; return its losses as `parts`, unweighted."""
        chosen = self.batch(update)
        atoms = self.labelled.atoms(chosen)
        parts = self.parts(self.processes.share(chosen), len(chosen), atoms, update)
        loss = self.weighted(parts)
        if loss.requires_grad:
            loss.backward()
        return parts.detach()

    def weighted(self, parts: Float[Tensor, " kinds"]) -> Float[Tensor, ""]:
        """Return the loss from its parts."""
        loss: Tensor = self.settings.energy_weight * parts[0] + self.settings.force_weight * parts[1]
        return loss + self.settings.stress_weight * parts[2] if self._stress else loss

    @property
    def _stress(self) -> bool:
        return self.settings.stress_weight > 0

    def parts(self, chosen: list[int], frames: int, atoms: int, update: int) -> Float[Tensor, " kinds"]:
        """Return energy and force loss of some frames, divided by the frames and atoms of the whole batch.

        Where stresses have a weight, their loss is third; frames without one add nothing and count.
        """
        if not chosen:
            return next(self.potential.parameters()).new_zeros(3 if self._stress else 2)
        batch, edges = self.labelled.select(chosen)
        self.labelled.expect(self.processes.share(self.batch(update + 1)))
        if self.draw.rotate:  # edges hold lattice translations, which do not turn
            batch = rotate_frames(batch, random_rotations(self.draw.seed, f"augment {update}", batch.ids))
        energy, force, stress = label_errors(self.potential, batch, edges, graph=True, stress=self._stress)
        parts = [
            pseudo_huber(energy / self.settings.energy_scale).sum() / frames,
            pseudo_huber(force / self.settings.force_scale).sum() / atoms,
        ]
        if stress is not None:
            parts.append(pseudo_huber(stress / self.settings.stress_scale).sum() / frames)
        return torch.stack(parts)

    def batch(self, update: int) -> list[int]:
        """Return frames number u B to (u + 1) B of the endless series of shuffled epochs, or batch u of a series."""
        if self.draw.series is not None:
            epoch, position = self.draw.series.place(update)
            return self.draw.series.epoch(epoch)[position].tolist()
        total, size = len(self.labelled), self.draw.batch
        places = range(update * size, (update + 1) * size)
        return [_order(self.draw.seed, self.draw.purpose, p // total, total)[p % total] for p in places]


@lru_cache(maxsize=4)
def _order(seed: int, purpose: str, epoch: int, total: int) -> tuple[int, ...]:
    stream = torch_stream(seed, purpose, epoch)
    return tuple(torch.randperm(total, generator=stream).tolist())


def label_errors(
    potential: Potential, frames: Frames, edges: Edges, *, graph: bool, stress: bool = False
) -> tuple[Float[Tensor, " frames"], Float[Tensor, "atoms 3"], Float[Tensor, "labelled 9"] | None]:
    """Return errors of the energy per atom (eV), of the forces (eV/Å) and, where asked for, of known stresses (eV/Å³).

    Raises:
        PotentialError: stress is asked for and the potential gives none.
    """
    prediction = potential(frames.structures, edges=edges, graph=graph, stress=stress)
    per_atom = (prediction.energy - frames.energy) / frames.structures.counts
    if not stress:
        return per_atom, prediction.forces - frames.forces, None
    if prediction.stress is None:
        raise PotentialError(
            f"the {potential.kind} potential gives no stress to fit: set matching.stress_weight=0 or take another kind"
        )
    if frames.stress is None:  # of all frames here
        return per_atom, prediction.forces - frames.forces, prediction.stress.new_zeros((0, 9))
    known = ~frames.stress.isnan().flatten(1).any(dim=1)
    error = (prediction.stress[known] - frames.stress[known]).flatten(1)
    return per_atom, prediction.forces - frames.forces, error


def pseudo_huber(error: Float[Tensor, "n *components"]) -> Float[Tensor, " n"]:
    """Return sqrt(1 + |x|²) − 1 of each row."""
    square = error.square() if error.dim() == 1 else error.square().sum(dim=1)
    return (1 + square).sqrt() - 1
