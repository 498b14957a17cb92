"""An ASE calculator as a reference surface: energies, forces and stress to compare with or to label with.

A calculator answers in NumPy: nothing reaches parameters, so it is refused wherever a graph is asked for, and no
settings or model file builds it. The energy is the one whose gradient the forces are (`free_energy` where the
calculator gives it). Structures are evaluated one after the other, constraints left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.data import chemical_symbols
from jaxtyping import Float
from torch import Tensor

from thalweg.errors import PotentialError
from thalweg.potentials.adapters.code import call_factory, one_line, parse_words
from thalweg.potentials.contract import Potential, Prediction
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

REFERENCE_ONLY = (
    "an ASE calculator has no parameters and no graph, so it is a reference only (--reference of thalweg evaluate, "
    "map, dial and data label); train a model file or a torch module"
)
"""Why a calculator is refused elsewhere."""


class AseReference(Potential):
    """What an ASE calculator says, without parameters and without a graph."""

    kind: ClassVar[str] = "ase"
    conservative: ClassVar[bool] = True

    def __init__(self, calculator: Any, words: str = "") -> None:
        """Wrap a calculator, which must be one that computes in this process or starts its own.

        Args:
            calculator: any ASE calculator.
            words: what it was made from, for messages; by default the name of its class.

        Raises:
            PotentialError: not a calculator.
        """
        super().__init__()
        if not callable(getattr(calculator, "get_property", None)):
            raise PotentialError(
                f"{words or type(calculator).__name__!r} is a {type(calculator).__name__}: needed is an ASE calculator"
            )
        self.calculator, self.words = calculator, words or type(calculator).__name__
        self.cutoff = 1.5  # only bounds the search for overlapping atoms while relaxing
        self.species = tuple(range(1, len(chemical_symbols)))  # calculators do not say; they refuse when asked

    @classmethod
    def from_words(cls, words: str) -> Self:
        """Make a calculator from what a user types, which is their consent to run it.

        Args:
            words: `module:Class?key=value&…` or `path.py:function`, with the arguments of the class or function, e.g.
                `ase.calculators.lj:LennardJones?sigma=2.1&epsilon=0.5`.

        Raises:
            PotentialError: words that cannot be read, code that fails, or not a calculator.
        """
        name, options = parse_words(words)
        return cls(call_factory(name, options), name)

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Refuse: a reference is opened by its words.

        Raises:
            PotentialError: always.
        """
        raise PotentialError(f"an {cls.kind} reference is not built from settings ({settings}): {REFERENCE_ONLY}")

    @property
    def settings(self) -> dict[str, Any]:
        """What it was made from; for records, nothing is built from it."""
        return {"words": self.words}

    def __deepcopy__(self, memo: dict[int, Any]) -> AseReference:
        """Return itself: calculators hold files and processes that cannot be copied, and nothing here learns."""
        return self

    def forward(
        self,
        structures: Structures,
        *,
        edges: Edges | None = None,
        graph: bool = False,
        stress: bool = False,
    ) -> Prediction:
        """Ask the calculator for every structure; see `Potential.forward`.

        Args:
            structures: the batch, in any floating type; answers are in it.
            edges: not used: calculators search neighbours themselves.
            graph: refused.
            stress: also return the stress.

        Raises:
            PotentialError: a graph asked for, or the calculator refuses or fails.
        """
        if graph:
            raise PotentialError(f"{self.words} gives no derivatives to train through: {REFERENCE_ONLY}")
        energies, forces, stresses = [], [], []
        for name, frame in zip(structures.ids, structures.detach().to_atoms(), strict=True):
            plain = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
            energies.append(self._ask(self._energy, plain, name, "energy"))
            forces.append(self._ask(lambda a: self.calculator.get_property("forces", a), plain, name, "forces"))
            if stress:
                stresses.append(self._ask(self._stress, plain, name, "stress"))

        def tensor(values: Any) -> Tensor:
            return torch.as_tensor(np.asarray(values), dtype=structures.dtype, device=structures.device)

        return Prediction(
            tensor(energies), tensor(np.concatenate(forces)), tensor(np.stack(stresses)) if stress else None
        )

    def _energy(self, atoms: Atoms) -> float:
        if "free_energy" in getattr(self.calculator, "implemented_properties", ()):
            with contextlib.suppress(PropertyNotImplementedError):  # some claim what they do not give
                return float(self.calculator.get_property("free_energy", atoms))
        return float(self.calculator.get_property("energy", atoms))

    def _stress(self, atoms: Atoms) -> Float[np.ndarray, "3 3"]:
        xx, yy, zz, yz, xz, xy = np.asarray(self.calculator.get_property("stress", atoms), dtype=np.float64)
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])

    def _ask(self, question: Callable[[Atoms], Any], atoms: Atoms, name: str, what: str) -> Any:
        try:
            return question(atoms)
        except PropertyNotImplementedError:
            raise PotentialError(f"{self.words} gives no {what} for structure {name!r}: take another one") from None
        except Exception as error:  # calculators raise whatever they like
            raise PotentialError(f"{self.words} fails on structure {name!r}: {one_line(error)}") from error
