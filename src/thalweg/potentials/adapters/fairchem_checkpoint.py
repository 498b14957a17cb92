"""What a fairchem checkpoint for inference says: arguments of the backbone, the data set chosen, and tensors.

Such a file holds the configuration of the training run, the weights, their running average, and the tasks, each with
a normaliser and element references. eSEN is trained as `eSCNMDBackbone`, or as `eSCNMDMoeBackbone` with no experts,
which is the same network; its energy head stands alone, or in a wrapper that knows data sets, or with one linear map a
data set. Called by `fairchem.Fairchem.read`; fairchem's own readers are not called, for they switch gradients off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import PotentialError, nearest_known
from thalweg.potentials.adapters.apart import imported
from thalweg.potentials.adapters.code import one_line

ELEMENTS = 100
"""Rows of the tables of elements."""
_BACKBONES = ("eSCNMDBackbone", "escnmd_backbone", "eSCNMDMoeBackbone", "escnmd_moe_backbone")
_OF_EXPERTS = (
    "num_experts",
    "moe_dropout",
    "use_global_embedding",
    "use_composition_embedding",
    "composition_dropout",
    "moe_expert_coefficient_norm",
    "act",
    "layers_moe",
    "moe_layer_type",
    "moe_single",
    "moe_type",
    "model_version",
)
"""Arguments of the mixture of experts, which say nothing where it has none."""


@dataclass(frozen=True)
class Checkpoint:
    """What was read."""

    options: dict[str, Any]
    """Arguments of `eSCNMDBackbone`, as plain values."""
    dataset: str
    """The data set whose energy is asked for."""
    tensors: dict[str, Tensor]
    """Averaged weights as `backbone.…` and `energy_block.…`, with `rmsd`, `mean` and `references` of the task."""


def read_checkpoint(found: Any, path: Path, extra: str, dataset: str | None) -> Checkpoint:
    """Return what a checkpoint says about one energy task.

    Args:
        found: the unpickled file.
        path: where it was, for errors.
        extra: what to install for the package.
        dataset: a data set with an energy task; None where there is only one.

    Raises:
        PotentialError: another model than eSEN, forces of a head, an energy for each atom on average, or a data set
            that is not there or not chosen.
    """
    config = _plain(getattr(found, "model_config", {}))
    options = _backbone(config.get("backbone") or {}, type(found).__name__, path)
    task, name = _energy_task(found, extra, dataset, path)
    state = found.ema_state_dict or found.model_state_dict
    tensors = _weights({key.removeprefix("module."): t for key, t in state.items()}, config, name, path)
    tensors["rmsd"], tensors["mean"] = task.normalizer.rmsd.reshape(()), task.normalizer.mean.reshape(())
    tensors["references"] = torch.zeros(ELEMENTS, dtype=torch.float64)
    if task.element_references is not None:
        given = task.element_references.element_references.reshape(-1)[:ELEMENTS]
        tensors["references"][: len(given)] = given
    return Checkpoint(options, name, tensors)


def _plain(value: Any) -> Any:
    """Return mappings and sequences, which a file may hold as containers of its configuration, as plain ones."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _backbone(config: dict[str, Any], otherwise: str, path: Path) -> dict[str, Any]:
    """Return the arguments of the backbone, or refuse another one."""
    options = dict(config)
    name = str(options.pop("model", options.pop("_target_", otherwise))).rpartition(".")[2]
    if name not in _BACKBONES:
        raise PotentialError(f"{path}: holds {name!r}: adapted is eSEN ({_BACKBONES[0]})")
    mixture = name in _BACKBONES[2:]
    if mixture and options.get("num_experts", 8) != 0:
        raise PotentialError(
            f"{path}: is a mixture of {options.get('num_experts', 8)} experts, as UMA is: adapted is eSEN, without"
        )
    if options.get("direct_forces", True):
        raise PotentialError(
            f"{path}: its forces come from a head of their own (direct_forces), not from its energy: take a "
            "conserving model"
        )
    return {key: value for key, value in options.items() if not (mixture and key in _OF_EXPERTS)}


def _energy_task(found: Any, extra: str, dataset: str | None, path: Path) -> tuple[Any, str]:
    """Return an energy task and the data set it is asked for."""
    hydra = imported("hydra.utils", extra)
    try:
        tasks = [hydra.instantiate(config) for config in found.tasks_config]
    except Exception as error:  # what a file names may fail in any way
        raise PotentialError(f"{path}: its tasks cannot be built ({one_line(error)}): check the version") from error
    energies = {name: task for task in tasks if task.property == "energy" for name in task.datasets}
    name = next(iter(energies)) if dataset is None and len(energies) == 1 else str(dataset)
    if name not in energies:
        known = sorted(energies)
        told = nearest_known(name, known) if dataset and known else f"it has {', '.join(known) or 'none'}"
        raise PotentialError(f"{path}: write ?dataset=NAME to choose its energy task; {told}")
    return energies[name], name


def _weights(state: dict[str, Tensor], config: dict[str, Any], dataset: str, path: Path) -> dict[str, Tensor]:
    """Return the tensors of backbone and energy block under the names of our module."""
    head = re.compile(r"output_heads\.([^.]+)\.(.*?)energy_block\.")
    heads = sorted({(m.group(1), m.group(0)) for m in map(head.match, state) if m})
    if len(heads) != 1:
        raise PotentialError(f"{path}: has {len(heads)} heads with energies: adapted are models with one")
    name, beginning = heads[0]
    told = config.get("heads", {}).get(name, {})
    if "mean" in (told.get("reduce"), (told.get("head_kwargs") or {}).get("reduce")):
        raise PotentialError(f"{path}: its head averages over atoms: adapted are energies that are sums")
    result = {key: t for key, t in state.items() if key.startswith("backbone.")}
    for key, t in state.items():
        if key.startswith(beginning):
            ending = key.removeprefix(beginning)
            if ending.endswith(".weights"):  # a linear map for each data set
                ending, t = ending.removesuffix("s"), t[_place(told, dataset, path)]
            result[f"energy_block.{ending}"] = t
    return result


def _place(head: dict[str, Any], dataset: str, path: Path) -> int:
    """Return which of a head's linear maps is that of a data set: theirs are in order of the names they share."""
    mapping = head.get("dataset_mapping") or {name: name for name in head.get("dataset_names") or []}
    if dataset not in mapping:
        raise PotentialError(f"{path}: its head has no data set {dataset!r}; {nearest_known(dataset, mapping)}")
    return sorted(set(mapping.values())).index(mapping[dataset])
