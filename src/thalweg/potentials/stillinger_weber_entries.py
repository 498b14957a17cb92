"""Stillinger–Weber parameters as tables: one entry per ordered triplet of elements, read from `.sw` files.

The layout is that of LAMMPS: an entry (i j k) belongs to a centre i with neighbours j and k; the pair (i, j)
takes its two-body parameters, γ and σ from entry (i j j); a triplet takes ε, λ and cos θ0 from entry (i j k).
The published sets lie beside this file in `parameters/`. Called by `StillingerWeber` only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from ase.data import atomic_numbers

from thalweg.errors import PotentialError, nearest_known

PUBLISHED = ("Si", "CdTe-1989", "CdTe-2013")
"""Names of the published sets: Stillinger & Weber 1985; Wang, Stroud & Markworth 1989; Zhou et al. 2013."""

_WORDS = 14
_PAIR_FIELDS = ("epsilon", "sigma", "a", "A", "B", "p", "q")


@dataclass(frozen=True)
class Entry:
    """Parameters of one ordered triplet (centre, first neighbour, second neighbour)."""

    elements: tuple[str, str, str]
    """Symbols of centre, first and second neighbour."""
    epsilon: float
    """Energy scale, eV."""
    sigma: float
    """Length scale, Å."""
    a: float
    """Cutoff in units of sigma."""
    lambda_: float
    """Strength of the three-body term in units of epsilon."""
    gamma: float
    """Length of the three-body decay in units of sigma."""
    cos_theta0: float
    """Cosine of the preferred angle."""
    A: float
    """Strength of the two-body term in units of epsilon."""
    B: float
    """Strength of the repulsion relative to the attraction."""
    p: float
    """Exponent of the repulsion."""
    q: float
    """Exponent of the attraction."""

    def __post_init__(self) -> None:
        for symbol in self.elements:
            if symbol not in atomic_numbers or symbol == "X":
                raise PotentialError(
                    f"Stillinger–Weber entry {self.label}: {symbol!r} is not an element; "
                    f"{nearest_known(symbol, atomic_numbers.keys() - {'X'})}"
                )
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            signed = field.name == "cos_theta0"
            if not (math.isfinite(value) and (abs(value) <= 1 if signed else value >= 0)):
                allowed = "a number from -1 to 1" if signed else "a finite number, not negative"
                raise PotentialError(
                    f"Stillinger–Weber entry {self.label}: {field.name} is {value}; allowed is {allowed}: "
                    "mend the entry"
                )

    @property
    def label(self) -> str:
        """Its elements, for messages."""
        return "-".join(self.elements)

    @property
    def reach(self) -> float:
        """The cutoff a σ, Å."""
        return self.a * self.sigma

    @property
    def stiffness(self) -> float:
        """The strength λ ε of the three-body term, eV."""
        return self.lambda_ * self.epsilon

    def plain(self) -> dict[str, Any]:
        """Return the entry as JSON types."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"elements": list(self.elements)}

    @staticmethod
    def from_plain(values: Any) -> Entry:
        """Read an entry from JSON types.

        Raises:
            PotentialError: not a mapping, a missing or unknown key, or a value of the wrong type or range.
        """
        names = [f.name for f in fields(Entry)]
        if not isinstance(values, Mapping):
            raise PotentialError(f"a Stillinger–Weber entry is {values!r}: give a mapping with {', '.join(names)}")
        for key in values:
            if key not in names:
                raise PotentialError(f"a Stillinger–Weber entry has {key!r}; {nearest_known(str(key), names)}")
        if missing := [n for n in names if n not in values]:
            raise PotentialError(f"a Stillinger–Weber entry lacks {', '.join(missing)}: add what is missing")
        elements = values["elements"]
        if not (isinstance(elements, list | tuple) and len(elements) == 3):
            raise PotentialError(f"elements of a Stillinger–Weber entry are {elements!r}: give three symbols")
        for name in names[1:]:
            if isinstance(values[name], bool) or not isinstance(values[name], int | float):
                raise PotentialError(f"{name} of a Stillinger–Weber entry is {values[name]!r}: give a number")
        first, second, third = (str(e) for e in elements)
        return Entry((first, second, third), *(float(values[n]) for n in names[1:]))


@dataclass(frozen=True)
class EntrySet:
    """All ordered triplets of some elements, complete and consistent."""

    elements: tuple[str, ...]
    """Symbols, ascending in atomic number."""
    by_triplet: Mapping[tuple[str, str, str], Entry]
    """One entry per ordered triplet of `elements`."""

    def pair(self, centre: str, neighbour: str) -> Entry:
        """Return the entry from which a pair takes its parameters."""
        return self.by_triplet[centre, neighbour, neighbour]

    @staticmethod
    def of(entries: Sequence[Entry]) -> EntrySet:
        """Collect entries, requiring every ordered triplet of their elements once and mirrored ones alike.

        Raises:
            PotentialError: no entry, a triplet given twice or missing, a pair that differs seen from its two
                ends, or a triplet whose λ ε or cos θ0 changes when its neighbours change places.
        """
        if not entries:
            raise PotentialError("no Stillinger–Weber entries given: at least one triplet such as Si-Si-Si is needed")
        by_triplet: dict[tuple[str, str, str], Entry] = {}
        for entry in entries:
            if entry.elements in by_triplet:
                raise PotentialError(f"Stillinger–Weber entry {entry.label} is given twice: remove one")
            by_triplet[entry.elements] = entry
        symbols = sorted({s for e in entries for s in e.elements}, key=lambda s: atomic_numbers[s])
        for i, j, k in product(symbols, repeat=3):
            if (i, j, k) not in by_triplet:
                raise PotentialError(
                    f"Stillinger–Weber entry {i}-{j}-{k} is missing: every ordered triplet of "
                    f"{', '.join(symbols)} needs one"
                )
        found = EntrySet(tuple(symbols), by_triplet)
        found._require_symmetry()
        return found

    def _require_symmetry(self) -> None:
        for i, j in product(self.elements, repeat=2):
            one, other = self.pair(i, j), self.pair(j, i)
            for name in _PAIR_FIELDS:
                _require_equal(name, getattr(one, name), getattr(other, name), (one.label, other.label), 1e-6)
        for i, j, k in product(self.elements, repeat=3):
            one, other = self.by_triplet[i, j, k], self.by_triplet[i, k, j]
            labels = (one.label, other.label)
            # files print λ and ε with seven digits, so mirrored products differ in the last
            _require_equal("lambda · epsilon", one.stiffness, other.stiffness, labels, 1e-5)
            _require_equal("cos_theta0", one.cos_theta0, other.cos_theta0, labels, 1e-6)


def _require_equal(name: str, one: float, other: float, labels: tuple[str, str], tolerance: float) -> None:
    if not math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-12):
        raise PotentialError(
            f"Stillinger–Weber entries {labels[0]} and {labels[1]} give {name} as {one} and {other}: "
            "they describe the same atoms and must agree; mend one"
        )


def read_entries(path: str | Path, elements: Sequence[str] | None = None) -> EntrySet:
    """Read a LAMMPS `.sw` file.

    Args:
        path: the file; `#` begins a comment, an entry is 14 words and may span lines. The last word (`tol`, a
            shortening of the list for speed) has no meaning here and is not used.
        elements: symbols to keep; entries with other elements are left out. All elements when None.

    Raises:
        PotentialError: the file cannot be read, has an incomplete or non-numeric entry, or its entries are
            incomplete or inconsistent for `elements`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise PotentialError(f"cannot read Stillinger–Weber file {str(path)!r}: {reason}; check the path") from error
    words = [word for line in text.splitlines() for word in line.split("#", 1)[0].split()]
    if len(words) % _WORDS:
        raise PotentialError(
            f"{str(path)!r} holds {len(words)} words, not a multiple of {_WORDS} (3 elements, 11 numbers): "
            "an entry is incomplete; mend the file"
        )
    keep = None if elements is None else set(elements)
    entries = []
    for start in range(0, len(words), _WORDS):
        i, j, k, *numbers = words[start : start + _WORDS]
        if keep is not None and not {i, j, k} <= keep:
            continue
        try:
            values = [float(n) for n in numbers]
        except ValueError as error:
            raise PotentialError(f"{str(path)!r}, entry {i}-{j}-{k}: {error}; mend the file") from error
        entries.append(Entry((i, j, k), *values[:-1]))
    found = EntrySet.of(entries)
    if keep is not None and (lost := keep - set(found.elements)):
        raise PotentialError(
            f"{str(path)!r} has no entries for {', '.join(sorted(lost))}; "
            f"it describes {', '.join(found.elements)}: leave them out or give another file"
        )
    return found


def published_entries(name: str) -> EntrySet:
    """Return a published set by its name.

    Raises:
        PotentialError: a name outside `PUBLISHED`.
    """
    if name not in PUBLISHED:
        raise PotentialError(f"no published Stillinger–Weber set {name!r}; {nearest_known(str(name), PUBLISHED)}")
    return read_entries(Path(__file__).parent / "parameters" / f"{name}.sw")
