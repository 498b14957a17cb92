"""fairchem's eSEN (Fu et al., arXiv 2502.12147; `eSCNMDBackbone`) under our contract.

fairchem's head takes forces from positions that the backbone marks itself, with a graph in training mode only, and its
prediction unit detaches. Here the backbone is built without forces of its own and given our edges, on differentiable
positions and cell; the energy block of the head, the normaliser and the element references of the energy task follow.
All structures are evaluated at once. Charge and spin are zero, the data set is one name for all.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Self, cast

import torch
from jaxtyping import Float
from pydantic import Field, Strict
from torch import Tensor, nn

from thalweg.errors import PotentialError, nearest_known
from thalweg.potentials.adapters.adapted import Adapted, AdaptedSettings, making, read_pickled, within
from thalweg.potentials.adapters.code import one_line, parse_options
from thalweg.potentials.adapters.probe import probe
from thalweg.potentials.contract import ConservativePotential
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


class FairchemSettings(AdaptedSettings):
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


class FairchemPotential(Adapted, ConservativePotential):
    """The energy of an eSEN as a conservative potential; built from `FairchemSettings`."""

    kind: ClassVar[str] = "fairchem"
    package: ClassVar[str] = "fairchem.core"
    extra: ClassVar[str] = "fairchem"
    model: ClassVar[type[AdaptedSettings]] = FairchemSettings

    def __init__(self, settings: AdaptedSettings) -> None:
        """Build eSEN with the fresh parameters of `settings.seed`, in float32.

        Raises:
            PotentialError: the package is missing, elements past 99, or arguments it refuses or the adapter sets.
        """
        super().__init__()
        told = cast(FairchemSettings, settings)
        if told.species[-1] >= _ELEMENTS:
            raise PotentialError(
                f"{self.kind} setting 'species' has {told.species[-1]}: eSEN knows the elements 1 to 99"
            )
        taken = sorted(_OURS.keys() & told.options.keys())
        if taken:
            raise PotentialError(f"{self.kind} setting 'options' has {taken[0]!r}, which the adapter sets itself")
        found = self.imported(".models.uma.escn_md")
        options: dict[str, Any] = {**told.options, **_OURS}

        def make() -> nn.Module:
            backbone = found.eSCNMDBackbone(**options)
            return _Energy(backbone, found.MLP_EFS_Head(backbone).energy_block)

        module = making(self.kind, told.seed, make)
        self._dataset = told.dataset
        self.adapt(told, module, float(cast(Any, module).backbone.cutoff))
        probe(self, "this eSEN", self.dtype, torch.device("cpu"))

    @classmethod
    def from_words(cls, words: str) -> Self:
        """Open a checkpoint for inference.

        Args:
            words: its path, followed by `?dataset=NAME` where the model has several energy tasks. The file holds a
                pickled class, so its path must have been allowed as code is.

        Raises:
            PotentialError: no such file, one that was not allowed, another backbone than eSEN, several energy tasks
                and none chosen, an unknown option, or the package is missing.
        """
        path, _, query = words.partition("?")
        told = parse_options(query, path)
        if told.keys() - {"dataset"}:
            raise PotentialError(f"{words!r} has an option that {cls.kind}: does not know; allowed is dataset=NAME")
        cls.imported()
        found = read_pickled(path, cls.kind)
        config = dict(getattr(found, "model_config", {}).get("backbone", {}))
        name = str(config.pop("model", config.pop("_target_", type(found).__name__))).rpartition(".")[2]
        if name not in ("eSCNMDBackbone", "escnmd_backbone"):
            raise PotentialError(f"{path}: holds {name!r}: adapted is eSEN (eSCNMDBackbone), not mixtures of experts")
        task = _energy_task(cls, found, told.get("dataset"), path)
        options = {key: value for key, value in config.items() if key not in _OURS and key != "_target_"}
        potential = cls.from_settings({"options": options, **told})
        potential.take(_tensors(found, task, potential.module, path), path)
        return potential

    def energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return the energy of eSEN, references included; see `ConservativePotential.energy`.

        Raises:
            PotentialError: an element or floating type it does not take.
        """
        self.check_input(structures)
        edges = within(structures, edges, self.cutoff)
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


def _energy_task(cls: type[FairchemPotential], found: Any, dataset: str | None, path: str) -> Any:
    """Return the energy task of a checkpoint, of one data set where there are several."""
    import hydra  # comes with fairchem

    try:
        tasks = [hydra.utils.instantiate(config) for config in found.tasks_config]
    except Exception as error:  # what a file names may fail in any way
        raise PotentialError(f"{path}: its tasks cannot be built ({one_line(error)}): check the version") from error
    energies = [t for t in tasks if t.property == "energy" and (dataset is None or dataset in t.datasets)]
    if len(energies) != 1:
        known = sorted({name for t in tasks if t.property == "energy" for name in t.datasets})
        told = nearest_known(dataset, known) if dataset else f"it has {', '.join(known) or 'none'}"
        raise PotentialError(f"{path}: write ?dataset=NAME to choose its energy task; {told}")
    return energies[0]


def _tensors(found: Any, task: Any, module: nn.Module, path: str) -> dict[str, Tensor]:
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
