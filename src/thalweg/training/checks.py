"""Checks of data against settings and potential, made before any work starts: each fault is one line."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from thalweg.errors import SettingsError, StructureError
from thalweg.potentials.contract import Potential
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Frames, Pairs, refuse_strained
from thalweg.structures.rotation import refuse_partly_fixed
from thalweg.training.settings import MatchingSettings, TrainSettings, TuneSettings
from thalweg.training.stored import StoredSet


def check_tuning(settings: TuneSettings, potential: Potential, pairs: Pairs, validation: Pairs | None) -> None:
    """Refuse pairs that cannot be tuned on.

    Raises:
        StructureError: no pairs, positions that are not finite, a parent on both sides, atoms fixed in part where
            structures are to be turned, or a pair whose two cells differ while the path keeps the cell.
        PotentialError: an element that the potential never saw.
        SettingsError: a batch larger than the number of pairs, or no parameters to learn.
    """
    _check_sets("pairs", pairs, validation, settings.optimiser.batch)
    for part in (pairs, validation):
        if part is not None:
            potential.check(part.starts)
            for what, structures in (("start", part.starts), ("minimum", part.minima)):
                _check_finite(structures.positions, structures, f"the {what}")
            if not settings.relaxation.coordinates.moves_cell:
                refuse_strained(part)
    if settings.augment == "rotation":
        refuse_partly_fixed(pairs.starts)
        refuse_partly_fixed(pairs.minima)
    if not any(p.requires_grad for p in potential.parameters()):
        raise SettingsError(f"the {potential.kind} potential has no parameters that can be learnt: give another")


def check_frames(settings: TrainSettings, frames: Frames, validation: Frames | None) -> None:
    """Refuse frames that cannot be matched.

    Raises:
        StructureError: no frames, labels that are not finite or missing, a parent on both sides, or atoms fixed in part
            where structures are to be turned.
        SettingsError: a batch larger than the number of frames, or weights that are all zero.
    """
    _check_sets("frames", frames, validation, settings.optimiser.batch)
    for part in (frames, validation):
        if part is not None:
            _check_labels(part)
            _check_stress(part, settings.matching, "matching")
    if settings.augment == "rotation":
        refuse_partly_fixed(frames.structures)
    _check_weights(settings.matching, "matching")


def check_replay(settings: TuneSettings, potential: Potential, frames: Frames | StoredSet | None) -> None:
    """Refuse frames that cannot be replayed, frames without a share and a share without frames.

    Raises:
        StructureError: no frames, labels that are not finite or missing, or atoms fixed in part where structures are to
            be turned.
        PotentialError: an element that the potential never saw.
        SettingsError: only one of frames and share (or weight), a batch larger than the number of frames, or weights
            that are all zero.
    """
    replay = settings.replay
    if frames is None:
        if not replay.on:
            return
        told = f"share is {replay.share}" if replay.weight is None else f"weight is {replay.weight}"
        raise SettingsError(f"replay.{told}, but there are no frames to replay: give labelled frames (--replay FILE)")
    if not replay.on:
        raise SettingsError(
            "there are frames to replay, but replay.share is 0 and replay.weight null: give one, e.g. replay.share=0.3"
        )
    if len(frames) == 0:
        raise StructureError("there are no frames to replay in the set given: give at least one")
    if replay.batch > len(frames):
        raise SettingsError(
            f"replay.batch is {replay.batch}, but there are {len(frames)} frames to replay: allowed is 1 to "
            f"{len(frames)}"
        )
    for part in _parts(frames):
        potential.check(part.structures)
        _check_labels(part)
        if settings.augment == "rotation":
            refuse_partly_fixed(part.structures)
    _check_stress(frames, replay.matching, "replay.matching")
    _check_weights(replay.matching, "replay.matching")


def _parts(frames: Frames | StoredSet) -> Iterable[Frames]:
    return frames.parts() if isinstance(frames, StoredSet) else (frames,)


def _check_labels(frames: Frames) -> None:
    _check_finite(frames.structures.positions, frames.structures, "the frame")
    _check_finite(frames.forces, frames.structures, "the force label")
    bad = ~torch.isfinite(frames.energy)
    if bool(bad.any()):
        k = int(bad.nonzero()[0])
        raise StructureError(
            f"frame {frames.ids[k]!r}: its energy is {float(frames.energy[k])}: leave it out or mend it"
        )


def _check_stress(frames: Frames | StoredSet, matching: MatchingSettings, where: str) -> None:
    if matching.stress_weight > 0 and not any(_has_stress(part) for part in _parts(frames)):
        raise StructureError(
            f"{where}.stress_weight is {matching.stress_weight}, but none of {len(frames)} frames has a stress: label "
            "stresses, or set it to 0"
        )


def _has_stress(frames: Frames) -> bool:
    return frames.stress is not None and not bool(frames.stress.isnan().flatten(1).any(1).all())


def check_weights(settings: TrainSettings, sample: Frames) -> None:
    """Refuse weights that are all zero, and a weight of stresses where no frame of a sample has one.

    Raises:
        SettingsError: the former.
        StructureError: the latter.
    """
    _check_stress(sample, settings.matching, "matching")
    _check_weights(settings.matching, "matching")


def _check_weights(matching: MatchingSettings, where: str) -> None:
    if matching.energy_weight == 0 and matching.force_weight == 0 and matching.stress_weight == 0:
        raise SettingsError(
            f"{where}.energy_weight and {where}.force_weight are both 0: nothing would be learnt; raise one"
        )


def _check_sets(what: str, data: Pairs | Frames, validation: Pairs | Frames | None, batch: int) -> None:
    if len(data) == 0:
        raise StructureError(f"there are no training {what}: give at least one")
    if validation is not None and len(validation) == 0:
        raise StructureError(f"there are no validation {what}: give at least one, or none at all (null)")
    if batch > len(data):
        raise SettingsError(
            f"optimiser.batch is {batch}, but there are {len(data)} training {what}: allowed is 1 to {len(data)}"
        )
    if validation is not None:
        shared = sorted(set(data.parents) & set(validation.parents))
        if shared:
            raise StructureError(
                f"parent {shared[0]!r} is in training and in validation {what} ({len(shared)} shared in all): "
                "hold out whole parents, e.g. with thalweg data split"
            )


def _check_finite(values: Tensor, structures: Structures, what: str) -> None:
    bad = ~torch.isfinite(values).all(dim=1)
    if bool(bad.any()):
        atom = int(bad.nonzero()[0])
        k = int(structures.owner[atom])
        raise StructureError(
            f"structure {structures.ids[k]!r}: {what} of atom {atom - structures.offsets[k]} is "
            f"{values[atom].tolist()}, not finite: leave the structure out or mend it"
        )
