"""What the adapters of other packages' models share: built apart, given our edges, saved as any potential of ours.

An adapter names the settings from which the package's own code builds the architecture, and says how our edges become
that package's input. Only the part of the model that gives the energy is called, E = scale · E_model + Σ_i shift_{z_i}
with scale 1 and shift 0 until a reference is set; forces and stress are our derivatives of it. So it does not matter
where a package detaches or leaves out the graph: those are its force heads and its calculators, and neither is called.

A package's own file is read as tensors and plain values. One that holds more is a pickle, and to unpickle is to run
what it says: that is done only for a file that was typed, or allowed as code is (`adapters.code`). A model file of ours
holds settings and tensors.
"""

from __future__ import annotations

from abc import abstractmethod
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Float, Int
from pydantic import Field, JsonValue
from torch import Tensor, nn

from thalweg.errors import PotentialError, nearest_known
from thalweg.potentials.adapters.apart import apart
from thalweg.potentials.adapters.code import allow_file, one_line, parse_options
from thalweg.potentials.adapters.probe import probe
from thalweg.potentials.contract import ConservativePotential
from thalweg.potentials.layers import Network, NetworkSettings
from thalweg.storage import atomic_write
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges


class CutoffSettings(NetworkSettings):
    """What the settings hold where the adapter hands the package its cutoff."""

    cutoff: float = Field(gt=0, allow_inf_nan=False)
    """Range of the neighbour list, Å."""


class OptionSettings(NetworkSettings):
    """What the settings hold where a package builds its model from arguments of its own, the cutoff among them."""

    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Those arguments, by the package's names."""


class PackageModel(Network):
    """A model that another package builds; its parameters are the potential's, in float64 until converted.

    A subclass names `kind`, `extra`, `file` and `model` (its settings) and writes `build` and `read`; what it answers
    is `PackageEnergy`, or a `forward` of its own.
    """

    extra: ClassVar[str]
    """What to install: `thalweg[extra]`."""
    options: ClassVar[tuple[str, ...]] = ()
    """What may follow the name of a file, as ?key=value."""
    file: ClassVar[str]
    """The package's own file, in words."""
    module: nn.Module
    """The package's model, always in evaluation mode: minima want no dropout."""

    def __init__(self, settings: NetworkSettings) -> None:
        """Build the architecture with the fresh parameters of its seed.

        Raises:
            PotentialError: the package is not there, or refuses the settings.
        """
        super().__init__()
        self.begin(settings)
        with apart(settings.seed):
            try:
                self.module, self.cutoff = self.build(settings)
            except PotentialError:
                raise
            except Exception as error:  # foreign code raises whatever it likes
                raise PotentialError(
                    f"{self.kind} cannot build what its settings say ({one_line(error)}): compare them with those "
                    f"that thalweg[{self.extra}] documents"
                ) from error
        self.module.eval()
        _settle(self.module)
        self.double()  # constants were made in float64; a model file converts to what it was saved in

    @abstractmethod
    def build(self, settings: Any) -> tuple[nn.Module, float]:
        """Return the package's model for settings of this adapter, and its range in Å.

        Torch's stream is seeded meanwhile, its default is float64.
        """

    @classmethod
    @abstractmethod
    def read(cls, path: Path, options: dict[str, Any]) -> PackageModel:
        """Return the potential that a file of the package holds, with its weights."""

    def packed(self) -> Any:
        """Return what the package's own file holds for this potential.

        Raises:
            PotentialError: the adapter writes no such file.
        """
        raise PotentialError(f"{self.kind} models are not written as {self.file}: keep the model file of thalweg")

    @classmethod
    def find(cls, name: str) -> Path:
        """Return the file that a name stands for.

        Raises:
            PotentialError: there is none.
        """
        if not Path(name).is_file():
            raise PotentialError(f"{name}: there is no such file; give {cls.file} (nothing is ever downloaded)")
        return Path(name)

    @classmethod
    def from_words(cls, words: str) -> PackageModel:
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
        path = cls.find(name)
        allow_file(path)
        try:
            with apart():
                potential = cls.read(path, options)
        except PotentialError:
            raise
        except Exception as error:  # a pickle raises whatever it likes
            raise PotentialError(
                f"{name}: {cls.kind} cannot open this file ({one_line(error)}): give {cls.file}"
            ) from error
        if isinstance(potential, ConservativePotential):
            # in float64: the steps that float32 needs are too long for trained models; and back, which loses nothing
            dtype = potential.scale.dtype
            probe(potential.double(), f"{cls.kind}:{name}", torch.float64, potential.scale.device)
            potential.to(dtype)
        return potential

    def write(self, path: str | Path) -> None:
        """Write the package's own file, which its calculators open.

        Raises:
            PotentialError: a reference was set, which that file has no place for, or the adapter writes none.
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

    def referred(self, found: Float[Tensor, " structures"], structures: Structures) -> Float[Tensor, " structures"]:
        """Return energies of the model (eV) scaled and shifted by the reference."""
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
        learns = {name for name, _ in self.module.named_parameters()}
        dtypes = {t.dtype for name, t in state.items() if name in learns}
        if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
            found = ", ".join(sorted(map(str, dtypes)))
            raise PotentialError(f"{what}: parameters are of {found}: convert them to one, float32 or float64")
        try:
            self.module.load_state_dict(state)
        except RuntimeError as error:
            raise PotentialError(
                f"{what}: its tensors do not fit the {self.kind} architecture found in it: {one_line(error)}"
            ) from None
        self.to(dtypes.pop())

    def train(self, mode: bool = True) -> Self:
        """Set the mode of training, but leave the module in evaluation mode."""
        super().train(mode)
        self.module.eval()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy built anew: packages pickle generated code when copied, and some compile it then."""
        again = type(self)(self._settings)
        again.to(self.scale.device, self.scale.dtype).load_state_dict(self.state_dict())
        for mine, copied in zip(self.parameters(), again.parameters(), strict=True):
            copied.requires_grad_(mine.requires_grad)
            copied.grad = None if mine.grad is None else mine.grad.clone()
        again.train(self.training)
        memo[id(self)] = again
        return again


class PackageEnergy(PackageModel, ConservativePotential):
    """A model of another package by its energy: a subclass also writes `model_energy`."""

    @abstractmethod
    def model_energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return what the package's model says, eV; no edge is longer than the cutoff."""

    def energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return what the model says, scaled and shifted; see `ConservativePotential.energy`.

        Raises:
            PotentialError: an element or floating type it does not take.
        """
        self.check_input(structures)
        return self.referred(self.model_energy(structures, within(structures, edges, self.cutoff)), structures)


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
