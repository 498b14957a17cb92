"""Oxide surfaces on a rigid-ion surface: ions out of place on rutile TiO2(110) or MgO(001), far from rest.

A start is a slab whose lowest layers are held, with a formula unit taken out of its outermost layer, one put on it, or
an ion moved, and the rest rattled; its minimum is where `Settling` takes it on the published model with a damped
and shifted Coulomb term (`RigidIon`). Slabs are neutral always. Relaxations take two to three times the steps of
silicon's with the same relaxer: the surface is stiff, and its ions, once out of place, rearrange in stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from jaxtyping import Float
from torch import Tensor

from thalweg.errors import SettingsError, nearest_known
from thalweg.potentials.rigid_ion import RigidIon
from thalweg.relaxation.path import Path
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Frames
from thalweg.testbeds.drawing import FRAMES_PER_PARENT, draw_pairs, label_frames, pick, require_weights
from thalweg.testbeds.framing import frames_along
from thalweg.testbeds.oxide_slabs import CHANGES, CRYSTALS, MGO_EDGE, Slab, rattled
from thalweg.testbeds.settling import Settling, require_known
from thalweg.testbeds.testbed import Drawn, Testbed

MIXTURE: Mapping[str, float] = {"removed": 0.4, "added": 0.3, "moved": 0.3}
"""Weights that cover every change."""

SETTLING = Settling(alpha=0.018)
"""How starts are relaxed unless told otherwise. Curvatures at minima reach 72 eV/Å² where ions were removed and 88
where they were moved, so α λ_max is 1.6 at most."""

VACUUM = 12.0
"""Empty height above the slab beyond the height at which ions are put, Å; the surface reaches 9 Å."""

_TYPES = {
    "material": str,
    "cells_x": int,
    "cells_y": int,
    "layers": int,
    "fixed_layers": int,
    "changes": Mapping,
    "height": float,
    "starts_per_parent": int,
    "rattle": float,
    "settling": Mapping,
}


@dataclass(frozen=True)
class Oxide(Testbed):
    """Surfaces of oxides with ions out of place."""

    kind: ClassVar[str] = "oxide"

    material: str = "TiO2"
    """TiO2, rutile with its (110) face, or MgO with its (001) face."""
    cells_x: int = 3
    """Surface cells along x: of 3.01 Å along [001] of rutile, or of 4.21 Å of MgO."""
    cells_y: int = 1
    """Surface cells along y: of 6.36 Å along [1-10] of rutile, or of 4.21 Å of MgO."""
    layers: int = 3
    """Layers of the slab: O-Ti2O2-O of rutile, 6 ions a surface cell, or planes of MgO, 4 ions a cell."""
    fixed_layers: int = 1
    """How many of them, from below, are held where they are in the crystal."""
    changes: Mapping[str, float] = field(default_factory=lambda: {"removed": 1.0})
    """Weight of each change (names in `CHANGES`); `MIXTURE` has them all."""
    height: float = 3.0
    """How high above the highest ion of the slab ions are put at most, Å."""
    starts_per_parent: int = 1
    """Starts that share what was changed and differ in the rattle."""
    rattle: float = 0.1
    """Standard deviation of the rattle of the slab's free ions, Å."""
    settling: Settling = SETTLING
    """How starts are relaxed."""

    def __post_init__(self) -> None:
        if self.material not in CRYSTALS:
            raise SettingsError(f"oxide has no material {self.material!r}; {nearest_known(self.material, CRYSTALS)}")
        for name, value, least, most in (
            ("cells_x", self.cells_x, 1, 20),
            ("cells_y", self.cells_y, 1, 20),
            ("layers", self.layers, 2, 12),
            ("fixed_layers", self.fixed_layers, 0, self.layers - 1),
            ("starts_per_parent", self.starts_per_parent, 1, 1000),
        ):
            if not least <= value <= most:
                raise SettingsError(f"oxide {name} is {value}: allowed is {least} to {most}")
        require_weights(self.kind, "change", self.changes, CHANGES)
        if not 2.0 <= self.height <= 8.0:
            raise SettingsError(f"oxide height is {self.height}: allowed is 2 to 8 Å")
        if not 0 <= self.rattle <= 0.4:
            raise SettingsError(f"oxide rattle is {self.rattle}: allowed is 0 to 0.4 Å")

    @property
    def settings(self) -> dict[str, Any]:
        """Every field, as JSON types."""
        return {**asdict(self), "changes": dict(self.changes)}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Build a testbed from some or all of its fields.

        Raises:
            SettingsError: an unknown key, a wrong type or a value outside its range.
        """
        values = dict(settings)
        require_known(values, _TYPES, cls.kind)
        if "changes" in values:
            require_known(values["changes"], dict.fromkeys(CHANGES, float), f"{cls.kind} changes")
        if "settling" in values:
            values["settling"] = Settling.from_settings({**asdict(SETTLING), **values["settling"]})
        return cls(**values)

    def reference(self) -> RigidIon:
        """Return the published model of the material, in float64."""
        return RigidIon.from_published(self.material)

    def path(self) -> Path:
        """Return the path of the settling; see `Testbed.path`."""
        return self.settling.path()

    def crystal(self) -> Structures | None:
        """Return the cubic cell of MgO; None for rutile, which is tetragonal."""
        if self.material != "MgO":
            return None
        return Structures.from_atoms(bulk("MgO", "rocksalt", MGO_EDGE, cubic=True), ids=["MgO"])

    def excess_energy(
        self, structures: Structures, energy: Float[Tensor, " structures"]
    ) -> Float[Tensor, " structures"]:
        """Return energies above as many ions of the perfect crystal, eV: both faces and what was changed.

        Args:
            structures: of this testbed.
            energy: their energies on the reference, eV.
        """
        return energy - CRYSTALS[self.material].energy_per_ion * structures.counts

    def draw(self, count: int, seed: int) -> Drawn:
        """Draw starts and relax them; see `Testbed.draw`."""
        return draw_pairs(self.kind, self.reference(), self.path(), lambda k: self._starts(k, seed), count)

    def frames(self, count: int, seed: int) -> Frames:
        """Return labelled frames, five of each parent as `framing` has them; parents have a stream of their own."""
        return label_frames(self.reference(), lambda p: self._frame_structures(p, seed), count)

    @cached_property
    def _slab(self) -> Slab:
        crystal, repeat = CRYSTALS[self.material], (self.cells_x, self.cells_y)
        return crystal.slab(repeat, self.layers, self.fixed_layers, self.height + VACUUM)

    @cached_property
    def _label(self) -> str:
        return f"oxide-{self.material}-{len(self._slab.numbers)}"

    def _parent(self, purpose: str, index: int, seed: int) -> tuple[str, Slab]:
        """Return the change of a parent and the slab with it, drawn from the stream (seed, purpose, index)."""
        generator = numpy_stream(seed, purpose, index)
        name = pick(self.changes, generator)
        return name, CHANGES[name](self._slab, CRYSTALS[self.material].symbols, self.height, generator)

    def _starts(self, indices: range, seed: int) -> tuple[Structures, tuple[str, ...]]:
        """Return the starts of these indices and the names of their parents."""
        slabs, parents = [], []
        for k in indices:
            p = k // self.starts_per_parent
            name, parent = self._parent("oxide pair parent", p, seed)
            positions = rattled(parent, self.rattle, numpy_stream(seed, "oxide pair start", k))
            slabs.append(_atoms(parent, positions, f"{self._label}-{seed}-{k:06d}"))
            parents.append(f"{self._label}-{seed}-{name}-{p:06d}")
        return Structures.from_atoms(slabs), tuple(parents)

    def _frame_structures(self, indices: range, seed: int) -> tuple[Structures, tuple[str, ...]]:
        """Return all frames of these parents in order, and the name of the parent of each."""
        drawn = [self._parent("oxide frame parent", p, seed) for p in indices]
        streams = [numpy_stream(seed, "oxide frame", p) for p in indices]
        starts = Structures.from_atoms(
            [
                _atoms(parent, rattled(parent, self.rattle, stream), "")
                for (_, parent), stream in zip(drawn, streams, strict=True)
            ]
        )

        def bend(k: int, deviation: float) -> Float[np.ndarray, "ions 3"]:
            return rattled(drawn[k][1], deviation, streams[k])

        frames: list[Atoms] = []
        names: list[str] = []
        for k, five in enumerate(frames_along(starts, self.reference(), self.settling, streams, bend)):
            name, parent = drawn[k]
            for positions in five:
                number = indices[0] * FRAMES_PER_PARENT + len(frames)
                frames.append(_atoms(parent, positions, f"{self._label}-{seed}-frame-{number:06d}"))
                names.append(f"{self._label}-{seed}-frame-{name}-{indices[k]:06d}")
        return Structures.from_atoms(frames), tuple(names)


def _atoms(slab: Slab, positions: Float[np.ndarray, "ions 3"], name: str) -> Atoms:
    held = FixAtoms(np.flatnonzero(slab.fixed))
    return Atoms(slab.numbers, positions, cell=slab.cell, pbc=True, constraint=held, info={"id": name})
