"""Silicon point defects on the Stillinger–Weber surface: the default testbed, made offline in seconds.

A start is a cubic cell of 64, 216, 512 … atoms at the equilibrium lattice constant with one defect, rattled;
its minimum is where `Settling` takes it on the published surface (Phys. Rev. B 31, 5262 (1985), with
ε = 2.1683 eV and σ = 2.0951 Å). The formation energy of a cell of n atoms is E − n μ with μ = −2 ε, the
energy per atom of the perfect crystal. In 64 atoms the interstitial has minima at 3.86, 4.62 (split) and
5.19 eV (tetrahedral), the vacancy at 2.84, 4.26 and 4.34 eV; published values are for ε = 2.315 eV.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from ase import Atoms
from ase.build import bulk
from jaxtyping import Float
from torch import Tensor

from thalweg.errors import SettingsError
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relaxation.path import Path
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Frames
from thalweg.testbeds.defects import DEFECTS, Cell, rattled
from thalweg.testbeds.drawing import FRAMES_PER_PARENT, draw_pairs, label_frames, pick, require_weights
from thalweg.testbeds.framing import frames_along
from thalweg.testbeds.settling import Settling, require_known
from thalweg.testbeds.testbed import Drawn, Testbed

LATTICE_CONSTANT = 4 / 3**0.5 * 2 ** (1 / 6) * 2.0951
"""5.43095 Å: the surface is built so that its bonds are 2^(1/6) σ long."""

BULK_ENERGY = -2 * 2.1683
"""Energy per atom of the perfect crystal, eV."""

MIXTURE: Mapping[str, float] = {
    "interstitial": 0.4,
    "vacancy": 0.2,
    "distortion": 0.15,
    "frenkel": 0.1,
    "divacancy": 0.1,
    "diinterstitial": 0.05,
}
"""Weights that cover every kind of defect."""

_TYPES = {"atoms": int, "defects": Mapping, "starts_per_parent": int, "rattle": float, "settling": Mapping}


@dataclass(frozen=True)
class Silicon(Testbed):
    """Point defects in silicon."""

    kind: ClassVar[str] = "silicon"

    atoms: int = 64
    """Atoms of the perfect cell: 8 m³ with m of at least 2."""
    defects: Mapping[str, float] = field(default_factory=lambda: {"interstitial": 1.0})
    """Weight of each kind of defect (names in `DEFECTS`); `MIXTURE` has them all."""
    starts_per_parent: int = 1
    """Starts that share a defect site and differ in their rattle."""
    rattle: float | None = None
    """Standard deviation of the rattle, Å, instead of that of the defect."""
    settling: Settling = field(default_factory=Settling)
    """How starts are relaxed."""

    def __post_init__(self) -> None:
        if self.atoms not in [8 * m**3 for m in range(2, 20)]:
            raise SettingsError(f"silicon atoms is {self.atoms}: allowed is 8 m³ from 64 on: 64, 216, 512, 1000 …")
        require_weights(self.kind, "defect", self.defects, DEFECTS)
        if self.starts_per_parent < 1:
            raise SettingsError(f"silicon starts_per_parent is {self.starts_per_parent}: allowed is 1 or more")
        if self.rattle is not None and not 0 <= self.rattle <= 0.6:
            raise SettingsError(f"silicon rattle is {self.rattle}: allowed is 0 to 0.6 Å, or null")

    @property
    def settings(self) -> dict[str, Any]:
        """Every field, as JSON types."""
        return {**asdict(self), "defects": dict(self.defects)}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Build a testbed from some or all of its fields.

        Raises:
            SettingsError: an unknown key, a wrong type or a value outside its range.
        """
        values = {key: value for key, value in settings.items() if key != "rattle" or value is not None}
        require_known(values, _TYPES, cls.kind)
        if "defects" in values:
            require_known(values["defects"], dict.fromkeys(DEFECTS, float), f"{cls.kind} defects")
        if "settling" in values:
            values["settling"] = Settling.from_settings(values["settling"])
        return cls(**values)

    def reference(self) -> StillingerWeber:
        """Return the published surface, in float64."""
        return StillingerWeber.from_published("Si")

    def path(self) -> Path:
        """Return the path of the settling; see `Testbed.path`."""
        return self.settling.path()

    def formation_energy(
        self, structures: Structures, energy: Float[Tensor, " structures"]
    ) -> Float[Tensor, " structures"]:
        """Return what it costs to form the defects from the perfect crystal, eV, given energies (eV)."""
        return energy - BULK_ENERGY * structures.counts

    def draw(self, count: int, seed: int) -> Drawn:
        """Draw starts and relax them; see `Testbed.draw`."""
        return draw_pairs(self.kind, self.reference(), self.path(), lambda k: self._starts(k, seed), count)

    def frames(self, count: int, seed: int) -> Frames:
        """Return labelled frames, five of each parent.

        In turn: the parent rattled by 0.02 to 0.2 Å; a start; the start after 1 to 10 steps of the descent
        and after 11 to all of them, both rattled by up to 0.1 Å; its minimum rattled by 0.01 to 0.1 Å.
        Parents are drawn from a stream of their own.
        """
        return label_frames(self.reference(), lambda p: self._frame_structures(p, seed), count)

    def crystal(self) -> Structures:
        """Return the conventional cell of eight atoms at the equilibrium lattice constant."""
        return Structures.from_atoms(bulk("Si", "diamond", LATTICE_CONSTANT, cubic=True), ids=["silicon"])

    def _crystal(self) -> Cell:
        repeat = round((self.atoms / 8) ** (1 / 3))
        cell = bulk("Si", "diamond", LATTICE_CONSTANT, cubic=True) * (repeat, repeat, repeat)
        return Cell(cell.positions, repeat * LATTICE_CONSTANT)

    def _parent(self, purpose: str, index: int, seed: int) -> tuple[str, Cell]:
        """Return the kind of a parent and its cell, drawn from the stream (seed, purpose, index)."""
        generator = numpy_stream(seed, purpose, index)
        name = pick(self.defects, generator)
        return name, DEFECTS[name].carve(self._crystal(), generator)

    def _deviation(self, name: str) -> float:
        return DEFECTS[name].rattle if self.rattle is None else self.rattle

    def _starts(self, indices: range, seed: int) -> tuple[Structures, tuple[str, ...]]:
        """Return the starts of these indices and the names of their parents."""
        cells, parents = [], []
        for k in indices:
            p = k // self.starts_per_parent
            name, parent = self._parent("silicon pair parent", p, seed)
            positions = rattled(parent, self._deviation(name), numpy_stream(seed, "silicon pair start", k))
            cells.append(_atoms(positions, parent.length, f"silicon-{self.atoms}-{seed}-{k:06d}"))
            parents.append(f"silicon-{self.atoms}-{seed}-{name}-{p:06d}")
        return Structures.from_atoms(cells), tuple(parents)

    def _frame_structures(self, indices: range, seed: int) -> tuple[Structures, tuple[str, ...]]:
        """Return all frames of these parents in order, and the name of the parent of each."""
        drawn = [self._parent("silicon frame parent", p, seed) for p in indices]
        streams = [numpy_stream(seed, "silicon frame", p) for p in indices]
        starts = Structures.from_atoms(
            [
                _atoms(rattled(parent, self._deviation(name), stream), parent.length, "")
                for (name, parent), stream in zip(drawn, streams, strict=True)
            ]
        )

        def bend(k: int, deviation: float) -> Float[np.ndarray, "atoms 3"]:
            return rattled(drawn[k][1], deviation, streams[k])

        cells: list[Atoms] = []
        names: list[str] = []
        for k, five in enumerate(frames_along(starts, self.reference(), self.settling, streams, bend)):
            name, parent = drawn[k]
            for positions in five:
                frame = indices[0] * FRAMES_PER_PARENT + len(cells)
                cells.append(_atoms(positions, parent.length, f"silicon-{self.atoms}-{seed}-frame-{frame:06d}"))
                names.append(f"silicon-{self.atoms}-{seed}-frame-{name}-{indices[k]:06d}")
        return Structures.from_atoms(cells), tuple(names)


def _atoms(positions: Float[np.ndarray, "atoms 3"], length: float, name: str) -> Atoms:
    return Atoms(numbers=[14] * len(positions), positions=positions, cell=[length] * 3, pbc=True, info={"id": name})
