"""MACE (Batatia et al. 2022) under our contract: models of the package `mace-torch`, opened from its pickled files.

A file of MACE holds the whole module, generated code compiled with it. It is unpickled once, its architecture is read
off, built anew without compiled code, and given its tensors; then both must say the same energies. What is built is
called with `compute_force=False`: its own forces have a graph only if `training=True` and its calculator detaches them;
ours are derivatives of the energy it returns. Vectors are x[receiver] − x[sender] + shifts, differentiable throughout.

A file that keeps its atomic energies in float64 beside float32 parameters is opened in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from thalweg.errors import PotentialError, nearest_known
from thalweg.potentials.adapters.apart import imported
from thalweg.potentials.adapters.code import read_pickled
from thalweg.potentials.adapters.packages import CutoffSettings, PackageEnergy, places
from thalweg.potentials.adapters.probe import probe_structures
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

_GATES = {"silu": nn.functional.silu, "tanh": torch.tanh, "abs": torch.abs}


class MaceSettings(CutoffSettings):
    """The values from which a MACE model is built again; names and meaning are MACE's."""

    cutoff: float = Field(default=4.2, gt=0, allow_inf_nan=False)
    """r_max, Å."""
    hidden_irreps: str = "16x0e+16x1o"
    """Features of an atom."""
    MLP_irreps: str = "16x0e"
    """Width of the last readout."""
    gate: Literal["silu", "tanh", "abs"] | None = "silu"
    """Its nonlinearity."""
    max_ell: int = Field(default=2, ge=0)
    """Highest order of the harmonics."""
    correlation: int = Field(default=2, ge=1)
    """Highest power of the sums over neighbours."""
    num_interactions: int = Field(default=2, ge=1)
    """Messages passed."""
    interaction: str = "RealAgnosticResidualInteractionBlock"
    """Class of all interactions but the first."""
    interaction_first: str = "RealAgnosticResidualInteractionBlock"
    """Class of the first."""
    readout: str = "NonLinearReadoutBlock"
    """Class of the last readout."""
    num_bessel: int = Field(default=8, ge=1)
    """Number of radial functions."""
    num_polynomial_cutoff: int = Field(default=5, ge=2)
    """Power p of the cutoff."""
    radial_type: Literal["bessel", "gaussian", "chebyshev"] = "bessel"
    """Radial basis."""
    radial_MLP: list[int] = Field(default=[64, 64, 64])  # noqa: N815 (MACE's name)
    """Widths of the radial network."""
    distance_transform: Literal["None", "Agnesi", "Soft"] = "None"
    """What distances go through before the radial basis."""
    apply_cutoff: bool = True
    """Whether the radial basis is cut off before the radial network."""
    pair_repulsion: bool = False
    """Whether a nuclear repulsion is added."""
    use_reduced_cg: bool = True
    """Which basis the products have."""
    use_so3: bool = False
    """Whether harmonics ignore parity."""
    use_agnostic_product: bool = False
    """Whether products ignore the element."""
    use_last_readout_only: bool = False
    """Whether only the last layer gives energies."""
    use_edge_irreps_first: bool = False
    """Whether `edge_irreps` hold in the first layer."""
    edge_irreps: str | None = None
    """Features of an edge."""
    avg_num_neighbors: float = Field(default=16.0, gt=0, allow_inf_nan=False)
    """By which sums over neighbours are divided."""
    heads: list[str] = Field(default=["Default"], min_length=1)
    """Levels of theory that the model gives energies for."""
    head: str | None = None
    """Which of them is asked; needed where there are several."""
    per_head: bool = False
    """Whether scale and shift of the interaction energy are one for each head; their values are among the tensors."""


class Mace(PackageEnergy):
    """A MACE model (ScaleShiftMACE); its parameters are the potential's."""

    kind: ClassVar[str] = "mace"
    extra: ClassVar[str] = "mace"
    options: ClassVar[tuple[str, ...]] = ("head",)
    file: ClassVar[str] = "a model file of MACE (.model)"
    model: ClassVar[type[MaceSettings]] = MaceSettings

    def build(self, settings: MaceSettings) -> tuple[nn.Module, float]:
        """Return a ScaleShiftMACE."""
        modules, irreps = imported("mace.modules", self.extra), imported("e3nn.o3", self.extra).Irreps
        if settings.head not in settings.heads and (settings.head is not None or len(settings.heads) > 1):
            raise PotentialError(f"mace has no head {settings.head!r}: name one of {settings.heads}")
        self._head = settings.heads.index(settings.head) if settings.head is not None else 0
        heads = len(settings.heads)
        told = settings.model_dump(exclude={"species", "seed", "cutoff", "head", "per_head"})
        classes = {name: _class(modules, told.pop(name)) for name in ("interaction", "interaction_first", "readout")}
        zeros = [[0.0] * len(self.species) for _ in range(heads)]
        built: nn.Module = modules.ScaleShiftMACE(
            **{
                **told,
                "hidden_irreps": irreps(settings.hidden_irreps),
                "MLP_irreps": irreps(settings.MLP_irreps),
                "edge_irreps": None if settings.edge_irreps is None else irreps(settings.edge_irreps),
                "gate": None if settings.gate is None else _GATES[settings.gate],
                "interaction_cls": classes["interaction"],
                "interaction_cls_first": classes["interaction_first"],
                "readout_cls": classes["readout"],
                "r_max": settings.cutoff,
                "atomic_numbers": list(self.species),
                "num_elements": len(self.species),
                "atomic_energies": zeros if heads > 1 else zeros[0],
                "atomic_inter_scale": [1.0] * heads if settings.per_head else 1.0,
                "atomic_inter_shift": [0.0] * heads if settings.per_head else 0.0,
            }
        )
        return built, settings.cutoff

    @classmethod
    def read(cls, path: Path, options: dict[str, Any]) -> Self:
        """Return the potential of a pickled MACE model."""
        scripts = imported("mace.tools.scripts_utils", cls.extra)
        theirs = read_pickled(path)
        if type(theirs).__name__ != "ScaleShiftMACE":
            raise PotentialError(
                f"{path}: this holds a {type(theirs).__name__}: only a ScaleShiftMACE, whole and not compiled, can be "
                "opened"
            )
        potential = cls(_settings(scripts.extract_config_mace_model(theirs), options))
        state = theirs.state_dict()
        energies = state["atomic_energies_fn.atomic_energies"]
        shaped = potential.module.state_dict()["atomic_energies_fn.atomic_energies"]
        state["atomic_energies_fn.atomic_energies"] = energies.reshape(shaped.shape)
        potential.take(state, str(path))
        _compare(potential, theirs, str(path))
        return potential

    def packed(self) -> nn.Module:
        """Return the whole module, as MACE pickles it."""
        return self.module

    def model_energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return what MACE says; see `PackageEnergy.model_energy`."""
        return _ask(self.module, structures, edges, list(self.species), self._head)


def _ask(
    module: nn.Module, structures: Structures, edges: Edges, species: list[int], head: int
) -> Float[Tensor, " structures"]:
    """Return the energies of a MACE module, with a graph to positions and cell."""
    types = places(structures.numbers, species)
    cell = structures.cell[structures.owner[edges.centre]]
    x = structures.positions
    given = {
        "positions": x.view_as(x),  # MACE sets requires_grad on what it is given
        "node_attrs": nn.functional.one_hot(types, len(species)).to(x),
        "edge_index": torch.stack([edges.neighbour, edges.centre]),  # sender, receiver
        "shifts": -(edges.shift.unsqueeze(1) @ cell).squeeze(1),
        "unit_shifts": -edges.shift,
        "cell": structures.cell.flatten(0, 1),
        "batch": structures.owner,
        "ptr": torch.tensor(structures.offsets, device=x.device),
        "head": torch.full((len(structures),), head, device=x.device),
    }
    energy: Tensor = module(given, compute_force=False)["energy"]
    return energy


def _settings(config: dict[str, Any], options: dict[str, Any]) -> MaceSettings:
    """Return settings for what MACE says of a module."""
    gates = {function: name for name, function in _GATES.items()}
    if config["gate"] is not None and config["gate"] not in gates:
        raise PotentialError(f"its gate {config['gate']!r} is none of {', '.join(_GATES)}: take another model")
    if config["embedding_specs"]:
        raise PotentialError(
            f"it embeds more than elements ({', '.join(config['embedding_specs'])}): take another model"
        )
    same = ["max_ell", "num_bessel", "radial_type", "pair_repulsion", "apply_cutoff", "use_reduced_cg", "use_so3"]
    same += ["use_agnostic_product", "use_last_readout_only", "use_edge_irreps_first"]
    return MaceSettings(
        species=tuple(config["atomic_numbers"].tolist()),
        cutoff=float(config["r_max"]),
        hidden_irreps=str(config["hidden_irreps"]),
        MLP_irreps=str(config["MLP_irreps"]),
        gate=None if config["gate"] is None else gates[config["gate"]],  # type: ignore[arg-type]
        correlation=int(config["correlation"]),
        num_interactions=int(config["num_interactions"]),
        interaction=config["interaction_cls"].__name__,
        interaction_first=config["interaction_cls_first"].__name__,
        readout=config["readout_cls"].__name__,
        num_polynomial_cutoff=int(config["num_polynomial_cutoff"]),
        radial_MLP=[int(width) for width in config["radial_MLP"]],
        distance_transform=config["distance_transform"] or "None",
        edge_irreps=None if config["edge_irreps"] is None else str(config["edge_irreps"]),
        avg_num_neighbors=float(config["avg_num_neighbors"]),
        heads=list(config["heads"]),
        head=options.get("head"),
        per_head=config["atomic_inter_scale"].ndim > 0,
        **{key: config[key] for key in same},
    )


def _compare(potential: Mace, theirs: nn.Module, name: str) -> None:
    """Refuse a model that, built anew, does not say what the one in the file says."""
    dtype = potential.scale.dtype
    structures = probe_structures(potential.species, potential.cutoff, dtype)
    edges = potential.edges(structures)
    wanted = _ask(theirs.to(dtype), structures, edges, list(potential.species), potential._head).detach()
    found = potential.model_energy(structures, edges).detach()
    apart = float((found - wanted).abs().max())
    if not apart <= 100 * torch.finfo(dtype).eps * (1 + float(wanted.abs().max())):
        raise PotentialError(
            f"{name}: built anew from what MACE says of it, this model is {apart:.3g} eV off on a probe of 7 atoms: "
            "its architecture is not one that can be opened"
        )


def _class(modules: Any, name: str) -> Any:
    """Return a block of MACE by its name."""
    known = [n for n in vars(modules) if n.endswith("Block")]
    if name not in known:
        raise PotentialError(f"mace has no block {name!r}: {nearest_known(name, known)}")
    return getattr(modules, name)
