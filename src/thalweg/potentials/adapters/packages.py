"""What the adapters of other packages' models share: built apart, given our edges, saved as any potential of ours.

An adapter names the settings from which the package's own code builds the architecture, and says how our edges become
that package's input. Only the part of the model that gives the energy is called, E = scale · E_model + Σ_i shift_{z_i}
with scale 1 and shift 0 until a reference is set; forces and stress are our derivatives of it. So it does not matter
where a package detaches or leaves out the graph: those are its force heads and its calculators, and neither is called.

To open a package's own file unpickles it, and to unpickle is to run what the file says: it is done only for a file
that was typed or passed by name, as with code (`adapters.code`). A model file of ours holds settings and tensors.
"""

from __future__ import annotations

import importlib
import os
import random
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from thalweg.errors import PotentialError, nearest_known
from thalweg.potentials.adapters.code import one_line, parse_options
from thalweg.potentials.adapters.probe import probe
from thalweg.potentials.contract import ConservativePotential
from thalweg.potentials.layers import Network, NetworkSettings
from thalweg.seeds import torch_stream
from thalweg.storage import atomic_write
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges


class PackageSettings(NetworkSettings):
    """What the settings of every adapter hold, beside its architecture."""

    cutoff: float = Field(gt=0, allow_inf_nan=False)
    """Range of the neighbour list, Å."""


class PackageModel(Network, ConservativePotential):
    """A model that another package builds; its parameters are the potential's, in float64 until converted.

    A subclass names `kind`, `extra`, `model` (its settings) and writes `build`, `read`, `packed` and
    `model_energy`.
    """

    extra: ClassVar[str]
    """What to install: `thalweg[extra]`."""
    options: ClassVar[tuple[str, ...]] = ()
    """What may follow the name of a file, as ?key=value."""
    file: ClassVar[str]
    """The package's own file, in words."""
    module: nn.Module
    """The package's model."""

    def __init__(self, settings: PackageSettings) -> None:
        """Build the architecture with the fresh parameters of its seed.

        Raises:
            PotentialError: the package is not there, or refuses the settings.
        """
        super().__init__()
        self.begin(settings)
        self.cutoff = settings.cutoff
        with apart(settings.seed):
            try:
                self.module = self.build(settings)
            except PotentialError:
                raise
            except Exception as error:  # foreign code raises whatever it likes
                raise PotentialError(
                    f"{self.kind} cannot build what its settings say ({one_line(error)}): compare them with those "
                    f"that thalweg[{self.extra}] documents"
                ) from error
        _settle(self.module)
        self.double()  # constants were made in float64; a model file converts to what it was saved in

    @abstractmethod
    def build(self, settings: Any) -> nn.Module:
        """Return the package's model for settings of this adapter; torch's stream is seeded, its default is float64."""

    @classmethod
    @abstractmethod
    def read(cls, path: Path, options: dict[str, Any]) -> Self:
        """Return the potential that a file of the package holds, with its weights."""

    @abstractmethod
    def packed(self) -> Any:
        """Return what the package's own file holds for this potential."""

    @abstractmethod
    def model_energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return what the package's model says, eV; no edge is longer than the cutoff."""

    @classmethod
    def from_words(cls, words: str) -> Self:
        """Open a file of weights of the package; whoever types its name lets what is pickled in it run.

        Args:
            words: `FILE` or `FILE?key=value&…` with the `options` of the adapter.

        Raises:
            PotentialError: no such file, an unknown option, not a file of that package, an architecture that the
                adapter does not build, or a model that cannot be trained through.
        """
        name, _, query = words.partition("?")
        options = parse_options(query, f"{cls.kind}:{name}")
        strange = [key for key in options if key not in cls.options]
        if strange:
            known = nearest_known(strange[0], cls.options) if cls.options else "it has none"
            raise PotentialError(f"'{cls.kind}:{name}' has no option {strange[0]!r}: {known}")
        path = Path(name)
        if not path.is_file():
            raise PotentialError(f"{name}: there is no such file; give {cls.file} (nothing is ever downloaded)")
        try:
            with apart():
                potential = cls.read(path, options)
        except PotentialError:
            raise
        except Exception as error:  # a pickle raises whatever it likes
            raise PotentialError(
                f"{name}: {cls.kind} cannot open this file ({one_line(error)}): give {cls.file}"
            ) from error
        dtype, device = potential.scale.dtype, potential.scale.device
        probe(potential, f"{cls.kind}:{name}", dtype, device)
        return potential

    def write(self, path: str | Path) -> None:
        """Write the package's own file, which its calculators open.

        Raises:
            PotentialError: a reference was set, which that file has no place for.
            OutputError: the folder cannot be written.
        """
        if float(self.scale) != 1.0 or bool((self.shift != 0).any()):
            raise PotentialError(
                f"this {self.kind} potential has a reference (scale {float(self.scale):.6g}, shifts "
                f"{self.shift.tolist()} eV) that {self.file} has no place for: keep the model file of thalweg"
            )
        written = BytesIO()
        with apart():
            torch.save(self.packed(), written)
        atomic_write(path, written.getvalue(), overwrite=True)

    def energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return what the model says, scaled and shifted; see `ConservativePotential.energy`."""
        self.check_input(structures)
        found = self.model_energy(structures, within(structures, edges, self.cutoff))
        known = torch.tensor(self.species, device=structures.device)
        shift = self.shift.index_select(0, torch.searchsorted(known, structures.numbers))
        return self.scale * found + structures.total(shift)

    def take(self, state: dict[str, Tensor], what: str) -> None:
        """Give the model the tensors of a state dictionary, in their floating type.

        Args:
            state: named as in the package's own state dictionary.
            what: what to call it in errors.

        Raises:
            PotentialError: tensors that do not fit or are of several floating types.
        """
        learns = {name for name, p in self.module.named_parameters() if p.requires_grad}
        dtypes = {t.dtype for name, t in state.items() if name in learns}
        if len(dtypes) != 1 or not dtypes <= {torch.float32, torch.float64}:
            found = ", ".join(sorted(map(str, dtypes))) or "none"
            raise PotentialError(f"{what}: parameters are of {found}: convert them to one, float32 or float64")
        try:
            self.module.load_state_dict(state)
        except RuntimeError as error:
            raise PotentialError(
                f"{what}: its tensors do not fit the {self.kind} architecture found in it: {one_line(error)}"
            ) from None
        self.to(dtypes.pop())

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy built anew: packages pickle generated code when copied, and some compile it then."""
        again = type(self)(self._settings)  # type: ignore[arg-type]
        again.to(self.scale.device, self.scale.dtype).load_state_dict(self.state_dict())
        for mine, copied in zip(self.parameters(), again.parameters(), strict=True):
            copied.requires_grad_(mine.requires_grad)
            copied.grad = None if mine.grad is None else mine.grad.clone()
        again.train(self.training)
        memo[id(self)] = again
        return again


def _settle(module: nn.Module) -> None:
    """Turn parameters that do not learn into buffers of the same names: `parameters()` is what learns."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if not parameter.requires_grad:
                delattr(part, name)
                part.register_buffer(name, parameter.detach())


def within(structures: Structures, edges: Edges, cutoff: float) -> Edges:
    """Return the edges shorter than the cutoff: lists with a skin hold longer ones."""
    with torch.no_grad():
        near = edges.vectors(structures).square().sum(dim=1) < cutoff**2
    if bool(near.all()):
        return edges
    return Edges(edges.centre[near], edges.neighbour[near], edges.shift[near])


def places(numbers: Int[Tensor, " atoms"], order: list[int]) -> Int[Tensor, " atoms"]:
    """Return where each atomic number stands in a package's own order of elements."""
    table = torch.zeros(len(chemical_symbols), dtype=torch.long, device=numbers.device)
    table[torch.tensor(order, device=numbers.device)] = torch.arange(len(order), device=numbers.device)
    return table[numbers]


def elements(symbols: list[str], what: str) -> list[int]:
    """Return the atomic numbers of symbols.

    Raises:
        PotentialError: a name that is no element's.
    """
    strange = [s for s in symbols if s not in atomic_numbers]
    if strange:
        raise PotentialError(f"{what} names its types {strange[0]!r}: only symbols of elements can be used, e.g. Si")
    return [atomic_numbers[s] for s in symbols]


def imported(module: str, extra: str) -> Any:
    """Import a module of another package.

    Args:
        module: dotted name.
        extra: what to install for it.

    Raises:
        PotentialError: it is not there, or its import fails.
    """
    try:
        with apart():
            return importlib.import_module(module)
    except Exception as error:  # e.g. ImportError, or another package's version refused
        raise PotentialError(
            f"this needs the package {module.partition('.')[0]} ({one_line(error)}): pip install 'thalweg[{extra}]', "
            "in an environment of its own where packages want different e3nn (see docs/other-packages.md)"
        ) from error


@contextmanager
def apart(seed: int | None = None) -> Iterator[None]:
    """Let a package work without leaving traces in the process, and without generated code being compiled.

    What is put back: random streams of torch, NumPy and Python, the default floating type (float64 meanwhile),
    environment variables, warnings, what is printed, and what e3nn compiles by default (nothing meanwhile:
    compiled code was not made to be differentiated again).

    Args:
        seed: root seed of what torch draws meanwhile.
    """
    dtype, environment = torch.get_default_dtype(), dict(os.environ)
    drawn, python = np.random.get_state(), random.getstate()  # noqa: NPY002 (only kept and put back)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), redirect_stdout(StringIO()), _eager():
        warnings.simplefilter("ignore")
        torch.set_default_dtype(torch.float64)
        if seed is not None:
            torch.default_generator.manual_seed(torch_stream(seed, "model of another package").initial_seed())
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            np.random.set_state(drawn)  # noqa: NPY002
            random.setstate(python)
            for key in set(os.environ) - set(environment):
                del os.environ[key]
            os.environ.update(environment)


@contextmanager
def _eager() -> Iterator[None]:
    try:
        import e3nn
    except ImportError:
        yield
        return
    before = e3nn.get_optimization_defaults()
    e3nn.set_optimization_defaults(jit_script_fx=False)
    try:
        yield
    finally:
        e3nn.set_optimization_defaults(**before)
