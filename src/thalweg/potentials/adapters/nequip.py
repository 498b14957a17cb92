"""NequIP (Batzner et al. 2022) under our contract: models of the package `nequip`, opened from its checkpoints.

A NequIP model ends in a module that differentiates the energy, with a graph only while training, and moves positions
and cell by a strain of its own; built with `do_derivatives=False` it returns what lies beneath, the energy. Vectors are
given, so it derives none. Buffers that the package keeps in float64 beside a float32 model (Bessel roots, scales,
shifts) are converted with the rest.

Packaged models (.nequip.zip) carry code instead of the values they were built from and are refused: give the
checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from ase.data import chemical_symbols
from jaxtyping import Float
from pydantic import Field, JsonValue
from torch import Tensor, nn

from thalweg.errors import PotentialError, nearest_known
from thalweg.potentials.adapters.apart import imported
from thalweg.potentials.adapters.code import read_pickled
from thalweg.potentials.adapters.packages import CutoffSettings, PackageEnergy, elements, places
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

_BUILDERS = ("NequIPGNNModel", "PresetNequIPGNNModel", "FullNequIPGNNModel")
_OURS = ("r_max", "type_names", "seed", "model_dtype", "compile_mode", "do_derivatives")
_PAIRS = "nequip.nn.pair_potential."


class NequIPSettings(CutoffSettings):
    """The values from which a NequIP model is built again."""

    builder: Literal["NequIPGNNModel", "PresetNequIPGNNModel", "FullNequIPGNNModel"] = "NequIPGNNModel"
    """Which of NequIP's functions builds it."""
    order: list[int] | None = None
    """Atomic numbers in the order of the model's types; ascending by default."""
    config: dict[str, JsonValue] = Field(default_factory=dict)
    """Arguments of that function, e.g. num_layers, l_max, num_features; its defaults hold,
    and 16 for avg_num_neighbors, which it asks for."""


class NequIP(PackageEnergy):
    """A NequIP model; its parameters are the potential's."""

    kind: ClassVar[str] = "nequip"
    extra: ClassVar[str] = "nequip"
    options: ClassVar[tuple[str, ...]] = ("model",)
    file: ClassVar[str] = "a checkpoint of nequip-train (.ckpt)"
    model: ClassVar[type[NequIPSettings]] = NequIPSettings

    def build(self, settings: NequIPSettings) -> tuple[nn.Module, float]:
        """Return NequIP's model without its derivatives."""
        self._order = list(self.species) if settings.order is None else settings.order
        if sorted(self._order) != list(self.species):
            raise PotentialError(
                f"nequip setting 'order' is {self._order}: allowed are the species {list(self.species)}"
            )
        _check(settings.config)
        _begin()
        build = getattr(imported("nequip.model", self.extra), settings.builder)
        self._told = {
            "avg_num_neighbors": 16.0,
            **settings.config,
            "r_max": settings.cutoff,
            "type_names": [chemical_symbols[z] for z in self._order],
            "seed": torch.initial_seed() % 2**31,
        }
        module: nn.Module = build(**self._told, model_dtype="float64", compile_mode="eager", do_derivatives=False)
        return module, settings.cutoff

    @classmethod
    def read(cls, path: Path, options: dict[str, Any]) -> Self:
        """Return the potential of a checkpoint of nequip-train, with the weights it evaluates with."""
        if path.name.endswith(".nequip.zip"):
            raise PotentialError(
                f"{path}: a packaged model carries its code instead of its settings and cannot be built again: give "
                "the checkpoint (.ckpt) it was packaged from"
            )
        _begin()
        told = read_pickled(path)["hyper_parameters"]["model"]
        config = _plain(told)
        target = str(config.pop("_target_", "")).rpartition(".")[2]
        if target not in _BUILDERS:
            raise PotentialError(f"{path}: its model is made by {target!r}: {nearest_known(target, _BUILDERS)}")
        theirs = imported("nequip.model", cls.extra).ModelFromCheckpoint(path)
        key = options.get("model", "sole_model")
        if key not in theirs:
            raise PotentialError(f"{path}: there is no model {key!r} in it: {nearest_known(str(key), theirs)}")
        order = elements(list(config["type_names"]), str(path))
        settings = NequIPSettings(
            species=tuple(order),
            cutoff=float(config["r_max"]),
            builder=target,  # type: ignore[arg-type]
            order=order,
            config={key: value for key, value in config.items() if key not in _OURS},
        )
        potential = cls(settings)
        potential.take(theirs[key].state_dict(), str(path))
        return potential

    def packed(self) -> dict[str, Any]:
        """Return a checkpoint of nequip-train without the state of a training run."""
        builder = f"nequip.model.{self.settings['builder']}"
        dtype = str(self.scale.dtype).removeprefix("torch.")
        trainer = "nequip.train.NequIPLightningModule"
        return {
            "pytorch-lightning_version": imported("lightning", self.extra).__version__,
            "state_dict": {
                "run_stage": torch.zeros(1, dtype=torch.long),
                **{f"model.sole_model.{k}": t.detach().cpu() for k, t in self.module.state_dict().items()},
            },
            "hyper_parameters": {
                "model": {"_target_": builder, **self._told, "model_dtype": dtype},
                "num_datasets": {"train": 1, "val": 0, "test": 0, "predict": 0},
                "info_dict": {"versions": {}, "training_module": {"_target_": trainer}},
            },
        }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Convert; NequIP's modules also hold the floating type they answer in as a plain value."""
        super()._apply(fn, recurse)
        for part in self.module.modules():
            if hasattr(part, "_output_dtype"):
                part._output_dtype = self.scale.dtype  # type: ignore[assignment]
        return self

    def model_energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return what NequIP says; see `PackageEnergy.model_energy`."""
        given = {
            "pos": structures.positions,
            "edge_index": torch.stack([edges.centre, edges.neighbour]),
            "edge_vectors": edges.vectors(structures),
            "atom_types": places(structures.numbers, self._order),
            "batch": structures.owner,
            "num_atoms": structures.counts,
        }
        energy: Tensor = self.module(given)["total_energy"]
        return energy.flatten().to(structures.dtype)


def _begin() -> None:
    """Let NequIP set what it asks for before it builds; `apart` puts back what would be felt elsewhere."""
    imported("nequip.utils.global_state", NequIP.extra).set_global_state()


def _check(config: Mapping[str, Any]) -> None:
    """Refuse arguments that are settings of ours, and code other than NequIP's own pair potentials."""
    taken = [key for key in config if key in _OURS]
    if taken:
        raise PotentialError(
            f"nequip config has {taken[0]!r}, which follows from cutoff, species and seed: leave it out"
        )
    pair = config.get("pair_potential")
    if pair is not None and not (isinstance(pair, dict) and str(pair.get("_target_")).startswith(_PAIRS)):
        raise PotentialError(f"nequip config has pair_potential {pair!r}: allowed is one with _target_ {_PAIRS}…")


def _plain(value: Any) -> Any:
    """Return a value of a configuration in JSON types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return value
    return [_plain(item) for item in value]
