"""Replay: labelled frames beside relaxations, so that tuning does not forget energies and forces.

    g = g_tune + w g_match,      w = s / (1 − s) · ‖g_tune‖ / ‖g_match‖ at the first update

g_match is the gradient of force matching on a batch of frames, s the share asked for. The two losses have
different units (amu Å² and none), so a weight of one potential says nothing about another: w is measured once, when
both gradients are there, and then held. What is minimised is therefore one sum for the whole run, and the farther
forces drift from their labels the more replay pulls; with a weight measured anew in every update it would
pull no more then than at the start. The weight is kept in checkpoints, so a resumed run has the same.

Called by `tuning` after the gradients of the relaxations were summed over all processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from thalweg.errors import SettingsError
from thalweg.potentials.contract import Potential
from thalweg.structures.pairs import Frames
from thalweg.training.labelled import Labelled, LabelledFrames
from thalweg.training.matching_loss import Draw, FrameLoss
from thalweg.training.optimiser import Optimiser
from thalweg.training.processes import Processes
from thalweg.training.settings import ReplaySettings, TuneSettings
from thalweg.training.stored import StoredFrames, StoredSet

_LEAST = 1e-6
"""Ratio of ‖g_match‖ to ‖g_tune‖ below which the former is taken for rounding: no weight follows from it."""


@dataclass(frozen=True)
class Replayed:
    """What replay added to one update."""

    energy_loss: float
    """Loss of the energies, unweighted."""
    force_loss: float
    """Loss of the forces, unweighted."""
    stress_loss: float | None
    """Loss of the stresses, unweighted; None where they have no weight."""
    loss: float
    """Force-matching loss with the weights of its settings, before w."""
    norm: float
    """‖g_match‖, before w."""
    weight: float | None
    """w; None where gradients were not finite before it could be measured, so that the update is not taken."""


class Replay:
    """The replay of one run."""

    def __init__(
        self, settings: TuneSettings, frames: Frames | StoredSet, potential: Potential, processes: Processes
    ) -> None:
        """Find the neighbours of frames in memory; those of a store are searched batch by batch.

        The weight is open until the first gradients, unless it is set.
        """
        self.settings: ReplaySettings = settings.replay
        self.weight = settings.replay.weight
        self.frames = len(frames)
        self._processes = processes
        dtype = next(potential.parameters()).dtype
        labelled: Labelled
        if isinstance(frames, StoredSet):
            labelled = StoredFrames(frames, potential, processes.device, dtype)
        else:
            labelled = LabelledFrames.find(frames.to(processes.device, dtype), potential)
        draw = Draw(settings.replay.batch, settings.seed, "replay-epoch", rotate=settings.augment == "rotation")
        self._loss = FrameLoss(potential, labelled, settings.replay.matching, processes, draw)

    def add(self, update: int, optimiser: Optimiser) -> Replayed:
        """Add w g_match to the gradients, which hold g_tune of all processes.

        Raises:
            SettingsError: the potential fits the frames to rounding, so that no weight can be measured.
        """
        tuned = [gradient.clone() for gradient in optimiser.gradients()]
        optimiser.clear()
        parts = self._loss.backward(update)
        matched = optimiser.gradients()
        self._processes.sum([*matched, parts])
        norm = _norm(matched)
        if self.weight is None:
            self.weight = self._measured(_norm(tuned), norm)
        with torch.no_grad():
            for ours, theirs in zip(matched, tuned, strict=True):
                ours.mul_(math.nan if self.weight is None else self.weight).add_(theirs)
        energy, force, *stress = parts.tolist()
        return Replayed(
            energy, force, stress[0] if stress else None, float(self._loss.weighted(parts)), norm, self.weight
        )

    def _measured(self, tuned: float, matched: float) -> float | None:
        """Return w from the two lengths, None where they are no measure because one is not finite."""
        if not (math.isfinite(tuned) and math.isfinite(matched)):
            return None
        if matched <= _LEAST * tuned:
            raise SettingsError(
                f"replay.share cannot be kept: the gradient of force matching is {matched:.2g} beside {tuned:.2g} of "
                "the relaxations, so the potential fits these frames to rounding; give replay.weight, e.g. 1"
            )
        share = self.settings.share
        return share / (1 - share) * tuned / matched


def _norm(gradients: list[torch.Tensor]) -> float:
    return float(torch.nn.utils.get_total_norm(gradients))
