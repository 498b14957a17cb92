"""Bulk crystals whose cell relaxes with the atoms: random ones, and known prototypes exchanged, strained and rattled.

Small cells, 4 to 8 atoms unless set, of silicon (Stillinger and Weber, Phys. Rev. B 31, 5262 (1985)) or of cadmium
and tellurium in any proportion (Zhou et al., Phys. Rev. B 88, 085309 (2013)); periodic images within the cutoff are
all counted. A minimum has the cell it relaxed to. Frames carry stresses. `docs/testbeds/crystals.md` has figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers

from thalweg.errors import SettingsError
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relaxation.cell import PositionsAndCell
from thalweg.relaxation.path import Path
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Frames
from thalweg.testbeds.drawing import FRAMES_PER_PARENT, draw_pairs, label_frames
from thalweg.testbeds.prototypes import PROTOTYPES, Crystal, exchanged, random_crystal, supercell
from thalweg.testbeds.settling import Settling, require_known
from thalweg.testbeds.testbed import Drawn, Testbed


@dataclass(frozen=True)
class Surface:
    """A published surface and the crystal that it binds best."""

    published: str
    """Its name among the Stillinger–Weber sets."""
    lattice_constant: float
    """Edge of the cubic cell of eight atoms at rest, Å."""

    @property
    def volume_per_atom(self) -> float:
        """Of the crystal at rest, Å³."""
        return self.lattice_constant**3 / 8

    @property
    def bond(self) -> float:
        """Length of its bonds, Å."""
        return 3**0.5 / 4 * self.lattice_constant


SURFACES: Mapping[tuple[str, ...], Surface] = {
    ("Si",): Surface("Si", 4 / 3**0.5 * 2 ** (1 / 6) * 2.0951),
    ("Cd", "Te"): Surface("CdTe-2013", 6.4779),
}
"""The surfaces by their elements."""

_TYPES = {
    "elements": list,
    "fewest": int,
    "most": int,
    "random": float,
    "substitution": float,
    "strain": float,
    "rattle": float,
    "clearance": float,
    "volume": list,
    "settling": Mapping,
}


@dataclass(frozen=True)
class Crystals(Testbed):
    """Bulk crystals with a free cell."""

    kind: ClassVar[str] = "crystals"

    elements: tuple[str, ...] = ("Cd", "Te")
    """A key of `SURFACES`."""
    fewest: int = 4
    """Fewest atoms of a cell."""
    most: int = 8
    """Most atoms of a cell, up to 32."""
    random: float = 0.5
    """Share of random crystals; the others begin from `PROTOTYPES`, each as often."""
    substitution: float = 0.2
    """Chance of each atom of a prototype to be of the other element, where there are two."""
    strain: float = 0.06
    """Standard deviation of each component of the strain of a prototype."""
    rattle: float = 0.25
    """Standard deviation of each Cartesian component of the rattle of a prototype, Å."""
    clearance: float = 0.75
    """Smallest distance between atoms of a random crystal, in bond lengths of the crystal at rest."""
    volume: tuple[float, float] = (0.8, 1.3)
    """Range from which the volume per atom of a start is drawn evenly, in that of the crystal at rest."""
    settling: Settling = field(default_factory=Settling)
    """How starts are relaxed, their cells with them."""

    def __post_init__(self) -> None:
        if self.elements not in SURFACES:
            known = " or ".join("[" + ", ".join(names) + "]" for names in SURFACES)
            raise SettingsError(f"crystals elements are {list(self.elements)}: allowed is {known}")
        if not 2 <= self.fewest <= self.most <= 32 or self.most < 4:
            raise SettingsError(
                f"crystals fewest is {self.fewest} and most {self.most}: allowed is 2 to 32 atoms, most at least 4 "
                "and not below fewest"
            )
        if self.most // 4 * 4 < self.fewest:
            raise SettingsError(
                f"crystals fewest is {self.fewest} and most {self.most}: a multiple of 4, which the cells of some "
                "prototypes have, must lie between them"
            )
        for name, highest in (("random", 1.0), ("substitution", 1.0), ("strain", 0.15), ("rattle", 0.6)):
            if not 0 <= getattr(self, name) <= highest:
                raise SettingsError(f"crystals {name} is {getattr(self, name)}: allowed is 0 to {highest:g}")
        if not 0.3 <= self.clearance <= 0.85:
            raise SettingsError(f"crystals clearance is {self.clearance}: allowed is 0.3 to 0.85 bond lengths")
        low, high = self.volume
        if not 0.6 <= low <= high <= 2.0:
            raise SettingsError(
                f"crystals volume is {[low, high]}: allowed is a range within 0.6 to 2 of the crystal at rest"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """Every field, as JSON types."""
        return {**asdict(self), "elements": list(self.elements), "volume": list(self.volume)}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Build a testbed from some or all of its fields.

        Raises:
            SettingsError: an unknown key, a wrong type or a value outside its range.
        """
        values = dict(settings)
        require_known(values, _TYPES, cls.kind)
        for name, type_, count in (("elements", str, None), ("volume", (int, float), 2)):
            if name in values:
                given = values[name]
                if not all(isinstance(v, type_) and not isinstance(v, bool) for v in given) or (
                    count is not None and len(given) != count
                ):
                    wanted = "a list of symbols, e.g. [Cd, Te]" if count is None else "two numbers, e.g. [0.8, 1.3]"
                    raise SettingsError(f"{cls.kind} {name} is {given!r}: give {wanted}")
                values[name] = tuple(given)
        if "settling" in values:
            values["settling"] = Settling.from_settings(values["settling"])
        return cls(**values)

    def reference(self) -> StillingerWeber:
        """Return the published surface, in float64."""
        return StillingerWeber.from_published(SURFACES[self.elements].published)

    def path(self) -> Path:
        """Return the path of the settling with the cell freed; see `Testbed.path`."""
        return replace(self.settling.path(), coordinates=PositionsAndCell())

    def draw(self, count: int, seed: int) -> Drawn:
        """Draw starts and relax them; see `Testbed.draw`."""
        return draw_pairs(self.kind, self.reference(), self.path(), lambda k: self._starts(k, seed), count)

    def frames(self, count: int, seed: int) -> Frames:
        """Return labelled frames with stresses, five of each parent.

        In turn: a start, strained by 0.02 to 0.08 and rattled by 0.02 to 0.2 Å; the start; the start after 1 to 10
        steps of the descent and after 11 to all of them, both strained by up to 0.03 and rattled by up to 0.1 Å; its
        minimum strained by 0.01 to 0.05 and rattled by 0.01 to 0.1 Å. Parents are drawn from a stream of their own.
        """
        return label_frames(self.reference(), lambda p: self._frame_structures(p, seed), count, stress=True)

    def crystal(self) -> Structures:
        """Return the cubic cell of eight atoms, diamond or zinc blende, at the lattice constant at rest."""
        name = "".join(self.elements)
        structure = "diamond" if len(self.elements) == 1 else "zincblende"
        cell = bulk(name, structure, SURFACES[self.elements].lattice_constant, cubic=True)
        return Structures.from_atoms(cell, ids=[name])

    def _start(self, purpose: str, index: int, seed: int) -> tuple[str, Crystal]:
        """Return the kind of a start and the start, drawn from the stream (seed, purpose, index)."""
        generator = numpy_stream(seed, purpose, index)
        surface = SURFACES[self.elements]
        volume = surface.volume_per_atom * generator.uniform(*self.volume)
        if generator.random() < self.random:
            atoms = int(generator.integers(self.fewest, self.most + 1))
            return "random", random_crystal(atoms, volume * atoms, self.clearance * surface.bond, generator)
        name = str(generator.choice(sorted(PROTOTYPES)))
        parent = supercell(PROTOTYPES[name], self.fewest, self.most, generator)
        if len(self.elements) == 2:
            parent = exchanged(parent, self.substitution, generator)
        return name, parent.scaled(volume).shaken(self.rattle, self.strain, generator)

    def _named(self, purpose: str, seed: int) -> str:
        return f"crystals-{''.join(self.elements)}-{seed}{purpose}"

    def _atoms(self, crystal: Crystal, name: str) -> Atoms:
        numbers = [atomic_numbers[self.elements[k % len(self.elements)]] for k in crystal.kinds]
        return Atoms(numbers, crystal.positions, cell=crystal.cell, pbc=True, info={"id": name})

    def _starts(self, indices: range, seed: int) -> tuple[Structures, tuple[str, ...]]:
        """Return the starts of these indices and the names of their parents; each start is a parent of its own."""
        cells, parents = [], []
        for k in indices:
            name, start = self._start("crystals pair", k, seed)
            cells.append(self._atoms(start, f"{self._named('', seed)}-{k:06d}"))
            parents.append(f"{self._named('', seed)}-{name}-{k:06d}")
        return Structures.from_atoms(cells), tuple(parents)

    def _frame_structures(self, indices: range, seed: int) -> tuple[Structures, tuple[str, ...]]:
        """Return all frames of these parents in order, and the name of the parent of each."""
        drawn = [self._start("crystals frame parent", p, seed) for p in indices]
        starts = Structures.from_atoms([self._atoms(start, "") for _, start in drawn])
        end = self.path().run(self.reference(), starts, keep_trace=True)
        trace = end.trace if end.trace is not None else (starts,)
        last = self.settling.descent_steps
        cells: list[Atoms] = []
        names: list[str] = []
        for k, (name, start) in enumerate(drawn):
            stream = numpy_stream(seed, "crystals frame", indices[k])
            steps = (int(stream.integers(1, 11)), int(stream.integers(11, max(last, 11) + 1)))
            early, late = (_read(trace[min(step, len(trace) - 1)], k, start) for step in steps)
            five = [
                start.shaken(stream.uniform(0.02, 0.2), stream.uniform(0.02, 0.08), stream),
                start,
                early.shaken(stream.uniform(0.0, 0.1), stream.uniform(0.0, 0.03), stream),
                late.shaken(stream.uniform(0.0, 0.1), stream.uniform(0.0, 0.03), stream),
                _read(end.structures, k, start).shaken(stream.uniform(0.01, 0.1), stream.uniform(0.01, 0.05), stream),
            ]
            for crystal in five:
                frame = indices[0] * FRAMES_PER_PARENT + len(cells)
                cells.append(self._atoms(crystal, f"{self._named('-frame', seed)}-{frame:06d}"))
                names.append(f"{self._named('-frame', seed)}-{name}-{indices[k]:06d}")
        return Structures.from_atoms(cells), tuple(names)


def _read(structures: Structures, k: int, like: Crystal) -> Crystal:
    """Return structure k of a batch, whose atoms are those of `like`."""
    cell = structures.cell[k].numpy()
    positions = structures.positions[structures.offsets[k] : structures.offsets[k + 1]].numpy()
    return Crystal(cell, positions @ np.linalg.inv(cell), like.kinds)
