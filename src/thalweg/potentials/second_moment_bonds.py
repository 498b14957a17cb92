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
    """B, eV; each of the two atoms counts it once. 0 where hopping binds."""
    hopping: float
    """ξ, eV. 0 in a bond that is a pair's alone."""
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

    They have the form of titanium's own, hopping included, so that binding grows like the root of the number of
    neighbours; pairs alone draw every atom below the surface, where it has six. Chosen so that lengths in a hollow
    (H 1.89, N 2.00, O 1.95 Å) are near those in TiH2, TiN and TiO2 (1.92, 2.12, 1.95 Å) and that no single atom
    has a mode stiffer than 24 eV/Å²; binding is then about half of what calculations have for O on TiC(111).
    The C–O bond is a pair bond an eighth as stiff as that of the free molecule (119 eV/Å²), which would otherwise
    set the step size of everything beside it.
    """
    return (
        *titanium(),
        _on_titanium("H", 1.90, A=0.14, xi=1.4, p=9.0, q=2.2),
        _on_titanium("C", 2.05, A=0.32, xi=2.5, p=9.5, q=2.4),
        _on_titanium("N", 2.00, A=0.36, xi=2.8, p=9.5, q=2.4),
        _on_titanium("O", 1.95, A=0.36, xi=2.8, p=9.5, q=2.4),
        Bond.morse(("C", "O"), depth=5.0, length=1.20, width=1.2, reach=3.0),
    )


def _on_titanium(symbol: str, length: float, *, A: float, xi: float, p: float, q: float) -> Bond:
    return Bond((symbol, "Ti"), length, A, p, 0.0, xi, q, length + 0.5, 4.4)


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
