"""Rigid-ion surfaces: point charges with Buckingham terms, batched, learnable, differentiable as often as wanted.

    E = Σ_{i<j} [f(r) A exp(−r/ρ) − f(r) g(r) C/r⁶ + k q_i q_j v(r)] + ½ k w Σ_i q_i²
    v(r) = e(r) − Σ_{n≤3} e⁽ⁿ⁾(rc) (r − rc)ⁿ/n!,    e(r) = erfc(α r)/r,    w = lim_{r→0} [v(r) − 1/r]

v is Coulomb's law, damped by α and shifted so that it ends at rc; nothing is periodic but the neighbour list, and the
cost is linear in atoms. With n ≤ 1 it is the damped shifted force of Fennell and Gezelter, J. Chem. Phys. 124,
234104 (2006), whose second derivative jumps at rc; the next two terms of the same series (as in the Taylor-shifted
forces of Lamichhane, Gezelter and Newman, J. Chem. Phys. 141, 134109 (2014)) carry it to the third. The self term w
is the potential at an ion of all that was taken from its own 1/r.

**Cutoff.** f falls from 1 to 0 over the last `SWITCH` Å below rc. A product with f instead of a series would do for v
too, but the slope it adds to tens of ions in that shell took 30 % off the elastic constant C11 of MgO.

**Core.** −C/r⁶ and the attraction of unlike charges fall without bound as r → 0 and win over the exponential
(the Buckingham catastrophe). g, which rises from 0 at half the core radius to 1 at the core radius, switches both off;
repulsion is left as it is. Beyond the core radius nothing changes; within it no pair attracts more than it would have
done, and below half of it every pair only repels. For that reason like and unlike charges part ways there: g multiplies
k q_i q_j v(r) where q_i q_j < 0 only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations_with_replacement
from typing import Any, ClassVar, Self

import torch
from ase.data import atomic_numbers
from jaxtyping import Float
from torch import Tensor, nn

from thalweg.errors import PotentialError, nearest_known
from thalweg.potentials.contract import ConservativePotential
from thalweg.potentials.rigid_ion_parameters import IonPair, Ions, published_ions, require_number
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges

COULOMB = 14.399645478
"""k = e²/(4πε0), eV Å (CODATA 2018)."""

CUTOFF, DAMPING, CORE = 9.0, 0.3, 1.2
SWITCH = 1.0
"""Width over which the cutoff takes everything to zero, Å."""


class RigidIon(ConservativePotential):
    """Point charges with Buckingham terms, for any number of elements.

    Learned: per pair with a repulsion log A (eV) and log ρ (Å), per pair with a dispersion log C (eV Å⁶), and the
    log of one factor on all charges, so that what is neutral stays neutral. Fixed: cutoff, damping and core radius.

    A net charge is refused: the shifted force compensates it on each ion's cutoff sphere without a word, and it
    nearly always is an ion forgotten. `neutral=False` takes it.
    """

    kind: ClassVar[str] = "rigid-ion"
    takes_species: ClassVar[bool] = False

    def __init__(
        self,
        ions: Ions,
        *,
        cutoff: float = CUTOFF,
        damping: float = DAMPING,
        core: float = CORE,
        neutral: bool = True,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        """Build the potential.

        Args:
            ions: charges and short-range terms.
            cutoff: rc, Å.
            damping: α of the Coulomb term, 1/Å; 0 is undamped.
            core: radius below which attraction is switched off, Å.
            neutral: refuse structures with a net charge.
            dtype: floating type of parameters and constants.

        Raises:
            PotentialError: a value outside its range.
        """
        super().__init__()
        if not SWITCH + core < cutoff < math.inf:
            raise PotentialError(
                f"rigid-ion cutoff is {cutoff} Å: allowed is a length above core + {SWITCH} = {core + SWITCH} Å, e.g. 9"
            )
        if not 0 <= damping < math.inf:
            raise PotentialError(f"rigid-ion damping is {damping}: allowed is 0 or more, 1/Å, e.g. 0.3")
        if not core > 0:
            raise PotentialError(f"rigid-ion core is {core} Å: allowed is a length above 0, e.g. 1.2")
        self._ions = ions
        self.species = tuple(atomic_numbers[s] for s in ions.elements)
        self.cutoff, self.damping, self.core, self.neutral = float(cutoff), float(damping), float(core), neutral
        self._series = _series(self.damping, self.cutoff)
        by_pair = {frozenset(p.elements): p for p in ions.pairs}
        pairs = [by_pair.get(frozenset(p)) for p in combinations_with_replacement(ions.elements, 2)]
        repelling = [p for p in pairs if p is not None and p.A > 0]
        dispersing = [p for p in pairs if p is not None and p.C > 0]
        self.log_strength = nn.Parameter(_logs([p.A for p in repelling]))
        self.log_decay = nn.Parameter(_logs([p.rho for p in repelling]))
        self.log_dispersion = nn.Parameter(_logs([p.C for p in dispersing]))
        self.log_charge = nn.Parameter(torch.zeros((), dtype=torch.float64))
        # rows of the learned vectors for each ordered pair of elements; one past the end is "none"
        self._buffer("repelling", torch.tensor(_rows(len(ions.elements), pairs, repelling)))
        self._buffer("dispersing", torch.tensor(_rows(len(ions.elements), pairs, dispersing)))
        charges = torch.tensor([ions.charges[s] for s in ions.elements], dtype=torch.float64)
        self._buffer("charges", charges)
        slots = torch.full((119,), -1)
        slots[list(self.species)] = torch.arange(len(self.species))
        self._buffer("slots", slots)
        self.repelling: Tensor
        self.dispersing: Tensor
        self.charges: Tensor
        self.slots: Tensor
        self.to(dtype)

    def _buffer(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value)

    @classmethod
    def from_published(
        cls,
        name: str,
        *,
        cutoff: float = CUTOFF,
        damping: float = DAMPING,
        dtype: torch.dtype = torch.float64,
    ) -> Self:
        """Build a published model, `"TiO2"` or `"MgO"` (sources in `rigid_ion_parameters`).

        Args:
            name: which.
            cutoff: see `RigidIon`.
            damping: see `RigidIon`.
            dtype: see `RigidIon`.

        Raises:
            PotentialError: another name, or a value outside its range.
        """
        return cls(published_ions(name), cutoff=cutoff, damping=damping, dtype=dtype)

    @property
    def settings(self) -> dict[str, Any]:
        """What it was built from, as JSON types."""
        return {
            "charges": dict(self._ions.charges),
            "pairs": [p.plain() for p in self._ions.pairs],
            "cutoff": self.cutoff,
            "damping": self.damping,
            "core": self.core,
            "neutral": self.neutral,
        }

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Build a potential from `published` or from `charges` and `pairs`, and any of the constants.

        Raises:
            PotentialError: an unknown key, a wrong type or a value outside its range.
        """
        known = ("published", "charges", "pairs", "cutoff", "damping", "core", "neutral")
        for key in settings:
            if key not in known:
                raise PotentialError(f"{cls.kind} has no setting {key!r}; {nearest_known(str(key), known)}")
        if ("published" in settings) == ("charges" in settings):
            raise PotentialError(
                f"{cls.kind} settings have {sorted(settings)}: give either 'published' or 'charges' with 'pairs'"
            )
        ions = published_ions(settings["published"]) if "published" in settings else _plain_ions(settings)
        constants = {"cutoff": CUTOFF, "damping": DAMPING, "core": CORE}
        cutoff, damping, core = (
            require_number(settings.get(key, default), f"{cls.kind} {key}") for key, default in constants.items()
        )
        neutral = settings.get("neutral", True)
        if not isinstance(neutral, bool):
            raise PotentialError(f"{cls.kind} neutral is {neutral!r}: give true or false")
        return cls(ions, cutoff=cutoff, damping=damping, core=core, neutral=neutral)

    def net_charge(self, structures: Structures) -> Float[Tensor, " structures"]:
        """Return the net charge of each structure by the charges it was built with, e."""
        return structures.total(self.charges[self.slots[structures.numbers]])

    def check(self, structures: Structures) -> None:
        """Refuse elements it does not know and, unless told otherwise, structures with a net charge.

        Raises:
            PotentialError: naming the structure, what is wrong and what is allowed.
        """
        super().check(structures)
        if not self.neutral:
            return
        net = self.net_charge(structures)
        charged = net.abs() > 1e-4
        if charged.any():
            first = int(charged.nonzero()[0])
            of_one = ", ".join(f"{s} {q:+g}" for s, q in self._ions.charges.items())
            raise PotentialError(
                f"structure {structures.ids[first]!r} has a net charge of {float(net[first]):+.4g} e by {of_one}: "
                "add or remove ions until it is neutral, or build the potential with neutral=false"
            )

    def energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        """Return the energy of each structure, eV; edges beyond the cutoff add exactly zero."""
        self.check(structures)
        kinds = self.slots[structures.numbers]  # atoms
        pair = kinds[edges.centre] * len(self.species) + kinds[edges.neighbour]
        r = edges.vectors(structures).norm(dim=1)
        s0, s1, s2, s3 = self._series
        at_zero = s0 - self.cutoff * (s1 - self.cutoff * (s2 - self.cutoff * s3))
        w = -2 * self.damping / math.sqrt(math.pi) - at_zero
        own = (0.5 * COULOMB * w) * (self.charges * self.log_charge.exp()).square()
        of_atom = own[kinds].index_add(0, edges.centre, 0.5 * self.pair_energy(r, pair))
        return structures.total(of_atom)

    def pair_energy(self, r: Float[Tensor, " edges"], pair: Tensor) -> Float[Tensor, " edges"]:
        """Return what each pair adds, eV.

        Args:
            r: distances, Å, above 0.
            pair: index of each pair of elements, a · elements + b with a and b counted in `species`.
        """
        none = self.log_strength.new_zeros(1)
        strength = torch.cat([self.log_strength.exp(), none])[self.repelling]
        softness = torch.cat([(-self.log_decay).exp(), none])[self.repelling]  # 1/ρ
        dispersion = torch.cat([self.log_dispersion.exp(), none])[self.dispersing]
        charge = self.charges * self.log_charge.exp()
        product = (COULOMB * torch.outer(charge, charge)).flatten()
        core = smooth_step(2.0 * r / self.core - 1.0)
        end = smooth_step((self.cutoff - r) / SWITCH)
        coulomb = self._coulomb(r)
        repulsion = end * strength[pair] * (-r * softness[pair]).exp() + product.clamp(min=0.0)[pair] * coulomb
        attraction = product.clamp(max=0.0)[pair] * coulomb - end * dispersion[pair] * r.pow(-6)
        return repulsion + core * attraction

    def _coulomb(self, r: Float[Tensor, " edges"]) -> Float[Tensor, " edges"]:
        """Return v(r), 1/Å; zero beyond the cutoff."""
        inside = r.clamp(max=self.cutoff)
        s0, s1, s2, s3 = self._series
        gap = inside - self.cutoff
        return torch.erfc(self.damping * inside) / inside - (s0 + gap * (s1 + gap * (s2 + gap * s3)))


def _series(alpha: float, rc: float) -> tuple[float, float, float, float]:
    """Return e⁽ⁿ⁾(rc)/n! for n = 0 … 3, with e(r) = erfc(α r)/r."""
    g, h = math.erfc(alpha * rc), 2 * alpha / math.sqrt(math.pi) * math.exp(-((alpha * rc) ** 2))
    second = 2 * alpha**2 * h + 2 * h / rc**2 + 2 * g / rc**3
    third = -4 * alpha**4 * rc * h - 4 * alpha**2 * h / rc - 6 * h / rc**3 - 6 * g / rc**4
    return g / rc, -h / rc - g / rc**2, second / 2, third / 6


def smooth_step(t: Float[Tensor, " *any"]) -> Float[Tensor, " *any"]:
    """Return t⁴ (35 − 84 t + 70 t² − 20 t³) between 0 and 1, 0 below and 1 above: three continuous derivatives."""
    t = t.clamp(0.0, 1.0)
    return t.square().square() * (35.0 + t * (-84.0 + t * (70.0 - 20.0 * t)))


def _logs(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


def _rows(elements: int, pairs: list[IonPair | None], chosen: list[IonPair]) -> list[int]:
    """Return, for each ordered pair of elements, its row among the chosen pairs, or one past the end."""
    unordered = list(combinations_with_replacement(range(elements), 2))
    row = {slot: chosen.index(p) if p in chosen else len(chosen) for slot, p in zip(unordered, pairs, strict=True)}
    return [row[min(i, j), max(i, j)] for i in range(elements) for j in range(elements)]


def _plain_ions(settings: Mapping[str, Any]) -> Ions:
    charges, pairs = settings["charges"], settings.get("pairs", [])
    if not isinstance(charges, Mapping):
        raise PotentialError(f"rigid-ion charges are {charges!r}: give a mapping such as {{Mg: 2, O: -2}}")
    if not isinstance(pairs, list | tuple):
        raise PotentialError(f"rigid-ion pairs are {pairs!r}: give a list of mappings")
    of_element = {str(s): require_number(q, f"rigid-ion charge of {s}") for s, q in charges.items()}
    return Ions(of_element, tuple(IonPair.from_plain(p) for p in pairs))
