"""fairchem's eSEN (Fu et al., arXiv 2502.12147; `eSCNMDBackbone`) under our contract.

fairchem's head takes forces from positions that the backbone marks itself, with a graph in training mode only, and its
prediction unit detaches. Here the backbone is built without forces of its own and given our edges, on differentiable
positions and cell; the energy block of the head, the normaliser and the element references of the energy task follow.
All structures are evaluated at once. Charge and spin are zero, the data set is one name for all.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import torch
from jaxtyping import Float
from pydantic import Field, Strict
from torch import Tensor, nn

from thalweg.errors import PotentialError, nearest_known
from thalweg.potentials.adapters.apart import imported
from thalweg.potentials.adapters.code import one_line, read_pickled
from thalweg.potentials.adapters.packages import OptionSettings, PackageEnergy, PackageModel
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

_OURS: dict[str, Any] = {
    "otf_graph": False,
    "direct_forces": False,
    "regress_forces": False,
    "regress_stress": False,
    "regress_hessian": False,
    "activation_checkpointing": False,
    "execution_mode": "general",
}
"""Arguments of the backbone that the adapter sets: edges from us, forces by us, plain operations."""
_ELEMENTS = 100


class FairchemSettings(OptionSettings):
    """The values from which eSEN is built; `options` are the arguments of `eSCNMDBackbone`."""

    species: Annotated[tuple[int, ...], Strict(False)] = Field(default=tuple(range(1, _ELEMENTS)), min_length=1)
    """Atomic numbers; fewer where others shall be refused."""
    dataset: str | None = None
    """Name of the data set whose level of theory is asked for, where the model has several."""


class _Energy(nn.Module):
    """Backbone and energy block, with the scale and shifts of the energy task."""

    def __init__(self, backbone: nn.Module, energy_block: nn.Module) -> None:
        super().__init__()
        self.backbone, self.energy_block = backbone, energy_block
        self.register_buffer("rmsd", torch.ones(()))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("references", torch.zeros(_ELEMENTS))


class _Data(dict[str, Any]):
    """What the backbone reads; fairchem's own class names the default of `get`."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or the default."""
        return super().get(key, default)


class Fairchem(PackageEnergy):
    """The energy of an eSEN as a conservative potential; built from `FairchemSettings`."""

    kind: ClassVar[str] = "fairchem"
    extra: ClassVar[str] = "fairchem"
    options: ClassVar[tuple[str, ...]] = ("dataset",)
    file: ClassVar[str] = "a checkpoint for inference of eSEN"
    model: ClassVar[type[FairchemSettings]] = FairchemSettings

    def build(self, settings: FairchemSettings) -> tuple[nn.Module, float]:
        """Return backbone and energy block of an eSEN."""
        if settings.species[-1] >= _ELEMENTS:
            raise PotentialError(
                f"{self.kind} setting 'species' has {settings.species[-1]}: eSEN knows the elements 1 to 99"
            )
        taken = sorted(_OURS.keys() & settings.options.keys())
        if taken:
            raise PotentialError(f"{self.kind} setting 'options' has {taken[0]!r}, which the adapter sets itself")
        found = imported("fairchem.core.models.uma.escn_md", self.extra)
        options: dict[str, Any] = {**settings.options, **_OURS}
        backbone = found.eSCNMDBackbone(**options)
        self._dataset = settings.dataset
        return _Energy(backbone, found.MLP_EFS_Head(backbone).energy_block), float(backbone.cutoff)

    @classmethod
    def read(cls, path: Path, options: dict[str, Any]) -> PackageModel:
        """Return the potential of a checkpoint; `dataset` among the options chooses one of several energy tasks."""
        imported("fairchem.core", cls.extra)
        found = read_pickled(path)
        config = dict(getattr(found, "model_config", {}).get("backbone", {}))
        name = str(config.pop("model", config.pop("_target_", type(found).__name__))).rpartition(".")[2]
        if name not in ("eSCNMDBackbone", "escnmd_backbone"):
            raise PotentialError(f"{path}: holds {name!r}: adapted is eSEN (eSCNMDBackbone), not mixtures of experts")
        task = _energy_task(found, options.get("dataset"), path)
        arguments = {key: value for key, value in config.items() if key not in _OURS and key != "_target_"}
        potential = cls.from_settings({"options": arguments, **options})
        potential.take(_tensors(found, task, potential.module, path), str(path))
        return potential

    def model_energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return what eSEN says, references included; see `PackageEnergy.model_energy`."""
        module = cast(Any, self.module)
        zero = structures.owner.new_zeros(len(structures))
        data = _Data(
            pos=structures.positions,
            cell=structures.cell,
            atomic_numbers=structures.numbers,
            natoms=structures.counts,
            batch=structures.owner,
            charge=zero,
            spin=zero,
            dataset=[self._dataset] * len(structures),
            edge_index=torch.stack([edges.neighbour, edges.centre]),
            cell_offsets=edges.shift,
            nedges=torch.bincount(structures.owner[edges.centre], minlength=len(structures)),
        )
        cuda = [structures.device] if structures.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(0)  # edge frames roll at random, which changes nothing but rounding; alike in every call
            scalars = module.backbone(data)["node_embedding"][:, 0, :]
        each = module.energy_block(scalars).reshape(-1)
        shift = module.references.index_select(0, structures.numbers)
        return module.rmsd * structures.total(each) + module.mean + structures.total(shift)


def _energy_task(found: Any, dataset: str | None, path: Path) -> Any:
    """Return the energy task of a checkpoint, of one data set where there are several."""
    hydra = imported("hydra.utils", Fairchem.extra)
    try:
        tasks = [hydra.instantiate(config) for config in found.tasks_config]
    except Exception as error:  # what a file names may fail in any way
        raise PotentialError(f"{path}: its tasks cannot be built ({one_line(error)}): check the version") from error
    energies = [t for t in tasks if t.property == "energy" and (dataset is None or dataset in t.datasets)]
    if len(energies) != 1:
        known = sorted({name for t in tasks if t.property == "energy" for name in t.datasets})
        told = nearest_known(dataset, known) if dataset else f"it has {', '.join(known) or 'none'}"
        raise PotentialError(f"{path}: write ?dataset=NAME to choose its energy task; {told}")
    return energies[0]


def _tensors(found: Any, task: Any, module: nn.Module, path: Path) -> dict[str, Tensor]:
    """Return the averaged weights of a checkpoint under the names of our module, with scale and shifts of a task."""
    state = {name.removeprefix("module."): t for name, t in (found.ema_state_dict or found.model_state_dict).items()}
    result = {name: t for name, t in state.items() if name.startswith("backbone.")}
    heads = {m.group(1) for m in map(re.compile(r"output_heads\.(.+?)\.energy_block\.").match, state) if m}
    if len(heads) != 1:
        raise PotentialError(f"{path}: has {len(heads)} heads with energies: adapted are models with one")
    beginning = f"output_heads.{heads.pop()}."
    result |= {n.removeprefix(beginning): t for n, t in state.items() if n.startswith(f"{beginning}energy_block.")}
    dtype = next(iter(result.values())).dtype
    ours = module.state_dict()
    result["rmsd"], result["mean"] = task.normalizer.rmsd.reshape(()), task.normalizer.mean.reshape(())
    result["references"] = ours["references"].clone()
    if task.element_references is not None:
        given = task.element_references.element_references.reshape(-1)[:_ELEMENTS]
        result["references"][: len(given)] = given
    return {n: t.to(dtype) if n in ("rmsd", "mean", "references") else t for n, t in result.items()}
