"""Parameters of rigid-ion models: a charge for each element, a Buckingham term for each pair of elements.

    φ(r) = A exp(−r / ρ) − C / r⁶,    pairs that are not listed have no short-range term

Called by `RigidIon` only. The published sets:

TiO2, Matsui and Akaogi, Mol. Simul. 6, 239 (1991). They give each ion a radius a, a softness b and a dispersion c,
and φ_ij = f (b_i + b_j) exp[(a_i + a_j − r) / (b_i + b_j)] − c_i c_j / r⁶ with f = 4.184 kJ/mol/Å:
Ti 1.1823 Å, 0.077 Å, 22.5; O 1.6339 Å, 0.117 Å, 54.0 (c in Å³ (kJ/mol)^½). The values here are these, combined.
Tables in eV agree to seven digits except in A of Ti-Ti, printed as 31120.1 and 31120.2 (combined: 31120.4).

MgO, Lewis and Catlow, J. Phys. C 18, 1149 (1985), rigid ions of formal charge. Tables print A of O-O as 22764.0 and
22764.3 and C as 27.88; one in circulation has 2274.0 for A, a digit lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import combinations_with_replacement
from typing import Any

from ase.data import atomic_numbers

from thalweg.errors import PotentialError, nearest_known

_KJ_PER_MOL = 1 / 96.48533212
"""In eV (CODATA 2018)."""


def require_element(symbol: str) -> None:
    """Refuse what is no element.

    Raises:
        PotentialError: naming the symbol and the nearest one known.
    """
    if symbol not in atomic_numbers or symbol == "X":
        raise PotentialError(
            f"rigid-ion model: {symbol!r} is not an element; "
            f"{nearest_known(str(symbol), atomic_numbers.keys() - {'X'})}"
        )


def require_number(value: Any, what: str) -> float:
    """Return a number as a float.

    Raises:
        PotentialError: not a number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PotentialError(f"{what} is {value!r}: give a number")
    return float(value)


@dataclass(frozen=True)
class IonPair:
    """The short-range term of an unordered pair of elements."""

    elements: tuple[str, str]
    """Symbols."""
    A: float
    """Strength of the repulsion, eV; 0 for none."""
    rho: float
    """Decay length of the repulsion, Å."""
    C: float
    """Dispersion, eV Å⁶; 0 for none."""

    def __post_init__(self) -> None:
        for symbol in self.elements:
            require_element(symbol)
        for name, least in (("A", 0.0), ("rho", 1e-6), ("C", 0.0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                allowed = "a length above 0 Å" if name == "rho" else "0 or a finite number above"
                raise PotentialError(
                    f"rigid-ion pair {'-'.join(self.elements)}: {name} is {value}; allowed is {allowed}: mend the pair"
                )

    def plain(self) -> dict[str, Any]:
        """Return the pair as JSON types."""
        return asdict(self) | {"elements": list(self.elements)}

    @staticmethod
    def from_plain(values: Any) -> IonPair:
        """Read a pair from JSON types.

        Raises:
            PotentialError: not a mapping, a missing or unknown key, or a value of the wrong type or range.
        """
        names = [f.name for f in fields(IonPair)]
        if not isinstance(values, Mapping):
            raise PotentialError(f"a rigid-ion pair is {values!r}: give a mapping with {', '.join(names)}")
        for key in values:
            if key not in names:
                raise PotentialError(f"a rigid-ion pair has {key!r}; {nearest_known(str(key), names)}")
        if missing := [n for n in names if n not in values]:
            raise PotentialError(f"a rigid-ion pair lacks {', '.join(missing)}: add what is missing")
        elements = values["elements"]
        if not (isinstance(elements, list | tuple) and len(elements) == 2):
            raise PotentialError(f"elements of a rigid-ion pair are {elements!r}: give two symbols")
        A, rho, C = (require_number(values[n], f"{n} of a rigid-ion pair") for n in names[1:])
        return IonPair((str(elements[0]), str(elements[1])), A, rho, C)


@dataclass(frozen=True)
class Ions:
    """A rigid-ion model: charges and short-range terms."""

    charges: Mapping[str, float]
    """Charge of each element, e; every element of the model is here."""
    pairs: tuple[IonPair, ...]
    """Short-range terms, each unordered pair at most once."""

    def __post_init__(self) -> None:
        if not self.charges:
            raise PotentialError("a rigid-ion model has no charges: give one for each element, e.g. {Mg: 2, O: -2}")
        for symbol, charge in self.charges.items():
            require_element(symbol)
            if not math.isfinite(charge):
                raise PotentialError(f"rigid-ion charge of {symbol} is {charge}: allowed is a finite number")
        seen = set()
        for pair in self.pairs:
            if lost := [s for s in pair.elements if s not in self.charges]:
                raise PotentialError(
                    f"rigid-ion pair {'-'.join(pair.elements)}: {lost[0]} has no charge; "
                    f"charges are given for {', '.join(self.charges)}: add it or leave the pair out"
                )
            key = frozenset(pair.elements)
            if key in seen:
                raise PotentialError(f"rigid-ion pair {'-'.join(pair.elements)} is given twice: remove one")
            seen.add(key)

    @property
    def elements(self) -> tuple[str, ...]:
        """Symbols, ascending in atomic number."""
        return tuple(sorted(self.charges, key=lambda s: atomic_numbers[s]))


def _matsui_akaogi() -> Ions:
    ions = {"Ti": (1.1823, 0.077, 22.5), "O": (1.6339, 0.117, 54.0)}  # a, Å; b, Å; c, Å³ (kJ/mol)^½
    pairs = []
    for one, other in combinations_with_replacement(ions, 2):
        a, b = (ions[one][n] + ions[other][n] for n in (0, 1))
        c = ions[one][2] * ions[other][2]
        pairs.append(IonPair((one, other), 4.184 * b * math.exp(a / b) * _KJ_PER_MOL, b, c * _KJ_PER_MOL))
    return Ions({"Ti": 2.196, "O": -1.098}, tuple(pairs))


def _lewis_catlow() -> Ions:
    pairs = (IonPair(("Mg", "O"), 821.6, 0.3242, 0.0), IonPair(("O", "O"), 22764.0, 0.149, 27.88))
    return Ions({"Mg": 2.0, "O": -2.0}, pairs)


PUBLISHED: Mapping[str, Ions] = {"TiO2": _matsui_akaogi(), "MgO": _lewis_catlow()}
"""Published models by name."""


def published_ions(name: str) -> Ions:
    """Return a published model by its name.

    Raises:
        PotentialError: a name outside `PUBLISHED`.
    """
    if name not in PUBLISHED:
        raise PotentialError(f"no published rigid-ion model {name!r}; {nearest_known(str(name), PUBLISHED)}")
    return PUBLISHED[name]
