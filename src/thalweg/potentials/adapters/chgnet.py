"""CHGNet (Deng et al., Nature Machine Intelligence 5, 1031 (2023)) under our contract.

CHGNet's own way from a structure to its graph goes through pymatgen and float32 NumPy, and its forces are taken at
tensors made there, so that neither positions nor cell see a graph. Here the graph is laid out from our edges: each
pair of opposite edges is one undirected bond, each pair of short edges at one atom an angle. The bases are
functions of our differentiable lengths and directions, and the module then gives the energy alone, in the floating
type of the positions. All structures are evaluated at once.

The energy is smooth to second derivative where a bond reaches its cutoff. An angle enters by arccos(c (1 − 10⁻⁶)):
where three atoms lie on a line the curvature of a basis function is bounded but up to 10³ times the usual.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import torch
from jaxtyping import Float, Int
from pydantic import Field, Strict
from torch import Tensor, nn

from thalweg.errors import PotentialError, nearest_known
from thalweg.potentials.adapters.apart import imported
from thalweg.potentials.adapters.code import read_pickled
from thalweg.potentials.adapters.packages import OptionSettings, PackageEnergy, PackageModel
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

_KNOWN = tuple(range(1, 95))


class CHGNetSettings(OptionSettings):
    """The values from which CHGNet is built; `options` are the arguments of `chgnet.model.CHGNet`."""

    species: Annotated[tuple[int, ...], Strict(False)] = Field(default=_KNOWN, min_length=1)
    """Atomic numbers, hydrogen to plutonium; fewer where others shall be refused."""


class CHGNet(PackageEnergy):
    """The energy of a CHGNet as a conservative potential; built from `CHGNetSettings`."""

    kind: ClassVar[str] = "chgnet"
    extra: ClassVar[str] = "chgnet"
    file: ClassVar[str] = "a file that CHGNet wrote, or the name of a model that came with it"
    model: ClassVar[type[CHGNetSettings]] = CHGNetSettings

    def build(self, settings: CHGNetSettings) -> tuple[nn.Module, float]:
        """Return a CHGNet without its way from structures to graphs."""
        if settings.species[-1] > _KNOWN[-1]:
            raise PotentialError(
                f"{self.kind} setting 'species' has {settings.species[-1]}: CHGNet knows the elements 1 to {_KNOWN[-1]}"
            )
        if settings.options.get("mlp_out_bias"):
            raise PotentialError(
                "this CHGNet has an output bias (mlp_out_bias, as 0.2.0 has): its energy jumps where the first angle "
                "of a structure appears, so it has no forces there; take 0.3.0 or train one without"
            )
        package = imported("chgnet.model.model", self.extra)
        self._graph = package.BatchedGraph
        options: dict[str, Any] = {"graph_converter_algorithm": "legacy", **settings.options}
        module = package.CHGNet(**options)
        if module.composition_model is not None and not hasattr(module.composition_model, "fc"):
            raise PotentialError("this CHGNet has a composition model that is not linear: only linear ones are adapted")
        module.graph_converter = None  # the way round our edges; it holds functions that cannot be copied
        self._bond_cutoff = float(options.get("bond_graph_cutoff", 3))
        return module, float(options.get("atom_graph_cutoff", 6))

    @classmethod
    def find(cls, name: str) -> Path:
        """Return a file, or that of a model which came with the package, e.g. 0.3.0.

        Raises:
            PotentialError: neither of them.
        """
        return Path(name) if Path(name).exists() else _bundled(name)

    @classmethod
    def read(cls, path: Path, options: dict[str, Any]) -> PackageModel:
        """Return the potential of a file that CHGNet wrote; it has no options."""
        found = read_pickled(path)
        found = found.get("model", found) if isinstance(found, dict) else found
        if not isinstance(found, dict) or not {"state_dict", "model_args"} <= found.keys():
            raise PotentialError(f"{path}: this holds no CHGNet (state_dict and model_args): give a file it wrote")
        tensors, arguments = found["state_dict"], dict(found["model_args"])
        if any(name.endswith("mlp_out.layers.1.bias") for name in tensors):
            arguments["mlp_out_bias"] = True
        potential = cls.from_settings({"options": _plain(arguments)})
        potential.take(tensors, str(path))
        return potential

    def packed(self) -> dict[str, Any]:
        """Return what CHGNet loads again: its arguments and tensors."""
        tensors = {name: tensor.detach().cpu() for name, tensor in self.module.state_dict().items()}
        return {"model": {"state_dict": tensors, "model_args": dict(self.settings["options"])}}

    def model_energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return what CHGNet says, composition included; see `PackageEnergy.model_energy`."""
        module = cast(Any, self.module)
        found: Tensor = module._compute(self._batched(module, structures, edges))["e"]
        if module.is_intensive:
            found = found * structures.counts
        if module.composition_model is None:
            return found
        return found + structures.total(module.composition_model.fc.weight[0].index_select(0, structures.numbers - 1))

    def _batched(self, module: Any, structures: Structures, edges: Edges) -> Any:
        """Return the package's graph, every entry a function of our positions and cell."""
        vectors = edges.vectors(structures)
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        bond, first = _bonds(edges, len(structures.positions))
        one, other = _angles(edges, lengths.detach() < self._bond_cutoff)
        directions = vectors / lengths.unsqueeze(1)
        unique = lengths.index_select(0, first)
        basis = module.bond_basis_expansion
        return self._graph(
            atomic_numbers=structures.numbers,
            bond_bases_ag=basis.rbf_expansion_ag(unique),
            bond_bases_bg=basis.rbf_expansion_bg(unique),
            angle_bases=module.angle_basis_expansion(
                directions.index_select(0, one), directions.index_select(0, other)
            ),
            batched_atom_graph=torch.stack([edges.centre, edges.neighbour], dim=1),
            batched_bond_graph=torch.stack([edges.centre[one], bond[one], bond[other]], dim=1),
            atom_owners=structures.owner,
            directed2undirected=bond,
            atom_positions=[],
            strains=[],
            volumes=[],
        )


def _bonds(edges: Edges, atoms: int) -> tuple[Int[Tensor, " edges"], Int[Tensor, " bonds"]]:
    """Return the undirected bond of each edge, and one edge of each bond: (i, j, S) and (j, i, −S) are one bond."""
    shift = edges.shift.long()
    reach = int(shift.abs().max()) if len(edges) else 0
    base = 2 * reach + 1

    def key(a: Tensor, b: Tensor, s: Tensor) -> Tensor:
        s = s + reach
        return (((a * atoms + b) * base + s[:, 0]) * base + s[:, 1]) * base + s[:, 2]

    there, back = key(edges.centre, edges.neighbour, shift), key(edges.neighbour, edges.centre, -shift)
    known, bond = torch.unique(torch.minimum(there, back), return_inverse=True)
    order = torch.arange(len(edges), device=shift.device)
    first = torch.full_like(known, len(edges)).scatter_reduce(0, bond, order, "amin")
    return bond, first


def _angles(edges: Edges, short: Tensor) -> tuple[Int[Tensor, " angles"], Int[Tensor, " angles"]]:
    """Return all ordered pairs of different short edges that share their centre."""
    chosen = short.nonzero().squeeze(1)
    centre = edges.centre[chosen]
    if not len(chosen):
        return chosen, chosen
    counts = torch.bincount(centre)
    begin = (torch.cumsum(counts, 0) - counts)[centre]  # where the short edges of this centre begin
    many = counts[centre]
    one = torch.repeat_interleave(torch.arange(len(chosen), device=chosen.device), many)
    place = torch.arange(len(one), device=chosen.device) - (torch.cumsum(many, 0) - many)[one]
    other = begin[one] + place
    apart = one != other
    return chosen[one[apart]], chosen[other[apart]]


def _bundled(name: str) -> Path:
    folder = Path(str(imported("chgnet", CHGNet.extra).__file__)).parent / "pretrained"
    known = {path.parent.name: path for path in folder.glob("*/*.pth.tar")}
    if name not in known:
        raise PotentialError(
            f"there is no file {name!r} and no model of that name in the installed chgnet; {nearest_known(name, known)}"
        )
    return known[name]


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a checkpoint as settings keep them."""
    for key, value in options.items():
        if not isinstance(value, str | int | float | bool | list | tuple | type(None)):
            raise PotentialError(
                f"this CHGNet was made with {key} = a {type(value).__name__}, which no settings can hold: save it with "
                "a named composition model"
            )
    return {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
