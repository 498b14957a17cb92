"""SevenNet (Park et al. 2024) under our contract: models of the package `sevenn`, opened from its checkpoints.

SevenNet is a chain of modules that hand on one dictionary. The first derives everything from the vectors of the edges,
the last, `force_output`, differentiates the energy to those vectors without a graph unless it is training: it is cut
off, the vectors are ours, and the chain ends at the energy. One more module is ours: the package makes one-hot types in
float32, whatever the model's floating type. Its edges point from the receiving atom, index 0, to the
sending one, index 1, as ours do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from ase.data import chemical_symbols
from jaxtyping import Float
from pydantic import Field, JsonValue
from torch import Tensor, nn

from thalweg.errors import PotentialError, nearest_known
from thalweg.potentials.adapters.apart import imported
from thalweg.potentials.adapters.code import read_pickled
from thalweg.potentials.adapters.packages import CutoffSettings, PackageEnergy
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

_SHIFTS = {"shift": 0.0, "scale": 1.0, "conv_denominator": 1.0}
"""What a checkpoint has from its data; a fresh model starts from these."""
_OF_DATA = ("use_modality", "_number_of_modalities", "_modal_map", "use_modal_wise_shift", "use_modal_wise_scale")
_ACCELERATED = ("use_flash_tp", "cuequivariance_config", "use_oeq")


class SevenNetSettings(CutoffSettings):
    """The values from which a SevenNet model is built again."""

    order: list[int] | None = None
    """Atomic numbers in the order of the model's types; ascending by default."""
    modal: str | None = None
    """Which of the levels of theory of a multi-modal model is asked."""
    config: dict[str, JsonValue] = Field(default_factory=dict)
    """Keys of SevenNet's own model configuration, e.g. channel, lmax, num_convolution_layer; its defaults hold."""


class SevenNet(PackageEnergy):
    """A SevenNet model; its parameters are the potential's."""

    kind: ClassVar[str] = "sevennet"
    extra: ClassVar[str] = "sevennet"
    options: ClassVar[tuple[str, ...]] = ("modal",)
    file: ClassVar[str] = "a checkpoint of SevenNet (.pth)"
    model: ClassVar[type[SevenNetSettings]] = SevenNetSettings

    def build(self, settings: SevenNetSettings) -> tuple[nn.Module, float]:
        """Return SevenNet's chain of modules up to the energy."""
        builder, defaults = imported("sevenn.model_build", self.extra), _defaults()
        strange = sorted(set(settings.config) - set(defaults) - {*_SHIFTS, *_OF_DATA, "version"})
        if strange:
            raise PotentialError(
                f"sevennet has no key {strange[0]!r} in its config: {nearest_known(strange[0], defaults)}"
            )
        order = list(self.species) if settings.order is None else settings.order
        if sorted(order) != list(self.species):
            raise PotentialError(f"sevennet setting 'order' is {order}: allowed are the species {list(self.species)}")
        config = {
            **defaults,
            **_SHIFTS,
            **settings.config,
            "cutoff": settings.cutoff,
            **dict.fromkeys(_ACCELERATED, False),
        }
        modals = config.get("_modal_map") or {}
        if settings.modal not in (modals or (None,)):
            raise PotentialError(f"sevennet setting 'modal' is {settings.modal!r}: allowed is one of {sorted(modals)}")
        config["cuequivariance_config"] = {}
        config["_number_of_species"] = len(order)
        config["_type_map"] = {z: k for k, z in enumerate(order)}
        self._config = config
        module = builder.build_E3_equivariant_model(config)
        module.delete_module_by_key("force_output")
        module.replace_module("onehot_idx_to_onehot", _Types(len(order)))
        module.key_grad, module.eval_modal_map = None, False
        self._modal = modals[settings.modal] if settings.modal is not None else None
        return module, settings.cutoff

    @classmethod
    def read(cls, path: Path, options: dict[str, Any]) -> Self:
        """Return the potential of a checkpoint of SevenNet."""
        read_pickled(path)  # asks for consent; the package unpickles the file itself
        checkpoint = imported("sevenn.checkpoint", cls.extra).SevenNetCheckpoint(path)
        config, theirs = checkpoint.config, checkpoint.build_model()
        types = config["_type_map"]
        kept = {*_defaults(), *_SHIFTS, *_OF_DATA} - {*_ACCELERATED, "cutoff"}
        settings = SevenNetSettings(
            species=tuple(types),
            cutoff=float(config["cutoff"]),
            order=sorted(types, key=types.__getitem__),
            modal=options.get("modal"),
            config={key: _plain(value) for key, value in config.items() if key in kept},
        )
        potential = cls(settings)
        held = next(t.dtype for t in checkpoint.model_state_dict.values() if t.is_floating_point())
        state = {name: t.to(held) if t.is_floating_point() else t for name, t in theirs.state_dict().items()}
        potential.take(state, str(path))
        return potential

    def packed(self) -> dict[str, Any]:
        """Return a checkpoint without the state of an optimiser."""
        version = imported("sevenn", self.extra).__version__
        symbols = [chemical_symbols[z] for z in self._config["_type_map"]]
        return {
            "model_state_dict": {name: tensor.detach().cpu() for name, tensor in self.module.state_dict().items()},
            "config": {"version": version, "chemical_species": symbols, "train_shift_scale": False, **self._config},
        }

    def model_energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return what the chain says; see `PackageEnergy.model_energy`."""
        given = {
            "atomic_numbers": structures.numbers,
            "edge_index": torch.stack([edges.centre, edges.neighbour]),
            "edge_vec": edges.vectors(structures),
            "batch": structures.owner,
            "num_atoms": structures.counts,
        }
        if self._modal is not None:
            given["modal_type"] = torch.full((len(structures),), self._modal, device=structures.device)
        energy: Tensor = self.module(given)["inferred_total_energy"]
        return energy


class _Types(nn.Module):
    """One-hot types in the floating type of the edges; SevenNet's own are float32, so float64 would not run."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Hand on the dictionary with the types in it."""
        types = data["x"]
        one_hot = nn.functional.one_hot(types, self.count).to(data["edge_vec"])
        return {**data, "x": one_hot, "node_attr": one_hot, "atom_type": types}


def _defaults() -> dict[str, Any]:
    """Return SevenNet's default configuration of a model."""
    return dict(imported("sevenn._const", SevenNet.extra).DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG)


def _plain(value: Any) -> Any:
    """Return a value of a configuration in JSON types."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
