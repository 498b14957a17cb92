"""The same-basin test: does a potential end where the reference ended? Three rules, always named.

`Quench`: what the potential ended at and the reference minimum, both relaxed tightly on the reference
surface, coincide. It asks for the basin alone, whatever the potential's own precision, and needs a
reference. `Distance`: the two coincide as they are and, where the caller says that energies compare, so do
their energies. Of DFT end points no more can be asked. `CrystalQuench`, where the cell moves: both, relaxed
tightly with their cells on the reference surface, are one crystal (`structures.same_crystal`) of one energy.

"Coincide" means that the largest matched displacement (minimum image, drift removed, assigned within each species)
is below a threshold in Å; where cells differ, their vectors may not move by more either. Every comparison keeps the
displacements, so counts over a sweep of thresholds cost nothing. A structure that did not converge is a class of its
own: never right, always in the denominator.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thalweg.errors import SettingsError, nearest_known
from thalweg.potentials.contract import Potential
from thalweg.relaxation.cell import PositionsAndCell
from thalweg.relaxation.coordinates import Positions
from thalweg.relaxation.lbfgs import LBFGS
from thalweg.relaxation.loop import Relaxation, relax
from thalweg.relaxation.outcome import Outcome
from thalweg.relaxation.relaxer import Relaxer
from thalweg.structures.batch import Structures
from thalweg.structures.displacement import largest_displacement
from thalweg.structures.same_crystal import REACH, crystal_distances

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""The sweep, Å."""


class Verdict(StrEnum):
    """Exactly one of these per pair; all stay in the denominator."""

    RIGHT = "right"
    """Converged in the basin of the reference minimum."""
    WRONG = "wrong"
    """Converged in another basin."""
    UNCONVERGED = "unconverged"
    """The potential's relaxation did not converge."""
    UNJUDGED = "unjudged"
    """It converged, but the quench of its end or of the minimum did not, or carried the minimum away, which
    then is none of this reference."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Ends beside reference minima, one entry per pair, on the host in float64."""

    converged: Bool[Tensor, " pairs"]
    """Whether the potential's relaxation converged."""
    displacement: Float[Tensor, " pairs"]
    """Largest matched displacement by which the rule judges, Å; NaN where unconverged or unjudged."""
    energy_difference: Float[Tensor, " pairs"]
    """Energy of the end less that of the minimum on one surface, eV; NaN where there is no such surface."""
    energy_limit: float | Float[Tensor, " pairs"] | None
    """|ΔE| from which on a pair is wrong, eV, for all or one each; None where the rule asks for none."""

    def right(self, threshold: float) -> Bool[Tensor, " pairs"]:
        """Return which pairs are in the same basin at a threshold, Å."""
        near = self.displacement < threshold  # False for NaN
        if self.energy_limit is None:
            return near
        return near & ~(self.energy_difference.abs() >= self.energy_limit)  # NaN does not compare

    def verdicts(self, threshold: float) -> tuple[Verdict, ...]:
        """Return the verdict on each pair at a threshold, Å."""
        right, judged = self.right(threshold), torch.isfinite(self.displacement)
        kinds = zip(self.converged.tolist(), judged.tolist(), right.tolist(), strict=True)
        return tuple(_verdict(*kind) for kind in kinds)


def _verdict(converged: bool, judged: bool, right: bool) -> Verdict:
    if not converged:
        return Verdict.UNCONVERGED
    if not judged:
        return Verdict.UNJUDGED
    return Verdict.RIGHT if right else Verdict.WRONG


@dataclass(frozen=True)
class BasinRule(ABC):
    """One way to tell whether two structures lie in the same basin."""

    kind: ClassVar[str]
    """Its name in results and settings files."""
    moving_cell: ClassVar[bool | None]
    """Whether it judges paths on which the cell moves, those on which it does not, or both (None)."""
    threshold: float = 0.2
    """Largest matched displacement below which two structures coincide, Å."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < float("inf"):
            raise SettingsError(f"{self.kind} threshold is {self.threshold}: allowed is a length above 0 Å, e.g. 0.2")

    @property
    def settings(self) -> dict[str, Any]:
        """Every field as JSON types, for the record of a result."""
        return asdict(self)

    def check_path(self, moves_cell: bool) -> None:
        """Refuse, before anything is run, a path that the rule cannot judge.

        Raises:
            SettingsError: the cell moves on the path and the rule compares within one cell, or the reverse.
        """
        if self.moving_cell is not None and self.moving_cell != moves_cell:
            moves, allowed = ("moves", "crystal") if moves_cell else ("does not move", "quench")
            raise SettingsError(
                f"rule {self.kind!r} cannot judge a path on which the cell {moves}: use rule {allowed!r} or "
                f"'distance', or set relaxation.cell={'fixed' if moves_cell else 'free'} (cell=… on the command line)"
            )

    def apart(self, ours: Structures, theirs: Structures) -> Float[Tensor, " pairs"]:
        """Return how far structures are from others, in order, as the rule compares them, Å; finite always."""
        return largest_displacement(ours.to("cpu", torch.float64), theirs.to("cpu", torch.float64))

    @abstractmethod
    def check(self, reference: Potential | None, energy_minimum: Float[Tensor, " pairs"] | None) -> None:
        """Refuse, before anything is run, what the rule cannot judge.

        Raises:
            SettingsError: what the rule needs is not there.
        """

    @abstractmethod
    def compare(
        self,
        ends: Relaxation,
        minima: Structures,
        *,
        reference: Potential | None = None,
        energy_minimum: Float[Tensor, " pairs"] | None = None,
    ) -> Comparison:
        """Compare where a potential's relaxations ended with the reference minima.

        Args:
            ends: the potential's relaxations, one per pair.
            minima: the reference minima in the same order.
            reference: the reference surface; evaluated in float64.
            energy_minimum: energy of the minima, eV; NaN where unknown.

        Raises:
            SettingsError: as `check`.
            StructureError: an end and its minimum differ in composition.
        """


@dataclass(frozen=True)
class Quench(BasinRule):
    """Relax both on the reference surface, then compare."""

    kind: ClassVar[str] = "quench"
    moving_cell: ClassVar[bool | None] = False

    fmax: float = 1e-3
    """Largest force at the end of the quench, eV/Å."""
    max_steps: int = 1000
    """Most steps of the quench."""
    relaxer: Relaxer = field(default_factory=lambda: LBFGS(memory=30))
    """How to walk."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fmax <= 0.01:
            raise SettingsError(f"quench fmax is {self.fmax}: allowed is above 0 to 0.01 eV/Å, e.g. 0.001")
        if self.max_steps < 1:
            raise SettingsError(f"quench max_steps is {self.max_steps}: allowed is 1 step or more, e.g. 1000")

    @property
    def settings(self) -> dict[str, Any]:
        """Every field as JSON types, the relaxer with its name."""
        return {**asdict(self), "relaxer": {"kind": self.relaxer.kind, **asdict(self.relaxer)}}

    def check(self, reference: Potential | None, energy_minimum: Float[Tensor, " pairs"] | None = None) -> None:
        """Refuse to go without a reference; see `BasinRule.check`."""
        _required(reference, self.kind)

    def compare(
        self,
        ends: Relaxation,
        minima: Structures,
        *,
        reference: Potential | None = None,
        energy_minimum: Float[Tensor, " pairs"] | None = None,
    ) -> Comparison:
        """Compare after the quench; see `BasinRule.compare`. Only converged ends are quenched."""
        surface = in_double(_required(reference, self.kind))
        converged, displacement, difference = _begin(ends)
        chosen = converged.nonzero().squeeze(1)
        if len(chosen):
            ours = self.quench(surface, ends.structures.select(chosen))
            theirs = self.quench(surface, minima.select(chosen))
            stayed = self.apart(theirs.structures, minima.select(chosen)) < self.threshold
            settled = stayed & _begin(ours)[0] & _begin(theirs)[0]
            # positions are finite even where a quench exploded, so all can be compared and some then left out
            apart = self.apart(ours.structures, theirs.structures)
            displacement[chosen] = torch.where(settled, apart, torch.nan)
            difference[chosen] = torch.where(settled, (ours.energy - theirs.energy).cpu(), torch.nan)
        return Comparison(converged, displacement, difference, self.energy_limit(minima))

    def energy_limit(self, minima: Structures) -> Float[Tensor, " pairs"] | None:
        """Return the |ΔE| (eV) from which on quenched structures are of different basins; None for no limit."""
        return None

    def quench(self, surface: Potential, structures: Structures) -> Relaxation:
        """Relax structures tightly on a surface; one in float64, see `in_double`."""
        return relax(
            surface,
            _for(surface, structures),
            self.relaxer,
            fmax=self.fmax,
            max_steps=self.max_steps,
            coordinates=PositionsAndCell() if self.moving_cell else Positions(),
            min_distance=min(0.3, surface.cutoff),
        )


@dataclass(frozen=True)
class CrystalQuench(Quench):
    """Relax both with their cells on the reference surface, then ask whether they are one crystal of one energy.

    Crystals are compared whatever their lattice basis, orientation and origin, so that symmetric copies are one.
    """

    kind: ClassVar[str] = "crystal"
    moving_cell: ClassVar[bool | None] = True

    energy_per_atom: float = 0.01
    """|ΔE| per atom from which on two crystals differ, however alike, eV."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.energy_per_atom > 0:
            raise SettingsError(f"crystal energy_per_atom is {self.energy_per_atom}: allowed is above 0 eV, e.g. 0.01")
        if self.threshold > REACH:
            raise SettingsError(
                f"crystal threshold is {self.threshold}: allowed is above 0 to {REACH} Å, as far as crystals are "
                "matched, e.g. 0.2"
            )

    def apart(self, ours: Structures, theirs: Structures) -> Float[Tensor, " pairs"]:
        """Return the distance between crystals, Å; beyond its reach that of the cells as they are."""
        near = crystal_distances(ours, theirs)
        return torch.where(torch.isfinite(near), near, super().apart(ours, theirs).clamp(min=REACH))

    def energy_limit(self, minima: Structures) -> Float[Tensor, " pairs"]:
        """Return the limit per atom times the number of atoms."""
        return self.energy_per_atom * minima.counts.cpu().double()


@dataclass(frozen=True)
class Distance(BasinRule):
    """Compare the structures as they are and, where asked to, their energies."""

    kind: ClassVar[str] = "distance"
    moving_cell: ClassVar[bool | None] = None

    energies_compare: bool = False
    """Whether energies are compared too: on the reference where there is one, else as the potential and the
    pairs give them, which must then be on one scale. Those of a fitted potential and of DFT are not. Off by
    default because on the reference the end of another potential is a strained point, no minimum: with every
    parameter of a Stillinger–Weber surface off by 10 %, all 23 right ends of 40 were above the limit."""
    energy: float = 0.05
    """|ΔE| from which on the basins differ, where energies are compared, eV."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.energy > 0:
            raise SettingsError(f"distance energy is {self.energy}: allowed is above 0 eV, e.g. 0.05")

    def check(self, reference: Potential | None, energy_minimum: Float[Tensor, " pairs"] | None) -> None:
        """Refuse to compare energies that are not there; see `BasinRule.check`."""
        if self.energies_compare and reference is None and energy_minimum is None:
            raise SettingsError(
                "rule 'distance' with energies_compare needs the energies of the minima and the pairs have "
                "none: give them or a reference, or leave energies_compare off"
            )

    def compare(
        self,
        ends: Relaxation,
        minima: Structures,
        *,
        reference: Potential | None = None,
        energy_minimum: Float[Tensor, " pairs"] | None = None,
    ) -> Comparison:
        """Compare as they are; see `BasinRule.compare`."""
        self.check(reference, energy_minimum)
        converged, displacement, difference = _begin(ends)
        chosen = converged.nonzero().squeeze(1)
        if len(chosen):
            ours, theirs = ends.structures.select(chosen), minima.select(chosen)
            displacement[chosen] = self.apart(ours, theirs)
            if self.energies_compare and reference is not None:
                surface = in_double(reference)
                found = surface(_for(surface, ours)).energy - surface(_for(surface, theirs)).energy
                # a reference without an answer there does not agree
                difference[chosen] = found.detach().cpu().nan_to_num(nan=torch.inf)
            elif self.energies_compare and energy_minimum is not None:
                found = ends.energy.detach().cpu().double() - energy_minimum.cpu().double()
                difference[chosen] = found[chosen]
        return Comparison(converged, displacement, difference, self.energy if self.energies_compare else None)


RULES: dict[str, type[BasinRule]] = {rule.kind: rule for rule in (Quench, Distance, CrystalQuench)}
"""Every rule by its name."""


def basin_rule(rule: BasinRule | str) -> BasinRule:
    """Return the rule of this name with its defaults, or the rule itself.

    Raises:
        SettingsError: there is no rule of this name.
    """
    if isinstance(rule, BasinRule):
        return rule
    if rule not in RULES:
        raise SettingsError(f"there is no basin rule {rule!r}; {nearest_known(rule, RULES)}")
    return RULES[rule]()


def in_double(potential: Potential) -> Potential:
    """Return the potential in float64: itself if it is, else a copy."""
    floats = [t.dtype for t in (*potential.parameters(), *potential.buffers()) if t.is_floating_point()]
    if all(dtype == torch.float64 for dtype in floats):
        return potential
    return copy.deepcopy(potential).to(torch.float64)


def home(potential: Potential, fallback: Structures) -> tuple[torch.device, torch.dtype]:
    """Return where and in which floating type a potential computes; as `fallback` if it has no tensors."""
    for tensor in (*potential.parameters(), *potential.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return fallback.device, fallback.dtype


def _for(surface: Potential, structures: Structures) -> Structures:
    return structures.to(home(surface, structures)[0], torch.float64)


def _required(reference: Potential | None, kind: str) -> Potential:
    if reference is None:
        raise SettingsError(
            f"rule {kind!r} relaxes on the reference surface and none was given: give the reference "
            "potential (--reference), or use rule 'distance'"
        )
    return reference


def _begin(ends: Relaxation) -> tuple[Tensor, Tensor, Tensor]:
    """Return which converged, and displacements and energy differences still unknown."""
    converged = torch.tensor([outcome is Outcome.CONVERGED for outcome in ends.outcomes])
    unknown = torch.full((len(converged),), torch.nan, dtype=torch.float64)
    return converged, unknown, unknown.clone()
