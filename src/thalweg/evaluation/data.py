"""The data of a comparison, drawn from a testbed: training pairs, held-out pairs and frames, which share no parent.

Also the labels that training pairs cost anyway, for a control that spends them on ordinary fitting. Each file is made
once and kept. Called by the demo and by studies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from thalweg.potentials.contract import Potential
from thalweg.structures.batch import Structures
from thalweg.structures.extended_xyz import write_frames, write_pairs
from thalweg.structures.pairs import Frames, Pairs
from thalweg.testbeds.testbed import Testbed

PAIRS, HELD_OUT, FRAMES = "pairs.extxyz", "held-out.extxyz", "frames.extxyz"
UNSEEN = "frames-held-out.extxyz"

_AT_ONCE = 50  # pairs relaxed together: their whole trace is kept


@dataclass(frozen=True)
class Sizes:
    """How many of each."""

    frames: int
    """Labelled frames."""
    pairs: int
    """Training pairs."""
    held_out: int
    """Held-out pairs."""
    frames_held_out: int
    """Labelled frames that nothing learns from."""


def make_data(folder: Path, testbed: Testbed, sizes: Sizes, seed: int, *, say: Callable[[str], None]) -> None:
    """Write pairs, held-out pairs, frames and held-out frames into a folder, where they are not there yet.

    Each is drawn from a stream of its own below `seed`.
    """
    for name, what, count, stream in (
        (PAIRS, "training", sizes.pairs, 2),
        (HELD_OUT, "held-out", sizes.held_out, 1),
    ):
        if not (folder / name).exists():
            say(f"making {count} {what} pairs on the {testbed.kind} reference surface")
            write_pairs(folder / name, testbed.make(count, 10 * seed + stream))
    if not (folder / FRAMES).exists():
        say(f"labelling {sizes.frames} frames")
        write_frames(folder / FRAMES, testbed.frames(sizes.frames, 10 * seed))
    if not (folder / UNSEEN).exists():
        write_frames(folder / UNSEEN, testbed.frames(sizes.frames_held_out, 10 * seed + 3))


def labels_of(testbed: Testbed, pairs: Pairs, labels: Literal["ends", "path"], every: int = 1) -> Frames:
    """Return frames with the reference labels that pairs cost to make.

    Args:
        testbed: whose reference relaxed the pairs.
        pairs: training pairs.
        labels: `ends`: start and minimum of each pair; `path`: what the reference computed on the way as well, found
            by relaxing the starts again.
        every: of the frames on the way every n-th, counted from the start; the last is always taken.
    """
    reference = testbed.reference()
    if labels == "ends":
        starts, ends = ([f"{name}-{end}" for name in pairs.ids] for end in ("start", "minimum"))
        return Frames.concatenate(
            [
                _labelled(reference, pairs.starts, starts, pairs.parents),
                _labelled(reference, pairs.minima, ends, pairs.parents),
            ]
        )
    parts = []
    for first in range(0, len(pairs), _AT_ONCE):
        part = pairs.select(range(first, min(first + _AT_ONCE, len(pairs))))
        found = testbed.path().run(reference, part.starts, keep_trace=True)
        for step, structures in enumerate(found.trace or (part.starts,)):
            moves = found.steps.tolist()
            inside = [k for k, last in enumerate(moves) if step == last or (step < last and step % every == 0)]
            if inside:
                names = [f"{part.ids[k]}-step-{step:04d}" for k in inside]
                parents = tuple(part.parents[k] for k in inside)
                parts.append(_labelled(reference, structures.select(inside), names, parents))
    return Frames.concatenate(parts)


def _labelled(reference: Potential, structures: Structures, ids: list[str], parents: tuple[str, ...]) -> Frames:
    label = reference(structures)
    return Frames(replace(structures, ids=tuple(ids)), label.energy.detach(), label.forces.detach(), parents)
