"""What tuning costs: errors on held-out labels and the perfect crystal, measured the same way before and after.

Tuning looks at where relaxations end and at nothing else, so energies, forces and elastic constants that the base
had may be lost. Called for every arm of a contest and by the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from thalweg.errors import SettingsError, nearest_known
from thalweg.evaluation.crystal import CrystalProperties, measure_crystal
from thalweg.evaluation.label_errors import LabelErrors, measure_label_errors
from thalweg.potentials.contract import Potential
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Frames
from thalweg.testbeds import TESTBEDS
from thalweg.testbeds.testbed import Testbed


@dataclass(frozen=True)
class CostOfTuning:
    """What one potential is worth apart from its basins; compare that of a base with that of what it became."""

    errors: LabelErrors | None
    """Errors on labelled frames; None where none were given."""
    crystal: CrystalProperties | None
    """The perfect crystal; None where none was given."""
    reference: CrystalProperties | None
    """The same of the reference surface; None where there is no crystal or no reference."""

    def record(self) -> dict[str, Any]:
        """Return all parts as JSON types."""
        parts = {"errors": self.errors, "crystal": self.crystal, "reference": self.reference}
        return {name: None if part is None else part.record() for name, part in parts.items()}


def measure_cost(
    potential: Potential,
    frames: Frames | None = None,
    *,
    crystal: Structures | None = None,
    reference: Potential | None = None,
) -> CostOfTuning:
    """Measure what a potential is worth apart from its basins, in float64.

    Args:
        potential: what is judged; stays as it is.
        frames: labelled frames that it has not seen.
        crystal: one cubic cell, as `Testbed.crystal` gives.
        reference: the surface whose crystal is measured the same way.

    Raises:
        SettingsError: neither frames nor crystal, no frames in the set, or a crystal that is not a cubic cell.
        PotentialError: an element that the potential or the reference never saw.
    """
    if frames is None and crystal is None:
        raise SettingsError("there is nothing to measure on: give labelled frames, a crystal, or both")
    return CostOfTuning(
        errors=None if frames is None else measure_label_errors(potential, frames),
        crystal=None if crystal is None else measure_crystal(potential, crystal),
        reference=None if crystal is None or reference is None else measure_crystal(reference, crystal),
    )


def require_crystal(testbed: str) -> None:
    """Refuse a testbed that is not known or has no cubic crystal to measure.

    Raises:
        SettingsError: naming it and those that have one.
    """
    if testbed not in TESTBEDS:
        raise SettingsError(f"testbed {testbed!r} is not known; {nearest_known(testbed, TESTBEDS)}")
    if TESTBEDS[testbed]().crystal() is None:
        having = ", ".join(sorted(name for name, family in TESTBEDS.items() if family().crystal() is not None))
        raise SettingsError(
            f"testbed {testbed!r} has no cubic crystal to measure: name one that has ({having}) or none"
        )


def cost_record(potential: Potential, frames: Frames | None, testbed: Testbed | None) -> dict[str, Any] | None:
    """Return the record of `measure_cost` with a testbed's crystal and surface; None where there is nothing to measure.

    Args:
        potential: what is judged.
        frames: labelled frames that it has not seen, or None.
        testbed: as the pairs were made, its settings included; or None.

    Raises:
        SettingsError: no frames in the set.
        PotentialError: an element that the potential never saw.
    """
    crystal = None if testbed is None else testbed.crystal()
    if frames is None and crystal is None:
        return None
    reference = None if testbed is None else testbed.reference()
    return measure_cost(potential, frames, crystal=crystal, reference=reference).record()
