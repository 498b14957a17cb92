"""Atoms and small molecules on Ti(0001), on a second-moment surface: a strong base's own ground.

A start is a slab of close-packed titanium whose lowest layers are held, its other atoms rattled, with one
adsorbate anywhere above it; its minimum is where `Settling` takes it. Titanium is the published surface of Cleri
and Rosato (Phys. Rev. B 48, 22 (1993)) with a smooth end; the bonds of H, C, N and O to it are a choice of ours
(`second_moment_bonds`), so energies of adsorption on it are those of a model, not of titanium. Atoms come to
rest in the two kinds of hollow of the surface, above an atom of the second layer (hcp) or none (fcc); CO lies
down over one of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Float
from torch import Tensor

from thalweg.errors import SettingsError, StructureError, nearest_known
from thalweg.potentials.second_moment import SecondMoment
from thalweg.relaxation.path import Path
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Frames
from thalweg.testbeds.drawing import FRAMES_PER_PARENT, draw_pairs, label_frames, pick, require_weights
from thalweg.testbeds.framing import frames_along
from thalweg.testbeds.settling import Settling, require_known
from thalweg.testbeds.slabs import ADSORBATES, Slab, bare, placed, rattled
from thalweg.testbeds.testbed import Drawn, Testbed

LATTICE_CONSTANT = 2.91978937
"""a of the surface as ended here, Å; measured is 2.951."""
HEIGHT_CONSTANT = 4.76638518
"""c of the surface as ended here, Å; c/a is 1.632, the ideal ratio nearly, where measured is 1.588."""

MIXTURE: Mapping[str, float] = {"O": 0.3, "CO": 0.3, "N": 0.15, "H": 0.15, "Ti": 0.1}
"""Weights that cover every adsorbate."""

SETTLING = Settling(alpha=0.03)
"""How starts are relaxed unless told otherwise. Curvatures at minima reach 38 eV/Å² with CO, 24 with single atoms
and 12 on the bare slab, so α λ_max is 1.14 at most."""

_TYPES = {
    "layers": int,
    "size": int,
    "fixed_layers": int,
    "adsorbates": Mapping,
    "lowest": float,
    "highest": float,
    "starts_per_parent": int,
    "rattle": float,
    "settling": Mapping,
}


@dataclass(frozen=True)
class Titanium(Testbed):
    """Adsorbates on Ti(0001)."""

    kind: ClassVar[str] = "titanium"

    layers: int = 4
    """Layers of the slab."""
    size: int = 3
    """Surface cells along both directions: `size`² atoms a layer."""
    fixed_layers: int = 2
    """Lowest layers, held where they are in the crystal."""
    adsorbates: Mapping[str, float] = field(default_factory=lambda: dict(MIXTURE))
    """Weight of each adsorbate (names in `ADSORBATES`)."""
    lowest: float = 1.2
    """Least height of the adsorbate's middle above the topmost layer, Å."""
    highest: float = 2.6
    """Greatest height of it, Å."""
    starts_per_parent: int = 1
    """Starts that share the place and turn of the adsorbate and differ in the rattle of the slab."""
    rattle: float = 0.1
    """Standard deviation of the rattle of the slab's free atoms, Å."""
    settling: Settling = SETTLING
    """How starts are relaxed."""

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("layers", self.layers, 3, 12),
            ("size", self.size, 3, 10),
            ("fixed_layers", self.fixed_layers, 1, self.layers - 1),
        ):
            if not least <= value <= most:
                raise SettingsError(f"titanium {name} is {value}: allowed is {least} to {most}")
        require_weights(self.kind, "adsorbate", self.adsorbates, ADSORBATES)
        if not 0.5 <= self.lowest <= self.highest <= 4.0:
            raise SettingsError(
                f"titanium lowest and highest are {self.lowest} and {self.highest}: "
                "allowed is 0.5 to 4 Å, in this order"
            )
        if self.starts_per_parent < 1:
            raise SettingsError(f"titanium starts_per_parent is {self.starts_per_parent}: allowed is 1 or more")
        if not 0 <= self.rattle <= 0.4:
            raise SettingsError(f"titanium rattle is {self.rattle}: allowed is 0 to 0.4 Å")

    @property
    def settings(self) -> dict[str, Any]:
        """Every field, as JSON types."""
        return {**asdict(self), "adsorbates": dict(self.adsorbates)}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Build a testbed from some or all of its fields.

        Raises:
            SettingsError: an unknown key, a wrong type or a value outside its range.
        """
        values = dict(settings)
        require_known(values, _TYPES, cls.kind)
        if "adsorbates" in values:
            require_known(values["adsorbates"], dict.fromkeys(ADSORBATES, float), f"{cls.kind} adsorbates")
        if "settling" in values:
            values["settling"] = Settling.from_settings({**asdict(SETTLING), **values["settling"]})
        return cls(**values)

    def reference(self) -> SecondMoment:
        """Return the surface, in float64."""
        return SecondMoment.from_set("Ti-adsorbates")

    def path(self) -> Path:
        """Return the path of the settling; see `Testbed.path`."""
        return self.settling.path()

    def crystal(self) -> None:
        """Return None: the crystal behind the slabs is hexagonal, and the contract asks for a cubic cell."""
        return None

    def adsorption_energy(
        self, structures: Structures, energy: Float[Tensor, " structures"]
    ) -> Float[Tensor, " structures"]:
        """Return the energy of adsorption, eV, negative where bound: E − E(bare slab, relaxed) − E(free adsorbate).

        Args:
            structures: of this testbed, slab first and adsorbate last.
            energy: their energies on the reference, eV.

        Raises:
            StructureError: a structure with something else on the slab than one of `ADSORBATES`.
        """
        free = dict(zip(ADSORBATES, self._free_energies.tolist(), strict=True))
        parts = []
        for k, name in enumerate(structures.ids):
            rest = structures.numbers[structures.offsets[k] + self._bare.host : structures.offsets[k + 1]]
            formula = "".join(chemical_symbols[z] for z in rest.tolist())
            if formula not in free:
                raise StructureError(
                    f"structure {name!r} has {formula or 'nothing'!r} on its {self._bare.host} slab atoms; "
                    f"{nearest_known(formula, free)}"
                )
            parts.append(free[formula])
        return energy - self._bare_energy - energy.new_tensor(parts)

    def draw(self, count: int, seed: int) -> Drawn:
        """Draw starts and relax them; see `Testbed.draw`."""
        return draw_pairs(self.kind, self.reference(), self.path(), lambda k: self._starts(k, seed), count)

    def frames(self, count: int, seed: int) -> Frames:
        """Return labelled frames, five of each parent.

        In turn: the parent rattled by 0.02 to 0.2 Å; a start; the start after 1 to 10 steps of the descent
        and after 11 to all of them, both rattled by up to 0.1 Å; its minimum rattled by 0.01 to 0.1 Å. Held atoms
        stay where they are in all of them. Parents are drawn from a stream of their own.
        """
        return label_frames(self.reference(), lambda p: self._frame_structures(p, seed), count)

    @cached_property
    def _bare(self) -> Slab:
        return bare(
            "Ti", LATTICE_CONSTANT, HEIGHT_CONSTANT, layers=self.layers, size=self.size, fixed=self.fixed_layers
        )

    @cached_property
    def _bare_energy(self) -> float:
        slab = Structures.from_atoms(self._bare.atoms, ids=["bare slab"])
        return float(replace(self.path(), fmax=1e-6).run(self.reference(), slab).energy)

    @cached_property
    def _free_energies(self) -> Tensor:
        frames = [
            Atoms(what.symbols, [[n * what.length, 0.0, 0.0] for n in range(len(what.symbols))])
            for what in ADSORBATES.values()
        ]
        return self.reference()(Structures.from_atoms(frames)).energy

    def _parent(self, purpose: str, index: int, seed: int) -> tuple[str, Slab]:
        """Return the adsorbate of a parent and the slab with it, drawn from the stream (seed, purpose, index)."""
        generator = numpy_stream(seed, purpose, index)
        name = pick(self.adsorbates, generator)
        return name, placed(self._bare, ADSORBATES[name], (self.lowest, self.highest), generator)

    def _starts(self, indices: range, seed: int) -> tuple[Structures, tuple[str, ...]]:
        """Return the starts of these indices and the names of their parents."""
        slabs, parents = [], []
        for k in indices:
            p = k // self.starts_per_parent
            name, parent = self._parent("titanium pair parent", p, seed)
            positions = rattled(parent, self.rattle, numpy_stream(seed, "titanium pair start", k))
            slabs.append(parent.at(positions, f"titanium-{self._bare.host}-{seed}-{k:06d}"))
            parents.append(f"titanium-{self._bare.host}-{seed}-{name}-{p:06d}")
        return Structures.from_atoms(slabs), tuple(parents)

    def _frame_structures(self, indices: range, seed: int) -> tuple[Structures, tuple[str, ...]]:
        """Return all frames of these parents in order, and the name of the parent of each."""
        drawn = [self._parent("titanium frame parent", p, seed) for p in indices]
        streams = [numpy_stream(seed, "titanium frame", p) for p in indices]
        starts = Structures.from_atoms(
            [
                parent.at(rattled(parent, self.rattle, stream), "")
                for (_, parent), stream in zip(drawn, streams, strict=True)
            ]
        )

        def bend(k: int, deviation: float) -> Float[np.ndarray, "atoms 3"]:
            return rattled(drawn[k][1], deviation, streams[k])

        frames: list[Atoms] = []
        names: list[str] = []
        for k, five in enumerate(frames_along(starts, self.reference(), self.settling, streams, bend)):
            name, parent = drawn[k]
            for positions in five:
                number = indices[0] * FRAMES_PER_PARENT + len(frames)
                frames.append(parent.at(positions, f"titanium-{self._bare.host}-{seed}-frame-{number:06d}"))
                names.append(f"titanium-{self._bare.host}-{seed}-frame-{name}-{indices[k]:06d}")
        return Structures.from_atoms(frames), tuple(names)
