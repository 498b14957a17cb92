"""Bonds of second-moment surfaces: their parameters, what is published of them and what is a choice of ours.

Called by `SecondMoment` only, whose opening says what each quantity does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ase.data import atomic_numbers

from thalweg.errors import PotentialError, nearest_known

TITANIUM_LENGTH = 2.951
"""r0 of titanium, Å: the measured lattice constant a, the first-neighbour distance in the basal plane."""

_POSITIVE = ("length", "hardness", "decay", "reach")


@dataclass(frozen=True)
class Bond:
    """Parameters of one unordered pair of elements."""

    elements: tuple[str, str]
    """Symbols of both."""
    length: float
    """r0, at which repulsion, attraction and hopping are given, Å."""
    repulsion: float
    """A, eV; each of the two atoms counts it once."""
    hardness: float
    """p."""
    attraction: float
    """B, eV; each of the two atoms counts it once. 0 in a metal."""
    hopping: float
    """ξ, eV. 0 in a bond of pairs alone."""
    decay: float
    """q."""
    start: float
    """Where the switch begins to close, Å."""
    reach: float
    """Where it is closed, Å."""

    def __post_init__(self) -> None:
        for symbol in self.elements:
            if symbol not in atomic_numbers or symbol == "X":
                raise PotentialError(
                    f"second-moment bond {self.label}: {symbol!r} is not an element; "
                    f"{nearest_known(symbol, atomic_numbers.keys() - {'X'})}"
                )
        for field in fields(self)[1:]:
            value, least = getattr(self, field.name), "above 0" if field.name in _POSITIVE else "0 or above"
            if not (math.isfinite(value) and (value > 0 if field.name in _POSITIVE else value >= 0)):
                raise PotentialError(
                    f"second-moment bond {self.label}: {field.name} is {value}; allowed is a finite number {least}: "
                    "mend the bond"
                )
        if self.start >= self.reach:
            raise PotentialError(
                f"second-moment bond {self.label}: the switch starts at {self.start} and ends at {self.reach} Å; "
                "allowed is a start below the reach: mend the bond"
            )

    @property
    def label(self) -> str:
        """Its elements, for messages."""
        return "-".join(self.elements)

    def plain(self) -> dict[str, Any]:
        """Return the bond as JSON types."""
        return asdict(self) | {"elements": list(self.elements)}

    @staticmethod
    def from_plain(values: Any) -> Bond:
        """Read a bond from JSON types.

        Raises:
            PotentialError: not a mapping, a missing or unknown key, or a value of the wrong type or range.
        """
        names = [f.name for f in fields(Bond)]
        if not isinstance(values, Mapping):
            raise PotentialError(f"a second-moment bond is {values!r}: give a mapping with {', '.join(names)}")
        for key in values:
            if key not in names:
                raise PotentialError(f"a second-moment bond has {key!r}; {nearest_known(str(key), names)}")
        if missing := [n for n in names if n not in values]:
            raise PotentialError(f"a second-moment bond lacks {', '.join(missing)}: add what is missing")
        elements = values["elements"]
        if not (isinstance(elements, list | tuple) and len(elements) == 2):
            raise PotentialError(f"elements of a second-moment bond are {elements!r}: give two symbols")
        for name in names[1:]:
            if isinstance(values[name], bool) or not isinstance(values[name], int | float):
                raise PotentialError(f"{name} of a second-moment bond is {values[name]!r}: give a number")
        return Bond((str(elements[0]), str(elements[1])), *(float(values[n]) for n in names[1:]))

    @staticmethod
    def metal(symbol: str, a: float, *, A: float, xi: float, p: float, q: float) -> Bond:
        """Return the bond of a metal with itself, its switch from 1.95 a to 2.2 a.

        The fifth neighbours of a close-packed hexagonal metal lie at 1.91 a, the sixth at 2 a, the seventh at
        2.24 a.

        Args:
            symbol: the metal.
            a: r0, Å.
            A: strength of the repulsion, eV.
            xi: hopping, eV.
            p: hardness of the repulsion.
            q: decay of the hopping.
        """
        return Bond((symbol, symbol), a, A, p, 0.0, xi, q, 1.95 * a, 2.2 * a)

    @staticmethod
    def morse(elements: tuple[str, str], *, depth: float, length: float, width: float, reach: float) -> Bond:
        """Return the bond D [e^{−2 a (r − r0)} − 2 e^{−a (r − r0)}] S(r), its switch from r0 + 0.5 Å on.

        Args:
            elements: symbols of both.
            depth: D, eV.
            length: r0, Å.
            width: a, 1/Å.
            reach: where it ends, Å.
        """
        q = width * length
        return Bond(elements, length, 0.5 * depth, 2 * q, depth, 0.0, q, length + 0.5, reach)


def require_consistent(bonds: Sequence[Bond]) -> None:
    """Refuse a list in which there is no bond, or two for one pair of elements.

    Raises:
        PotentialError: naming the pair.
    """
    if not bonds:
        raise PotentialError("no second-moment bonds given: at least one pair such as Ti-Ti is needed")
    seen = set()
    for bond in bonds:
        pair = tuple(sorted(bond.elements))
        if pair in seen:
            raise PotentialError(f"second-moment bond {bond.label} is given twice: remove one")
        seen.add(pair)


def titanium() -> tuple[Bond, ...]:
    """Return titanium as published: Cleri and Rosato, Phys. Rev. B 48, 22 (1993), the first of two sets.

    The second (A 0.0741, ξ 1.4163 eV, p 11.418, q 1.643) reaches farther.
    """
    return (Bond.metal("Ti", TITANIUM_LENGTH, A=0.1519, xi=1.8112, p=8.620, q=2.390),)


def titanium_adsorbates() -> tuple[Bond, ...]:
    """Return titanium as published, and bonds to H, C, N and O that are a choice of ours.

    Lengths are at or a little below those in TiH2, TiC, TiN and TiO2 (1.92, 2.16, 2.12 and 1.95 Å), as three
    neighbours hold an atom closer than six; depths of two to three eV for C, N and O and of one for H have the
    order of measured binding, no more. The C–O bond is a sixth as stiff as that of the free molecule, which would
    set the step size of everything beside it.
    """
    return (
        *titanium(),
        Bond.morse(("H", "Ti"), depth=1.0, length=1.90, width=1.3, reach=3.6),
        Bond.morse(("C", "Ti"), depth=2.2, length=2.05, width=1.5, reach=3.6),
        Bond.morse(("N", "Ti"), depth=2.4, length=1.95, width=1.5, reach=3.6),
        Bond.morse(("O", "Ti"), depth=2.6, length=1.95, width=1.5, reach=3.6),
        Bond.morse(("C", "O"), depth=5.0, length=1.20, width=1.4, reach=3.0),
    )


SETS: Mapping[str, Callable[[], tuple[Bond, ...]]] = {"Ti": titanium, "Ti-adsorbates": titanium_adsorbates}
"""Every set by its name in settings."""


def bonds_of(name: str) -> tuple[Bond, ...]:
    """Return a set by its name.

    Raises:
        PotentialError: a name outside `SETS`.
    """
    if name not in SETS:
        raise PotentialError(f"no set of second-moment bonds is called {name!r}; {nearest_known(str(name), SETS)}")
    return SETS[name]()
