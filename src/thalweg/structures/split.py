"""Splitting data by parent, so that nothing made from one parent is on both sides."""

from __future__ import annotations

from collections.abc import Sequence

from thalweg.errors import SettingsError, StructureError
from thalweg.seeds import stream_seed


def split_parents(parents: Sequence[str], held_out: float | int, seed: int) -> tuple[list[int], list[int]]:
    """Choose whole parents to hold out.

    Parents are drawn in an order that depends on the seed and their names alone, so it does not depend on the
    order of the entries and a parent that is added moves no other. They are taken until the number asked for
    is reached; at least one parent stays.

    Args:
        parents: the parent of each entry.
        held_out: how many entries to hold out, at least: a fraction in (0, 1) or a whole number from 1.
        seed: root seed.

    Returns:
        Indices of the entries kept and of those held out, ascending.

    Raises:
        SettingsError: `held_out` is out of range.
        StructureError: there are fewer than two parents.
    """
    total = len(parents)
    whole = isinstance(held_out, int) and not isinstance(held_out, bool)
    if not (1 <= held_out < total if whole else isinstance(held_out, float) and 0 < held_out < 1):
        raise SettingsError(
            f"held_out is {held_out!r}: allowed is a fraction between 0 and 1 or a whole number from 1 to "
            f"{total - 1} (there are {total})"
        )
    names = sorted(set(parents), key=lambda name: (stream_seed(seed, "split by parent", name), name))
    if total == 1:
        raise StructureError("there is only one entry, so none can be held out: add data")
    if len(names) < 2:
        raise StructureError(
            f"all {total} come from one parent, {names[0]!r}, and a parent is never on both sides: "
            "add data of other parents, hold out a file of its own, or split by pair"
        )
    target = held_out if whole else held_out * total
    chosen: set[str] = set()
    held = 0
    for name in names[:-1]:
        if held >= target:
            break
        chosen.add(name)
        held += sum(parent == name for parent in parents)
    return (
        [k for k, parent in enumerate(parents) if parent not in chosen],
        [k for k, parent in enumerate(parents) if parent in chosen],
    )
