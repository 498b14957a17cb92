"""Any torch module that gives an energy, as a conservative potential of ours.

The module is a function of any of these, which it names as arguments of its `forward`, in any order:

| argument | shape | what it is |
|---|---|---|
| positions | atoms 3 | Cartesian, Å; never wrapped; float |
| numbers | atoms | atomic numbers; int64 |
| cell | structures 3 3 | lattice vectors as rows, Å; zero for clusters; float |
| pbc | structures 3 | which lattice directions are periodic; bool |
| owner | atoms | structure of each atom, ascending from 0; int64 |
| centre | edges | receiving atom of each edge, ascending; int64 |
| neighbour | edges | sending atom of each edge; int64 |
| shift | edges 3 | lattice translation of the neighbour, whole numbers; float |
| vectors | edges 3 | x[neighbour] + shift · cell − x[centre], Å; float |

and returns the potential energy of each structure, shape (structures,), eV, in the floating type of the positions.
Both directions of every pair closer than the cutoff are among the edges, none longer. Positions, cell and vectors
carry the graph; forces and stress follow by our contract, E = scale · E_module + Σ_i shift_{z_i}, with scale 1
and shift 0 until a reference is set (`train` sets one, files keep it).

A model file keeps the name of the factory, its options and the tensors. `probe` refuses a module that is detached.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from ase.data import atomic_numbers
from jaxtyping import Float
from pydantic import Field, JsonValue, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from thalweg.errors import PotentialError, nearest_known
from thalweg.potentials.adapters.code import (
    allow_code,
    call_factory,
    one_line,
    parse_words,
    require_consent,
    split_name,
)
from thalweg.potentials.adapters.packages import within
from thalweg.potentials.adapters.probe import probe
from thalweg.potentials.contract import ConservativePotential
from thalweg.potentials.layers import Network, NetworkSettings, settings_fault
from thalweg.seeds import torch_stream
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

ARGUMENTS = ("positions", "numbers", "cell", "pbc", "owner", "centre", "neighbour", "shift", "vectors")
"""What the forward of a module may ask for."""

_NEEDED = {
    "factory": "the name of the code, e.g. factory: mymodels:make",
    "species": "the elements it describes, e.g. species: [14] for silicon",
    "cutoff": "how far its neighbours reach in Å, e.g. cutoff: 5.0",
}


class TorchEnergySettings(NetworkSettings):
    """The values from which a module is built again."""

    factory: str
    """`module:factory` or `path.py:factory`: what is called with `options` and returns the module."""
    cutoff: float = Field(gt=0, allow_inf_nan=False)
    """Range of the neighbour list, Å."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Keyword arguments of the factory."""

    @field_validator("factory")
    @classmethod
    def _names_code(cls, factory: str) -> str:
        try:
            split_name(factory)
        except PotentialError as error:
            raise ValueError(str(error)) from None
        return factory


class TorchEnergy(Network, ConservativePotential):
    """A torch module under our contract; its parameters are the potential's."""

    kind: ClassVar[str] = "torch"
    model: ClassVar[type[NetworkSettings]] = TorchEnergySettings

    def __init__(self, settings: TorchEnergySettings, module: nn.Module | None = None) -> None:
        """Adapt a module.

        Args:
            settings: elements, cutoff, and the code that makes the module.
            module: the module, where it is already there; by default the factory is imported and called, with
                torch's global stream seeded for it.

        Raises:
            PotentialError: the factory fails or gives no module, or the module cannot be trained through.
        """
        super().__init__()
        self.begin(settings)
        self.cutoff, self.name = settings.cutoff, settings.factory
        self.module = _make(settings) if module is None else module
        tensors = [p for p in self.module.parameters() if p.requires_grad]
        if not tensors:
            raise PotentialError(
                f"{self.name!r} has no parameters that learn: give some requires_grad, or use it as a reference only"
            )
        dtype, device = tensors[0].dtype, tensors[0].device
        if any(t.dtype != dtype for t in tensors) or dtype not in (torch.float32, torch.float64):
            found = ", ".join(sorted({str(t.dtype) for t in tensors}))
            raise PotentialError(f"{self.name!r} has parameters of {found}: convert them to one, float32 or float64")
        self.scale, self.shift = self.scale.to(device, dtype), self.shift.to(device, dtype)
        self._asked = _asked(self.module, self.name)
        probe(self, self.name, dtype, device)

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Build the module that settings name, if its code was allowed; the keys are those of `model`.

        Raises:
            PotentialError: an unknown key, a wrong type, code that was not allowed or fails, or a module that
                cannot be trained through.
        """
        try:
            told = TorchEnergySettings.model_validate(settings)
        except ValidationError as error:
            fault = error.errors()[0]
            if fault["type"] == "missing":
                key = str(fault["loc"][0])
                raise PotentialError(f"{cls.kind} needs the setting {key!r}: {_NEEDED[key]}") from None
            raise PotentialError(settings_fault(cls.kind, cls.model, error)) from None
        require_consent(told.factory)
        return cls(told)

    @classmethod
    def from_words(cls, words: str) -> Self:
        """Build a module from what a user types, which is their consent to run it.

        Args:
            words: `module:factory?species=Si,O&cutoff=5&…`; further keys are `seed`, `weights`, a .safetensors file of
                the module's tensors, and the options of the factory.

        Raises:
            PotentialError: words that cannot be read, and as `from_settings`.
        """
        name, options = parse_words(words)
        settings: dict[str, Any] = {key: options.pop(key) for key in ("cutoff", "seed") if key in options}
        if "species" in options:
            settings["species"] = _elements(options.pop("species"), name)
        weights = options.pop("weights", None)
        allow_code(name)
        potential = cls.from_settings({"factory": name, "options": options, **settings})
        if weights is not None:
            potential.load_weights(str(weights))
        return potential

    def load_weights(self, path: str | Path) -> None:
        """Give the module the tensors of a .safetensors file, named as in its own state dictionary.

        Raises:
            PotentialError: not such a file, or tensors that do not fit.
        """
        try:
            self.module.load_state_dict(load_file(path))
        except (OSError, SafetensorError) as error:
            raise PotentialError(
                f"{path}: these weights cannot be read ({one_line(error)}): give a .safetensors file, made by "
                "safetensors.torch.save_file(module.state_dict(), path)"
            ) from None
        except RuntimeError as error:
            raise PotentialError(f"{path}: the tensors do not fit {self.name!r}: {one_line(error)}") from None
        probe(self, self.name, self.scale.dtype, self.scale.device)

    def energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return what the module says, scaled and shifted; see `ConservativePotential.energy`.

        Raises:
            PotentialError: an element or floating type it does not take, or an energy of another shape or type.
        """
        self.check_input(structures)
        edges = within(structures, edges, self.cutoff)
        given = {
            "positions": structures.positions,
            "numbers": structures.numbers,
            "cell": structures.cell,
            "pbc": structures.pbc,
            "owner": structures.owner,
            "centre": edges.centre,
            "neighbour": edges.neighbour,
            "shift": edges.shift,
        }
        if "vectors" in self._asked:
            given["vectors"] = edges.vectors(structures)
        found = self.module(**{name: given[name] for name in self._asked})
        if not isinstance(found, Tensor) or found.shape != (len(structures),) or found.dtype != structures.dtype:
            what = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise PotentialError(
                f"{self.name!r} gives {what} for {len(structures)} structures: needed is one energy each, a tensor "
                f"{structures.dtype} {(len(structures),)}"
            )
        known = torch.tensor(self.species, device=structures.device)
        shift = self.shift.index_select(0, torch.searchsorted(known, structures.numbers))
        return self.scale * found + structures.total(shift)


def _make(settings: TorchEnergySettings) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_stream(settings.seed, "adapted module").initial_seed())
        made = call_factory(settings.factory, dict(settings.options))
    if not isinstance(made, nn.Module):
        raise PotentialError(f"{settings.factory!r} makes a {type(made).__name__}: needed is a torch.nn.Module")
    return made


def _asked(module: nn.Module, name: str) -> tuple[str, ...]:
    """Return the arguments that the forward of a module takes."""
    found = inspect.signature(module.forward).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in found):
        return ARGUMENTS
    asked = []
    for p in found:
        if p.name in ARGUMENTS and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
            asked.append(p.name)
        elif p.default is p.empty and p.kind is not p.VAR_POSITIONAL:
            raise PotentialError(f"{name!r} asks for {p.name!r} in its forward: {nearest_known(p.name, ARGUMENTS)}")
    return tuple(asked)


def _elements(told: Any, name: str) -> list[int]:
    symbols = told if isinstance(told, list) else str(told).split(",")
    strange = [s for s in symbols if not isinstance(s, str) or s not in atomic_numbers]
    if strange:
        raise PotentialError(f"species of {name!r} has {strange[0]!r}: allowed are symbols of elements, e.g. Si,O")
    return [atomic_numbers[s] for s in symbols]
