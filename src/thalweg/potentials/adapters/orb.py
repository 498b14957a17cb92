"""ORB v3 (Rhodes et al., arXiv 2504.06231) under our contract: `orb`, conservative, and `orb-direct`, forces of a head.

ORB's conservative module takes forces from positions that it marks itself and with a graph only in training mode, and
its loader switches the parameters off. Here its graph is filled with our differentiable vectors, and of the module
only network, energy head and pair repulsion are called; the direct module's force head and pair forces are called
likewise. All structures are evaluated at once.

Neither is equivariant by construction. The cutoff of 6 Å is smooth to second derivative. A file of weights is a bare
state dictionary: widths and depths are read off its tensors; how many neighbours the model was trained with is not in
it. Models trained with the nearest 20 lose smoothness where two neighbours change places in the order.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import torch
from jaxtyping import Float
from pydantic import Field, Strict
from torch import Tensor, nn

from thalweg.errors import PotentialError
from thalweg.potentials.adapters.apart import imported
from thalweg.potentials.adapters.code import read_pickled
from thalweg.potentials.adapters.packages import OptionSettings, PackageEnergy, PackageModel, within
from thalweg.potentials.contract import Prediction
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

_CUTOFF = 6.0  # fixed in ORB's code


class OrbSettings(OptionSettings):
    """The values from which ORB is built; `options` are the arguments of its v3 architectures."""

    species: Annotated[tuple[int, ...], Strict(False)] = Field(default=tuple(range(1, 118)), min_length=1)
    """Atomic numbers; fewer where others shall be refused."""
    neighbours: int | None = Field(default=None, ge=1)
    """Only so many nearest neighbours are seen, as models with 20 in their name were trained; None for all."""


class _Orb(PackageModel):
    """What the two have in common."""

    extra: ClassVar[str] = "orb"
    options: ClassVar[tuple[str, ...]] = ("neighbours",)
    file: ClassVar[str] = "a .ckpt file of an ORB v3 model"
    model: ClassVar[type[OrbSettings]] = OrbSettings
    architecture: ClassVar[str]
    """The function of `orb_models.forcefield.pretrained` that builds it."""
    used: ClassVar[tuple[str, ...]]
    """Beginnings of the names of the parameters that are on the way to energy and forces."""

    def build(self, settings: OrbSettings) -> tuple[nn.Module, float]:
        """Return an ORB v3; what is not on the way to energy and forces does not learn."""
        if settings.species[-1] > 117:
            raise PotentialError(
                f"{self.kind} setting 'species' has {settings.species[-1]}: ORB knows the elements 1 to 117"
            )
        if settings.options.get("has_charge_spin_cond"):
            raise PotentialError(
                "this ORB asks for total charge and spin (omol models do), which structures here do not have: take an "
                "omat or mpa model"
            )
        build = getattr(imported("orb_models.forcefield.pretrained", self.extra), self.architecture)
        self._graphs = imported("orb_models.forcefield.base", self.extra).AtomGraphs
        self._neighbours = settings.neighbours
        options: dict[str, Any] = {**settings.options, "device": "cpu"}
        module: nn.Module = build(**options)
        for name, parameter in module.named_parameters():
            used = name.startswith(self.used) and ".reference." not in name and "._decoder." not in name
            parameter.requires_grad_(used)
        return module, _CUTOFF

    @classmethod
    def read(cls, path: Path, options: dict[str, Any]) -> PackageModel:
        """Return the potential of a file of weights, with `neighbours` among its options.

        A file with forces of a head makes an `OrbDirect`, whichever of the two is asked.
        """
        tensors = read_pickled(path)
        if not isinstance(tensors, dict) or "model.atom_emb.embeddings.weight" not in tensors:
            raise PotentialError(f"{path}: these are no weights of ORB: give a .ckpt file of a v3 model")
        if re.search(r"[-_]20[-_.]", path.name) and "neighbours" not in options:
            raise PotentialError(
                f"{path}: its name speaks of 20 neighbours, which the file itself does not say: write ?neighbours=20 "
                "behind it, or ?neighbours=null to see all"
            )
        direct = any(name.startswith("heads.forces.") for name in tensors)
        kind: type[_Orb] = OrbDirect if direct else OrbConservative
        potential = kind.from_settings({"options": _read_off(tensors, path), **options})
        potential.take(tensors, str(path))
        return potential

    def packed(self) -> dict[str, Tensor]:
        """Return the tensors, as files of ORB hold them."""
        return {name: tensor.detach().cpu() for name, tensor in self.module.state_dict().items()}

    def _batch(self, structures: Structures, edges: Edges) -> Any:
        """Return ORB's graph: sender and receiver are our centre and neighbour."""
        vectors = edges.vectors(structures)
        if self._neighbours is not None:
            near = _nearest(edges, vectors.detach(), len(structures.positions), self._neighbours)
            edges, vectors = Edges(edges.centre[near], edges.neighbour[near], edges.shift[near]), vectors[near]
        kinds = torch.nn.functional.one_hot(structures.numbers, num_classes=118).to(structures.dtype)
        per_structure = torch.bincount(structures.owner[edges.centre], minlength=len(structures))
        return self._graphs(
            senders=edges.centre,
            receivers=edges.neighbour,
            n_node=structures.counts,
            n_edge=per_structure,
            node_features={
                "positions": structures.positions,
                "atomic_numbers": structures.numbers,
                "atomic_numbers_embedding": kinds,
            },
            edge_features={"vectors": vectors, "unit_shifts": edges.shift},
            system_features={"cell": structures.cell, "pbc": structures.pbc},
            node_targets=None,
            edge_targets=None,
            system_targets=None,
            system_id=None,
            fix_atoms=None,
            tags=None,
            radius=self.cutoff,
            max_num_neighbors=torch.tensor([self._neighbours or 1000]),
        )


class OrbConservative(_Orb, PackageEnergy):
    """The energy of a conservative ORB v3; forces are its derivatives. Built from `OrbSettings`."""

    kind: ClassVar[str] = "orb"
    architecture: ClassVar[str] = "orb_v3_conservative_architecture"
    used: ClassVar[tuple[str, ...]] = ("model.", "heads.energy.")

    def model_energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return what ORB says, references and pair repulsion included; see `PackageEnergy.model_energy`."""
        module, batch = cast(Any, self.module), self._batch(structures, edges)
        found: Tensor = module.heads["energy"].predict(module.model(batch)["node_features"], batch).reshape(-1)
        return found + module.pair_repulsion_fn(batch)["energy"] if module.pair_repulsion else found


class OrbDirect(_Orb):
    """Energy and forces of the heads of a direct ORB v3; built from `OrbSettings`.

    Its forces are the derivative of nothing: the adjoint measures their asymmetry and chooses its solver by it.
    """

    kind: ClassVar[str] = "orb-direct"
    conservative: ClassVar[bool] = False
    architecture: ClassVar[str] = "orb_v3_direct_architecture"
    used: ClassVar[tuple[str, ...]] = ("model.", "heads.energy.", "heads.forces.")

    def forward(
        self,
        structures: Structures,
        *,
        edges: Edges | None = None,
        graph: bool = False,
        stress: bool = False,
    ) -> Prediction:
        """Evaluate a batch; see `Potential.forward`.

        Args:
            structures: the batch; its floating type must be that of the parameters.
            edges: neighbour list at `cutoff`, found afresh when None.
            graph: keep energy and forces differentiable to parameters, positions and cell.
            stress: refused: that of its head belongs to no energy.

        Raises:
            PotentialError: an element or floating type it does not take, or a stress asked for.
        """
        if stress:
            raise PotentialError(
                f"an {self.kind} potential has no stress that belongs to its energy: keep the cell fixed, or take a "
                "conservative model"
            )
        self.check_input(structures)
        module = cast(Any, self.module)
        with torch.set_grad_enabled(graph):
            found = self.edges(structures) if edges is None else edges
            batch = self._batch(structures, within(structures, found, self.cutoff))
            features = module.model(batch)["node_features"]
            energy = module.heads["energy"].predict(features, batch).reshape(-1)
            forces = module.heads["forces"].predict(features, batch)
            if module.pair_repulsion:
                pairs = module.pair_repulsion_fn(batch)
                energy, forces = energy + pairs["energy"], forces + pairs["forces"]
            energy, forces = self.referred(energy, structures), self.scale * forces
        return Prediction(energy, forces)


def _nearest(edges: Edges, vectors: Tensor, atoms: int, most: int) -> Tensor:
    """Return which edges lead to the `most` nearest neighbours of their centre; ties keep the order of the list."""
    by_length = torch.argsort(vectors.square().sum(dim=1), stable=True)
    order = by_length[torch.argsort(edges.centre[by_length], stable=True)]
    counts = torch.bincount(edges.centre, minlength=atoms)
    first = (torch.cumsum(counts, 0) - counts)[edges.centre[order]]
    rank = torch.arange(len(order), device=order.device) - first
    near = torch.zeros(len(order), dtype=torch.bool, device=order.device)
    near[order] = rank < most
    return near


def _read_off(tensors: dict[str, Tensor], path: Path) -> dict[str, Any]:
    """Return the arguments of the architecture that these tensors belong to."""

    def depth(beginning: str) -> int:
        return sum(bool(re.fullmatch(rf"{re.escape(beginning)}\.NN-\d+\.weight", name)) for name in tensors) - 1

    if "model.rbf_transform.bessel_weights" not in tensors or "heads.energy.mlp.NN-0.weight" not in tensors:
        raise PotentialError(f"{path}: these weights are not of an ORB v3: earlier ones are not adapted")
    base, head = "model._encoder._node_fn.mlp", "heads.energy.mlp"
    layers = {int(name.split(".")[2]) for name in tensors if name.startswith("model.gnn_stacks.")}
    return {
        "latent_dim": tensors["model.atom_emb.embeddings.weight"].shape[1],
        "base_mlp_hidden_dim": tensors[f"{base}.NN-0.weight"].shape[0],
        "base_mlp_depth": depth(base),
        "head_mlp_hidden_dim": tensors[f"{head}.NN-0.weight"].shape[0],
        "head_mlp_depth": depth(head),
        "num_message_passing_steps": len(layers),
        "has_charge_spin_cond": any(name.startswith("model.conditioner.") for name in tensors),
        "has_stress": any(name.startswith(("heads.stress.", "grad_stress_normalizer.")) for name in tensors),
    }
