"""What adapters of packages share: settings, the package's module in evaluation mode, consent to unpickle.

An adapter builds the package's graph from our own edges with differentiable distances and calls the part of the
module that gives the energy, never the package's calculator. Its model file keeps the arguments from which the
package builds the module, and the tensors: to load it runs the installed package and no code of the file's.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, JsonValue, ValidationError
from torch import Tensor, nn

from thalweg.errors import PotentialError
from thalweg.potentials.adapters.code import one_line, require_consent
from thalweg.potentials.contract import Potential
from thalweg.potentials.layers import NetworkSettings, settings_fault
from thalweg.seeds import torch_stream
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

_TYPES = (torch.float32, torch.float64)


class AdaptedSettings(NetworkSettings):
    """The values from which a package builds its module again."""

    options: dict[str, JsonValue] = Field(default_factory=dict)
    """What the package builds the module from."""


class Adapted(Potential):
    """A module of another package under our contract; its parameters are the potential's.

    A subclass names its `package`, `extra` and `model`, makes its module under `making` and calls `adapt`.
    """

    package: ClassVar[str]
    """What is imported."""
    extra: ClassVar[str]
    """The optional dependency that brings it."""
    model: ClassVar[type[AdaptedSettings]] = AdaptedSettings
    module: nn.Module
    """The package's module, always in evaluation mode."""

    @classmethod
    def imported(cls, name: str = "") -> ModuleType:
        """Import the package, or the module `name` in it.

        Raises:
            PotentialError: it is not installed or cannot be imported.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # their imports warn of what is nobody's business here
                return importlib.import_module(f"{cls.package}{name}")
        except Exception as error:  # foreign modules raise whatever they like when imported
            raise PotentialError(
                f"the {cls.kind} potential needs the package {cls.package} ({one_line(error)}): "
                f"pip install 'thalweg[{cls.extra}]', or take another kind"
            ) from error

    def adapt(self, settings: AdaptedSettings, module: nn.Module, cutoff: float) -> None:
        """Take the module and the settings it was made from.

        Args:
            settings: what `settings` returns from now on.
            module: the package's module.
            cutoff: its range, Å.

        Raises:
            PotentialError: parameters of several floating types, or of another than float32 and float64.
        """
        found = {p.dtype for p in module.parameters()}
        if len(found) != 1 or not found <= set(_TYPES):
            told = ", ".join(sorted(map(str, found))) or "nothing"
            raise PotentialError(
                f"this {self.kind} module has parameters of {told}: convert them to one, float32 or float64"
            )
        self._settings, self.species, self.cutoff = settings, settings.species, cutoff
        self.module = module.eval()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of training, but leave the module in evaluation mode: minima want no dropout."""
        super().train(mode)
        self.module.eval()
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The plain values from which `from_settings` builds the same module."""
        return self._settings.model_dump(mode="json")

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Build a module with the fresh parameters of its seed; the keys are the fields of `model`.

        Raises:
            PotentialError: an unknown key, a wrong type, a value outside its range, or the package is missing.
        """
        try:
            return cls(cls.model.model_validate(settings))
        except ValidationError as error:
            raise PotentialError(settings_fault(cls.kind, cls.model, error)) from None

    @property
    def dtype(self) -> torch.dtype:
        """The floating type it computes in."""
        return next(self.module.parameters()).dtype

    def check_input(self, structures: Structures) -> None:
        """Refuse structures of another floating type or with elements it does not know.

        Raises:
            PotentialError: naming what differs.
        """
        if structures.dtype != self.dtype:
            raise PotentialError(
                f"structures are {structures.dtype} but this {self.kind} potential is {self.dtype}: convert one with "
                ".to(dtype=...)"
            )
        self.check(structures)

    def take(self, tensors: dict[str, Tensor], source: str) -> None:
        """Give the module its tensors, in their floating type.

        Raises:
            PotentialError: tensors that do not fit.
        """
        floats = {t.dtype for t in tensors.values() if t.is_floating_point()}
        if len(floats) == 1 and floats <= set(_TYPES):
            self.to(floats.pop())
        try:
            self.module.load_state_dict(tensors)
        except RuntimeError as error:
            raise PotentialError(
                f"{source}: the tensors do not fit the installed {self.package}: {one_line(error)}"
            ) from None


def making(kind: str, seed: int, make: Callable[[], Any]) -> Any:
    """Return what a package makes, quietly and with the global random stream seeded for it and put back.

    Args:
        kind: the kind of potential, for messages.
        seed: root seed of fresh parameters.
        make: calls the package.

    Raises:
        PotentialError: the package refuses.
    """
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_stream(seed, "adapted module").initial_seed())
        try:
            return make()
        except PotentialError:
            raise
        except Exception as error:  # foreign code raises whatever it likes
            raise PotentialError(
                f"the package behind {kind} cannot build this module: {one_line(error)}; check its options and version"
            ) from error


def read_pickled(path: str | Path, kind: str) -> Any:
    """Read a file of weights that torch wrote, on the CPU.

    Only tensors and plain values are read. A file that holds more is unpickled whole, which runs what it names, and
    only if its path was allowed as code is.

    Raises:
        PotentialError: no such file, not one that torch wrote, or one that asks to run code and was not allowed.
    """
    if not Path(path).is_file():
        raise PotentialError(f"{path}: there is no such file of weights; {kind}: opens files that are here")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        require_consent(str(path))
    except Exception as error:
        raise PotentialError(
            f"{path}: these weights cannot be read ({one_line(error)}): give a file that {kind} wrote"
        ) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise PotentialError(
            f"{path}: these weights cannot be read ({one_line(error)}): give a file that {kind} wrote"
        ) from error


def within(structures: Structures, edges: Edges, cutoff: float) -> Edges:
    """Return the edges shorter than a cutoff (Å): lists with a skin hold longer ones."""
    with torch.no_grad():
        near = edges.vectors(structures).square().sum(dim=1) < cutoff**2
    if bool(near.all()):
        return edges
    return Edges(edges.centre[near], edges.neighbour[near], edges.shift[near])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
