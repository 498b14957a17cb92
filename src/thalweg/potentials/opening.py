"""Opening a potential by what a user types: a model file, a LAMMPS file of parameters, or a published name."""

from __future__ import annotations

from pathlib import Path

from thalweg.errors import PotentialError, nearest_known
from thalweg.potentials.contract import Potential
from thalweg.potentials.files import load_potential
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.potentials.stillinger_weber_entries import PUBLISHED


def open_potential(name: str) -> Potential:
    """Open a potential.

    Args:
        name: the path of a model file; the path of a `.sw` file; or `stillinger-weber:NAME` with a published
            set of parameters.

    Raises:
        CheckpointError: a model file that is missing, damaged or of another version.
        PotentialError: an unknown published name, or a file of parameters that cannot be used.
    """
    kind, colon, published = name.partition(":")
    if colon and kind == StillingerWeber.kind and not Path(name).exists():
        if published not in PUBLISHED:
            raise PotentialError(
                f"there are no published {kind} parameters {published!r}; {nearest_known(published, PUBLISHED)}"
            )
        return StillingerWeber.from_published(published)
    if name.endswith(".sw"):
        return StillingerWeber.from_file(name)
    return load_potential(name)
