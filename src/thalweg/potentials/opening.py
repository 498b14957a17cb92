"""Opening a potential by what a user types: a model file, a LAMMPS file of parameters, a published name, or code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from thalweg.errors import PotentialError
from thalweg.potentials.adapters import ADAPTERS
from thalweg.potentials.adapters.ase_reference import REFERENCE_ONLY, AseReference
from thalweg.potentials.contract import Potential
from thalweg.potentials.files import load_potential
from thalweg.potentials.rigid_ion import RigidIon
from thalweg.potentials.second_moment import SecondMoment
from thalweg.potentials.stillinger_weber import StillingerWeber

NAMED: dict[str, Callable[[str], Potential]] = {
    StillingerWeber.kind: StillingerWeber.from_published,
    SecondMoment.kind: SecondMoment.from_set,
    RigidIon.kind: RigidIon.from_published,
}
"""Surfaces with parameters that have a name, opened as `kind:NAME`."""


def open_potential(name: str, *, reference: bool = False) -> Potential:
    """Open a potential.

    Args:
        name: the path of a model file; the path of a `.sw` file; `kind:NAME` with named parameters, by the kinds of
            `NAMED`; `torch:module:factory?species=Si&cutoff=5` with a torch module, or another package's file,
            `metatomic:FILE`, by the kinds of `ADAPTERS`, see their `from_words`. To open one of these runs code
            that it names or holds; code that a model file names is run only if it was allowed. As a reference also
            `ase:module:Class?key=value`, an ASE calculator, see `AseReference`.
        reference: whether what only answers and cannot learn will do.

    Raises:
        CheckpointError: a model file that is missing, damaged or of another version.
        PotentialError: a calculator where it is no reference, an unknown name of parameters,
            a file of parameters that cannot be used, or code that fails.
    """
    kind, colon, words = name.partition(":")
    if colon and kind == AseReference.kind:
        if not reference:
            raise PotentialError(f"{name!r} cannot be used here: {REFERENCE_ONLY}")
        return AseReference.from_words(words)
    for adapter in ADAPTERS:
        if colon and kind == adapter.kind:
            return adapter.from_words(words)
    if colon and kind in NAMED and not Path(name).exists():
        return NAMED[kind](words)
    if name.endswith(".sw"):
        return StillingerWeber.from_file(name)
    return load_potential(name)
