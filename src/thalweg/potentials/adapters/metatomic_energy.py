"""A metatomic model file as a potential of ours: its energy on our edges, forces and stress by our contract.

The file is TorchScript: to open it is to run it. What a user types (`metatomic:FILE`) is run because they typed it; a
file that settings or a model file name is run only if `FILE:metatomic` was allowed (see `adapters.code`), and only if
its content is still that of the day it was named. Neighbour lists of any kind a model asks for are made of our edges,
with vectors that carry the graph to positions and cell, so that what was traced with plain operations is
differentiated as often as wanted; `probe` refuses what is not.

A model computes in the floating type it was exported in, whatever that of the structures is; its answer comes in
theirs. Its parameters, which such files keep frozen, learn here.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from ase.data import chemical_symbols
from jaxtyping import Float
from torch import Tensor

from thalweg.errors import PotentialError, nearest_known
from thalweg.potentials.adapters.code import allow_code, one_line, require_consent
from thalweg.potentials.adapters.metatomic_systems import ask_energy, longest_cutoff, needs_metatomic
from thalweg.potentials.adapters.probe import probe
from thalweg.potentials.contract import ConservativePotential
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges


class MetatomicEnergy(ConservativePotential):
    """The `energy` of a metatomic model under our contract; its parameters are the potential's."""

    kind: ClassVar[str] = "metatomic"

    def __init__(self, file: str | Path) -> None:
        """Load a model file.

        Raises:
            PotentialError: no such file, not a metatomic model, one without an energy, with inputs beside positions,
                cell and elements, without parameters, or one that cannot be trained through.
        """
        super().__init__()
        self.file = str(file)
        self.model = _load(Path(file))
        told = self.model.capabilities()
        if "energy" not in told.outputs:
            raise PotentialError(
                f"{self.file}: this model gives {', '.join(sorted(told.outputs)) or 'nothing'}: needed is an energy"
            )
        inputs = sorted(self.model.requested_inputs(use_new_names=True))
        if inputs:
            raise PotentialError(
                f"{self.file}: this model asks for {', '.join(inputs)}: allowed are models of positions, cell and "
                "elements alone"
            )
        self._computes_in: torch.dtype = getattr(torch, told.dtype)
        self._digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        self.species = tuple(sorted(z for z in told.atomic_types if 0 < z < len(chemical_symbols)))
        self.cutoff = longest_cutoff(self.model) or 1.5  # without a list it only bounds the search for overlaps
        for parameter in self.model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        if not any(p.requires_grad for p in self.parameters()):
            raise PotentialError(
                f"{self.file}: this model has no parameters that learn: export it with its weights as torch "
                f"parameters, or take it as --reference 'ase:metatomic_ase:MetatomicCalculator?model={self.file}'"
            )
        probe(self, self.file, self._computes_in, torch.device("cpu"))

    @property
    def settings(self) -> dict[str, Any]:
        """The file and the SHA-256 of its content."""
        return {"file": self.file, "sha256": self._digest}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Load the model that settings name, if its code was allowed and is what it was.

        Raises:
            PotentialError: an unknown or missing key, a file that was not allowed or has changed, or as `__init__`.
        """
        for key, value in settings.items():
            if key not in ("file", "sha256"):
                raise PotentialError(f"{cls.kind} has no setting {key!r}: {nearest_known(key, ('file', 'sha256'))}")
            if not isinstance(value, str):
                raise PotentialError(f"{cls.kind} setting {key!r} is {value!r}: allowed is text, e.g. model.pt")
        if "file" not in settings:
            raise PotentialError(f"{cls.kind} needs the setting 'file': the path of a metatomic model, e.g. model.pt")
        require_consent(f"{settings['file']}:{cls.kind}")
        made = cls(settings["file"])
        if settings.get("sha256", made._digest) != made._digest:
            raise PotentialError(
                f"{made.file}: this file has changed since it was named (SHA-256 {made._digest[:12]}…, then "
                f"{settings['sha256'][:12]}…): put the former back, or leave 'sha256' out of the settings"
            )
        return made

    @classmethod
    def from_words(cls, words: str) -> Self:
        """Load a model from what a user types, which is their consent to run it.

        Args:
            words: the path of the file.

        Raises:
            PotentialError: as `__init__`, or a path with a comma.
        """
        allow_code(f"{words}:{cls.kind}")
        return cls(words)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy whose parameters are leaves: TorchScript clones them, with a graph where there is one."""
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        with torch.no_grad():
            made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        for mine, its in zip(self.parameters(), made.parameters(), strict=True):
            its.requires_grad_(mine.requires_grad)
        return made

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to a device, and leave the floating type as it was: TorchScript has it written into it."""

        def moved(tensor: Tensor) -> Tensor:
            found = fn(tensor)
            return found if found.dtype == tensor.dtype else tensor.to(found.device)

        super()._apply(moved, recurse)
        return self

    def energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return what the model says; see `ConservativePotential.energy`.

        Raises:
            PotentialError: an element it does not know, or the model fails.
        """
        self.check(structures)
        inside = structures.to(dtype=self._computes_in)
        same = Edges(edges.centre, edges.neighbour, edges.shift.to(self._computes_in))
        try:
            found = ask_energy(self.model, inside, same)
        except (RuntimeError, ValueError, torch.jit.Error) as error:
            raise PotentialError(f"{self.file} fails: {one_line(error)}") from error
        return found.to(structures.dtype)


def _load(path: Path) -> Any:
    if not path.is_file():
        raise PotentialError(f"{path}: there is no such metatomic model: give a file, e.g. metatomic:model.pt")
    needs_metatomic()
    from metatomic.torch import load_atomistic_model

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, says torch; such files are made of it
            return load_atomistic_model(str(path))
    except (RuntimeError, ValueError) as error:
        raise PotentialError(f"{path}: this is no metatomic model that can be used here: {one_line(error)}") from error
