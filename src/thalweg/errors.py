"""The exceptions a user can meet: each message says what, where, what is allowed and what to do next.

Only the command line turns them into one line on standard error and exit status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ThalwegError(Exception):
    """Something the user can mend: the message is one line, ready to print."""


class StructureError(ThalwegError):
    """A structure or a file of structures cannot be used (NaN position, zero volume, atom counts differ)."""


class PotentialError(ThalwegError):
    """A potential cannot be built or cannot describe a structure (an element it never saw)."""


class SettingsError(ThalwegError):
    """A setting is unknown, has a wrong type or lies outside its range."""


class CheckpointError(ThalwegError):
    """A checkpoint is missing, corrupt or of another version."""


class RunFolderError(ThalwegError):
    """A run folder cannot be read: a file is missing or does not keep the schema."""


class OutputError(ThalwegError):
    """A result cannot be written (read-only folder, full disk)."""


def nearest_known(word: str, known: Iterable[str]) -> str:
    """Return '; did you mean …?' for the nearest known word, or the list of known words if none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
