"""fairchem's eSEN (Fu et al., arXiv 2502.12147; `eSCNMDBackbone`) under our contract.

fairchem's head takes forces from positions that the backbone marks itself, with a graph in training mode only, and its
prediction unit detaches. Here the backbone is built without forces of its own and given our edges, on differentiable
positions and cell; the energy block of the head, the normaliser and the element references of the energy task follow.
All structures are evaluated at once. Charge, spin and data set are the same for all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import torch
from jaxtyping import Float
from pydantic import Field, Strict
from torch import Tensor, nn

from thalweg.errors import PotentialError
from thalweg.potentials.adapters.apart import imported
from thalweg.potentials.adapters.code import read_pickled
from thalweg.potentials.adapters.fairchem_checkpoint import ELEMENTS, read_checkpoint
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
_MOLECULES = "omol"
"""The data set whose structures have a spin multiplicity, 1 unless told; others have none, 0."""


class FairchemSettings(OptionSettings):
    """The values from which eSEN is built; `options` are the arguments of `eSCNMDBackbone`."""

    species: Annotated[tuple[int, ...], Strict(False)] = Field(default=tuple(range(1, ELEMENTS)), min_length=1)
    """Atomic numbers; fewer where others shall be refused."""
    dataset: str | None = None
    """Name of the data set whose level of theory is asked for, where the model has an embedding of them."""
    charge: int = Field(default=0, ge=-100, le=100)
    """Total charge of every structure, e."""
    spin: int = Field(default=0, ge=0, le=100)
    """Spin multiplicity of every structure; 0 where the model knows none."""


class _Energy(nn.Module):
    """Backbone and energy block, with the scale and shifts of the energy task."""

    def __init__(self, backbone: nn.Module, energy_block: nn.Module) -> None:
        super().__init__()
        self.backbone, self.energy_block = backbone, energy_block
        self.register_buffer("rmsd", torch.ones(()))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("references", torch.zeros(ELEMENTS))


class _DataSets(nn.Module):
    """The embedding of data sets; fairchem's own looks for its device among parameters that may be none."""

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self.dataset_emb_dict: nn.ModuleDict = theirs.dataset_emb_dict
        self._shared: dict[str, str] = dict(theirs.dataset_mapping)

    def forward(self, names: list[str]) -> Tensor:
        """Return a row for each name."""
        return torch.cat([cast(Tensor, self.dataset_emb_dict[self._shared[name]].weight) for name in names])


class _Data(dict[str, Any]):
    """What the backbone reads; fairchem's own class names the default of `get`."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or the default."""
        return super().get(key, default)


class Fairchem(PackageEnergy):
    """The energy of an eSEN as a conservative potential; built from `FairchemSettings`."""

    kind: ClassVar[str] = "fairchem"
    extra: ClassVar[str] = "fairchem"
    options: ClassVar[tuple[str, ...]] = ("dataset", "charge", "spin")
    file: ClassVar[str] = "a checkpoint for inference of eSEN"
    model: ClassVar[type[FairchemSettings]] = FairchemSettings

    def build(self, settings: FairchemSettings) -> tuple[nn.Module, float]:
        """Return backbone and energy block of an eSEN."""
        if settings.species[-1] >= ELEMENTS:
            raise PotentialError(
                f"{self.kind} setting 'species' has {settings.species[-1]}: eSEN knows the elements 1 to 99"
            )
        taken = sorted(_OURS.keys() & settings.options.keys())
        if taken:
            raise PotentialError(f"{self.kind} setting 'options' has {taken[0]!r}, which the adapter sets itself")
        found = imported("fairchem.core.models.uma.escn_md", self.extra)
        options: dict[str, Any] = {**settings.options, **_OURS}
        backbone = found.eSCNMDBackbone(**options)
        if backbone.use_dataset_embedding:
            known = sorted(backbone.dataset_mapping)
            if settings.dataset not in known:
                raise PotentialError(f"{self.kind} setting 'dataset' is {settings.dataset!r}: allowed are {known}")
            backbone.dataset_embedding = _DataSets(backbone.dataset_embedding)
        self._dataset, self._charge, self._spin = settings.dataset, settings.charge, settings.spin
        self._most = int(backbone.max_neighbors)
        return _Energy(backbone, found.MLP_EFS_Head(backbone).energy_block), float(backbone.cutoff)

    @classmethod
    def read(cls, path: Path, options: dict[str, Any]) -> PackageModel:
        """Return the potential of a checkpoint.

        Options are `dataset`, which chooses one of several energy tasks, `charge` and `spin` of every structure.
        """
        imported("fairchem.core", cls.extra)
        found = read_checkpoint(read_pickled(path), path, cls.extra, options.get("dataset"))
        told: dict[str, Any] = {"spin": 1 if found.dataset == _MOLECULES else 0, **options, "dataset": found.dataset}
        arguments = {key: value for key, value in found.options.items() if key not in _OURS}
        potential = cls.from_settings({"options": arguments, **told})
        potential.take(found.tensors, str(path))
        return potential

    def model_energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return what eSEN says, references included; see `PackageEnergy.model_energy`."""
        module = cast(Any, self.module)
        self._check_neighbours(edges, len(structures.positions))
        same = structures.owner.new_ones(len(structures))
        data = _Data(
            pos=structures.positions,
            cell=structures.cell,
            atomic_numbers=structures.numbers,
            natoms=structures.counts,
            batch=structures.owner,
            charge=self._charge * same,
            spin=self._spin * same,
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

    def _check_neighbours(self, edges: Edges, atoms: int) -> None:
        """Refuse more neighbours than the package would let the model see."""
        found = int(torch.bincount(edges.centre, minlength=atoms).max()) if len(edges.centre) else 0
        if found > self._most:
            raise PotentialError(
                f"an atom has {found} neighbours within {self.cutoff:g} Å, but this {self.kind} model sees the nearest "
                f"{self._most} (max_neighbors) and its forces jump where two change places: give sparser structures"
            )
