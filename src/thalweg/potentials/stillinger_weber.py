"""Stillinger–Weber surfaces: several elements, batched, learnable, differentiable as often as wanted.

With rc = a σ of a pair, directions n and distances r from a centre i to its neighbours j and k:

    E = Σ_{i<j} φ2(r_ij) + Σ_i Σ_{j<k} λ_ijk ε_ijk (n_ij·n_ik − cos θ0_ijk)² h_ij(r_ij) h_ik(r_ik)
    φ2(r) = A ε [B (σ/r)^p − (σ/r)^q] exp(σ / (r − rc)),    h(r) = exp(γ σ / (r − rc)),    both 0 for r ≥ rc

Triplets are never listed. Expanding the square turns the sum over them into products of moments of the
neighbourhood, one set per element s of the neighbours:

    S_s = Σ_j h_ij,   V_s = Σ_j h_ij n_ij,   M_s = Σ_j h_ij n_ij ⊗ n_ij
    E3_i = ½ Σ_st λε_ist [M_s : M_t − 2 c V_s · V_t + c² S_s S_t] − ½ Σ_j λε_ijj (1 − c)² h_ij²

so that the cost is linear in the number of neighbours. It is the reference surface of the testbeds and a
baseline with few parameters for training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from ase.data import atomic_numbers
from jaxtyping import Float, Int
from torch import Tensor, nn

from thalweg.errors import PotentialError, nearest_known
from thalweg.potentials.contract import ConservativePotential
from thalweg.potentials.stillinger_weber_entries import Entry, EntrySet, published_entries, read_entries
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

_Key = tuple[int, ...]


class StillingerWeber(ConservativePotential):
    """A Stillinger–Weber potential (Phys. Rev. B 31, 5262 (1985)) for any number of elements.

    Learned, each in a form that is well conditioned and keeps its sign: per unordered pair log(A ε) (eV),
    log B and log σ (Å); per ordered pair log(γ σ) (Å), the decay of the angular term; per centre and
    unordered pair of neighbours log(λ ε) (eV) and cos θ0 as it is. Products that only ever occur together are
    one parameter. Fixed: the cutoff radii a σ, so that neighbour lists stay valid while σ is learned, and the
    exponents p and q. Strengths that are zero in the entries stay zero and are no parameters, nor are the
    columns of mixed triplets that no term uses.

    Departure from LAMMPS: λ ε of two mirrored triplets is the mean of both entries, which differ in the last
    digit of printed files (LAMMPS takes the one it meets first).
    """

    kind: ClassVar[str] = "stillinger-weber"
    takes_species: ClassVar[bool] = False

    def __init__(self, entries: EntrySet, *, dtype: torch.dtype = torch.float64) -> None:
        """Build the potential from a complete set of entries.

        Args:
            entries: one entry per ordered triplet of elements.
            dtype: floating type of parameters and constants.

        Raises:
            PotentialError: no pair interacts, or a pair has a vanishing σ or γ where a term needs it.
        """
        super().__init__()
        self._entries = entries
        self.species = tuple(atomic_numbers[s] for s in entries.elements)
        count = len(self.species)
        terms = _collect(entries)
        self.pair_strength = _Table((count, count), terms["pair_strength"], sorted_key, off=0.0)
        self.repulsion = _Table((count, count), terms["repulsion"], sorted_key, off=0.0)
        self.length = _Table((count, count), terms["length"], sorted_key, off=1.0)
        self.decay = _Table((count, count), terms["decay"], tuple, off=1.0)
        self.stiffness = _Table((count, count, count), terms["stiffness"], neighbours_sorted_key, off=0.0)
        self.cosine = _Table((count, count, count), terms["cosine"], neighbours_sorted_key, off=0.0, positive=False)
        pairs = [entries.pair(i, j) for i, j in product(entries.elements, repeat=2)]
        self.cutoff = max(e.reach for e in pairs)
        if self.cutoff == 0:
            raise PotentialError(
                "every Stillinger–Weber pair has a cutoff a σ of zero: nothing interacts; mend a or sigma"
            )
        slots = torch.full((119,), -1)
        slots[list(self.species)] = torch.arange(count)
        self.register_buffer("radii", torch.tensor([e.reach for e in pairs], dtype=torch.float64))
        self.register_buffer("exponent_p", torch.tensor([e.p for e in pairs], dtype=torch.float64))
        self.register_buffer("exponent_q", torch.tensor([e.q for e in pairs], dtype=torch.float64))
        self.register_buffer("slots", slots)
        self.radii: Tensor
        self.exponent_p: Tensor
        self.exponent_q: Tensor
        self.slots: Tensor
        self.to(dtype)

    @classmethod
    def from_published(cls, name: str, *, dtype: torch.dtype = torch.float64) -> Self:
        """Build a published potential: `"Si"`, `"CdTe-1989"` or `"CdTe-2013"` (sources in `PUBLISHED`).

        Raises:
            PotentialError: another name.
        """
        return cls(published_entries(name), dtype=dtype)

    @classmethod
    def from_file(
        cls, path: str | Path, elements: Sequence[str] | None = None, *, dtype: torch.dtype = torch.float64
    ) -> Self:
        """Build a potential from a LAMMPS `.sw` file, all its elements or the chosen ones.

        Raises:
            PotentialError: the file cannot be read, or its entries are incomplete or inconsistent.
        """
        return cls(read_entries(path, elements), dtype=dtype)

    @property
    def settings(self) -> dict[str, Any]:
        """The entries it was built from, as JSON types."""
        return {"entries": [e.plain() for e in self._entries.by_triplet.values()]}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Build a potential from `{"entries": [...]}` or `{"published": name}`.

        Raises:
            PotentialError: an unknown key, neither or both keys, or entries that are not complete.
        """
        for key in settings:
            if key not in ("entries", "published"):
                raise PotentialError(
                    f"{cls.kind} has no setting {key!r}; {nearest_known(key, ('entries', 'published'))}"
                )
        if len(settings) != 1:
            raise PotentialError(f"{cls.kind} settings have {sorted(settings)}: give either 'entries' or 'published'")
        if "published" in settings:
            return cls.from_published(settings["published"])
        entries = settings["entries"]
        if not isinstance(entries, list | tuple):
            raise PotentialError(f"{cls.kind} entries are {entries!r}: give a list of mappings, one a triplet")
        return cls(EntrySet.of([Entry.from_plain(e) for e in entries]))

    def energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return the energy of each structure, eV; edges beyond a pair's cutoff add exactly zero."""
        kinds = self.slots[structures.numbers]  # atoms
        if (kinds < 0).any():
            self.check(structures)
        count = len(self.species)
        pair = kinds[edges.centre] * count + kinds[edges.neighbour] if count > 1 else None
        vectors = edges.vectors(structures)
        r = vectors.norm(dim=1)
        gap = r - _of_edge(self.radii, pair)
        decaying = vanishing(_of_edge(self.decay(), pair), gap)
        of_edge = 0.5 * self._pair_energy(r, gap, pair) - self._self_triplets(decaying, pair)
        of_atom = self._triplet_energy(vectors / r.unsqueeze(1), decaying, kinds, edges)
        return structures.total(of_atom.index_add(0, edges.centre, of_edge))

    def _pair_energy(
        self, r: Float[Tensor, " edges"], gap: Float[Tensor, " edges"], pair: Int[Tensor, " edges"] | None
    ) -> Float[Tensor, " edges"]:
        length = _of_edge(self.length(), pair)
        ratio = (length / r).log()
        repulsive = _of_edge(self.repulsion(), pair) * (_of_edge(self.exponent_p, pair) * ratio).exp()
        attractive = (_of_edge(self.exponent_q, pair) * ratio).exp()
        return _of_edge(self.pair_strength(), pair) * (repulsive - attractive) * vanishing(length, gap)

    def _self_triplets(
        self, decaying: Float[Tensor, " edges"], pair: Int[Tensor, " edges"] | None
    ) -> Float[Tensor, " edges"]:
        """Return what the moments count of a neighbour with itself, where the cosine is 1."""
        stiffness = self.stiffness().diagonal(dim1=1, dim2=2).flatten()
        cosine = self.cosine().diagonal(dim1=1, dim2=2).flatten()
        return _of_edge(0.5 * stiffness * (1 - cosine).square(), pair) * decaying.square()

    def _triplet_energy(
        self,
        directions: Float[Tensor, "edges 3"],
        decaying: Float[Tensor, " edges"],
        kinds: Int[Tensor, " atoms"],
        edges: Edges,
    ) -> Float[Tensor, " atoms"]:
        count, atoms = len(self.species), kinds.shape[0]
        x, y, z = directions.unbind(dim=1)
        weighted = torch.stack([decaying, decaying * x, decaying * y, decaying * z], dim=1)  # S and V
        root2 = 2.0**0.5  # off-diagonal components of M occur twice in M : M
        second = [x * weighted[:, 1], y * weighted[:, 2], z * weighted[:, 3]]
        second += [root2 * x * weighted[:, 2], root2 * x * weighted[:, 3], root2 * y * weighted[:, 3]]
        of_edge = torch.cat([weighted, torch.stack(second, dim=1)], dim=1)  # edges 10
        target = edges.centre if count == 1 else edges.centre * count + kinds[edges.neighbour]
        moments = of_edge.new_zeros((atoms * count, 10)).index_add(0, target, of_edge).view(atoms, count, 10)
        stiffness, cosine = self.stiffness()[kinds], self.cosine()[kinds]  # atoms s t
        ranks = (moments[:, :, :1], moments[:, :, 1:4], moments[:, :, 4:])
        scalar, vector, tensor = (m @ m.transpose(1, 2) for m in ranks)  # S S, V·V, M:M, each atoms s t
        square = tensor - 2 * cosine * vector + cosine.square() * scalar
        energy: Tensor = 0.5 * (stiffness * square).sum(dim=(1, 2))
        return energy


def vanishing(length: Float[Tensor, ...], gap: Float[Tensor, " edges"]) -> Float[Tensor, " edges"]:
    """Return exp(length / gap) for gap = r − rc < 0 and 0 beyond: smooth to every order at the cutoff.

    So close to the cutoff that the value underflows it is set to 0 and the division is not made: powers of
    1/gap in derivatives would overflow there and inf · 0 is NaN (in float32 from the third derivative on).
    """
    limit = -0.98 * float(torch.log(torch.tensor(torch.finfo(gap.dtype).tiny, dtype=torch.float64)))
    inside = gap * limit < -length.detach()
    return torch.where(inside, (length / torch.where(inside, gap, -1.0)).exp(), 0.0)


def sorted_key(index: _Key) -> _Key:
    """Tie (i, j) to (j, i)."""
    return tuple(sorted(index))


def neighbours_sorted_key(index: _Key) -> _Key:
    """Tie (i, j, k) to (i, k, j)."""
    return (index[0], *sorted(index[1:]))


class _Table(nn.Module):
    """A table over elements filled from one learnable vector; tied slots share one, others hold `off`."""

    def __init__(
        self,
        shape: _Key,
        values: Mapping[_Key, float],
        key: Callable[[_Key], _Key],
        *,
        off: float,
        positive: bool = True,
    ) -> None:
        super().__init__()
        self.shape, self.positive = shape, positive
        row = {k: n for n, k in enumerate(values)}
        keys = [key(index) for index in product(*(range(n) for n in shape))]
        start = torch.tensor(list(values.values()), dtype=torch.float64)
        self.raw = nn.Parameter(start.log() if positive else start)
        self.register_buffer("rows", torch.tensor([row.get(k, len(row)) for k in keys]))
        self.register_buffer("off", torch.tensor([off], dtype=torch.float64))
        self.rows: Tensor
        self.off: Tensor

    def forward(self) -> Tensor:
        """Return the table."""
        values = self.raw.exp() if self.positive else self.raw
        return torch.cat([values, self.off])[self.rows].view(self.shape)


def _of_edge(table: Tensor, pair: Int[Tensor, " edges"] | None) -> Tensor:
    """Return the entry of each edge, or the single entry where there is one element."""
    return table.flatten() if pair is None else table.flatten().index_select(0, pair)


def _collect(entries: EntrySet) -> dict[str, dict[_Key, float]]:
    """Return the starting values of what is learned, by name and slot."""
    names = ("pair_strength", "repulsion", "length", "decay", "stiffness", "cosine")
    found: dict[str, dict[_Key, float]] = {name: {} for name in names}
    elements = entries.elements
    for i, j in product(range(len(elements)), repeat=2):
        entry = entries.pair(elements[i], elements[j])
        if i > j or entry.reach == 0 or entry.A * entry.epsilon == 0:
            continue
        found["pair_strength"][i, j] = entry.A * entry.epsilon
        found["length"][i, j] = entry.sigma
        if entry.B > 0:
            found["repulsion"][i, j] = entry.B
    for i, j, k in product(range(len(elements)), repeat=3):
        one = entries.by_triplet[elements[i], elements[j], elements[k]]
        other = entries.by_triplet[elements[i], elements[k], elements[j]]
        legs = [entries.pair(elements[i], elements[n]) for n in (j, k)]
        if j > k or one.stiffness * other.stiffness * legs[0].reach * legs[1].reach == 0:
            continue
        found["stiffness"][i, j, k] = 0.5 * (one.stiffness + other.stiffness)
        found["cosine"][i, j, k] = 0.5 * (one.cos_theta0 + other.cos_theta0)
        for n, leg in zip((j, k), legs, strict=True):
            if leg.gamma == 0:
                raise PotentialError(
                    f"Stillinger–Weber entry {leg.label}: gamma is 0 but {one.label} has a three-body term; "
                    "allowed is above 0, or the term would jump at the cutoff"
                )
            found["decay"][i, n] = leg.gamma * leg.sigma
    return found
