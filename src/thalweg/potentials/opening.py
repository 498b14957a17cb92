"""Opening a potential by what a user types: a model file, a LAMMPS file of parameters, a published name, or code."""

from __future__ import annotations

from pathlib import Path

from thalweg.errors import PotentialError, nearest_known
from thalweg.potentials.adapters import ADAPTERS
from thalweg.potentials.adapters.ase_reference import REFERENCE_ONLY, AseReference
from thalweg.potentials.contract import Potential
from thalweg.potentials.files import load_potential
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.potentials.stillinger_weber_entries import PUBLISHED


def open_potential(name: str, *, reference: bool = False) -> Potential:
    """Open a potential.

    Args:
        name: the path of a model file; the path of a `.sw` file; `stillinger-weber:NAME` with a published
            set of parameters; `torch:module:factory?species=Si&cutoff=5` with a torch module; or another
            package's file of weights, `mace:FILE`, by the kinds of `ADAPTERS`, see their `from_words`. To open one
            of these runs code that it names or holds; code that a model file names is run only if it was allowed.
            As a reference also `ase:module:Class?key=value`, an ASE calculator, see `AseReference`.
        reference: whether what only answers and cannot learn will do.

    Raises:
        CheckpointError: a model file that is missing, damaged or of another version.
        PotentialError: a calculator where it is no reference, an unknown published name,
            a file of parameters that cannot be used, or code that fails.
    """
    kind, colon, published = name.partition(":")
    if colon and kind == AseReference.kind:
        if not reference:
            raise PotentialError(f"{name!r} cannot be used here: {REFERENCE_ONLY}")
        return AseReference.from_words(published)
    for adapter in ADAPTERS:
        if colon and kind == adapter.kind:
            return adapter.from_words(published)
    if colon and kind == StillingerWeber.kind and not Path(name).exists():
        if published not in PUBLISHED:
            raise PotentialError(
                f"there are no published {kind} parameters {published!r}; {nearest_known(published, PUBLISHED)}"
            )
        return StillingerWeber.from_published(published)
    if name.endswith(".sw"):
        return StillingerWeber.from_file(name)
    return load_potential(name)
