"""MatGL's M3GNet and TensorNet (Ko et al., npj Computational Materials 11, 253 (2025)) under our contract.

MatGL's own `Potential` makes positions from fractional coordinates, marks them itself and keeps the graph of forces
only in training mode; its loop over atoms for three-body terms goes through NumPy. Here its energy model is called
alone, on our positions and image offsets, both differentiable, with three-body indices by its tensor function. All
structures are evaluated at once. Compiled and Warp kernels, made for one backward pass, are never chosen.

In M3GNet the cosine of an angle is clamped at ±(1 − 10⁻⁷), where three atoms lie on a line.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Float
from pydantic import Field, Strict
from torch import Tensor, nn

from thalweg.errors import PotentialError
from thalweg.potentials.adapters.apart import imported
from thalweg.potentials.adapters.code import read_pickled
from thalweg.potentials.adapters.packages import OptionSettings, PackageEnergy, PackageModel, places
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

_MODELS = ("M3GNet", "TensorNet")
_NOT_KEPT = ("dtype", "use_warp", "element_types", "is_intensive")


class MatGLSettings(OptionSettings):
    """The values from which a MatGL potential is built; `options` are the arguments of its model."""

    species: Annotated[tuple[int, ...], Strict(False)] = Field(min_length=1)
    """Atomic numbers."""
    architecture: Literal["M3GNet", "TensorNet"] = "TensorNet"
    """The model of `matgl.models`."""
    references: bool = False
    """Whether there is an energy of each element."""
    repulsion: Literal["none", "fixed", "trainable"] = "none"
    """The nuclear repulsion of MatGL."""
    order: Annotated[tuple[str, ...], Strict(False)] | None = None
    """Symbols in the order in which the model numbers its elements; that of the atomic numbers when None."""


class MatGL(PackageEnergy):
    """The energy of a MatGL potential; built from `MatGLSettings`."""

    kind: ClassVar[str] = "matgl"
    extra: ClassVar[str] = "matgl"
    file: ClassVar[str] = "a folder in which MatGL saved a Potential: model.pt and state.pt"
    model: ClassVar[type[MatGLSettings]] = MatGLSettings

    def build(self, settings: MatGLSettings) -> tuple[nn.Module, float]:
        """Return MatGL's Potential, of which the model, its scale, references and repulsion are called."""
        order = list(settings.order or (chemical_symbols[z] for z in settings.species))
        unknown = sorted({chemical_symbols[z] for z in settings.species} - set(order))
        if unknown or not set(order) <= set(atomic_numbers):
            raise PotentialError(f"{self.kind} setting 'order' is {order}: allowed are symbols, all of the species")
        taken = sorted(set(settings.options) & set(_NOT_KEPT))
        if taken:
            raise PotentialError(f"{self.kind} setting 'options' has {taken[0]!r}, which the adapter sets itself")
        model = getattr(imported("matgl.models", self.extra), settings.architecture)
        self._line_graph = imported("matgl.graph._compute", self.extra).create_line_graph_torch
        self._order = [atomic_numbers[symbol] for symbol in order]
        arguments: dict[str, Any] = {**settings.options, "element_types": tuple(order), "is_intensive": False}
        if settings.architecture == "TensorNet":
            arguments["use_warp"] = False
        module = imported("matgl.apps.pes", self.extra).Potential(
            model(**arguments),
            element_refs=[0.0] * len(order) if settings.references else None,
            calc_repuls=settings.repulsion != "none",
            zbl_trainable=settings.repulsion == "trainable",
        )
        return module, float(module.model.cutoff)

    @classmethod
    def find(cls, name: str) -> Path:
        """Return the folder of a saved Potential.

        Raises:
            PotentialError: it is not one.
        """
        if not (Path(name) / "model.pt").is_file() or not (Path(name) / "state.pt").is_file():
            raise PotentialError(f"{name}: give {cls.file} (nothing is ever downloaded)")
        return Path(name)

    @classmethod
    def read(cls, path: Path, options: dict[str, Any]) -> PackageModel:
        """Return the potential of such a folder; it has no options."""
        words = str(path)
        imported("matgl", cls.extra)  # tells the reader of tensors which types of NumPy are plain values
        arguments, tensors = read_pickled(path / "model.pt"), read_pickled(path / "state.pt")
        inner = arguments.get("model") if isinstance(arguments, dict) else None
        if not isinstance(inner, dict) or inner.get("@class") not in _MODELS:
            name = inner.get("@class") if isinstance(inner, dict) else type(inner).__name__
            raise PotentialError(f"{words}: holds {name!r}: adapted are potentials of {' and '.join(_MODELS)}")
        if arguments.get("calc_charge"):
            raise PotentialError(f"{words}: this potential asks for total charges, which structures here do not have")
        told = dict(inner["init_args"])
        if told.get("include_state"):
            raise PotentialError(f"{words}: this potential asks for a state beside the atoms: take one without")
        order = [str(symbol) for symbol in told["element_types"]]
        repulsion = "trainable" if arguments.get("zbl_trainable") else "fixed"
        potential = cls.from_settings(
            {
                "species": sorted(atomic_numbers[symbol] for symbol in order),
                "order": order,
                "architecture": inner["@class"],
                "references": arguments.get("element_refs") is not None,
                "repulsion": repulsion if arguments.get("calc_repuls") else "none",
                "options": {k: _plain(k, v, words) for k, v in told.items() if k not in _NOT_KEPT},
            }
        )
        potential.take({k: v for k, v in tensors.items() if not k.endswith(".onehot")}, words)
        return potential

    def model_energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return what MatGL says, its references included; see `PackageEnergy.model_energy`."""
        module = cast(Any, self.module)
        pairs = torch.stack([edges.centre, edges.neighbour])
        offset = (edges.shift.unsqueeze(1) @ structures.cell[structures.owner[edges.centre]]).squeeze(1)
        graph = SimpleNamespace(
            node_type=places(structures.numbers, self._order),
            pos=structures.positions,
            edge_index=pairs,
            pbc_offshift=offset,
            batch=structures.owner,
            num_graphs=len(structures),
            num_nodes=len(structures.positions),
        )
        vectors = edges.vectors(structures)
        graph.bond_vec, graph.bond_dist = vectors, torch.linalg.vector_norm(vectors, dim=1)
        lines: dict[str, Any] = {}
        if hasattr(module.model, "threebody_cutoff"):
            reach = float(module.model.threebody_cutoff)
            lines["l_g"] = self._line_graph(pairs, graph.bond_dist, vectors, graph.num_nodes, reach)
        found: Tensor = module.data_std * module.model(g=graph, state_attr=None, **lines).reshape(-1) + module.data_mean
        module.model.feature_dict = {}  # it keeps the features and their graph, which no copy survives
        if module.calc_repuls:
            found = found + module.repuls(module.model.element_types, graph).reshape(-1)
        if module.element_refs is not None:
            found = found + structures.total(module.element_refs.property_offset.to(found)[graph.node_type])
        return found


def _plain(key: str, value: Any, words: str) -> Any:
    """Return an argument as settings keep it."""
    if isinstance(value, tuple | list):
        return [_plain(key, item, words) for item in value]
    if not isinstance(value, str | int | float | bool | None):
        raise PotentialError(f"{words}: its argument {key!r} is a {type(value).__name__}, which no settings can hold")
    return value
