"""`PairResult`: what became of one pair, as it is written to a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from thalweg.evaluation.basins import Verdict


@dataclass(frozen=True)
class PairResult:
    """What became of one pair."""

    id: str
    """The id of the pair."""
    verdict: str
    """A `Verdict` at the rule's own threshold."""
    outcome: str
    """How the potential's relaxation ended: a label of `Outcome`."""
    displacement: float | None
    """Largest matched displacement by which the rule judged, Å; None where it did not."""
    energy_difference: float | None
    """Energy of the end less that of the minimum on one surface, eV; None where not compared."""
    dq: float | None
    """ΔQ from the potential's end to the reference minimum, amu^½ Å; None where exploded or too close."""
    energy: float | None
    """Energy of the potential at its end, eV; None where exploded or too close."""
    steps: int
    """Moves made."""
    fmax: float | None
    """Largest force at the end, eV/Å; None where not finite."""
    right_at: tuple[bool, ...]
    """Whether right at each of `THRESHOLDS`."""

    @property
    def right(self) -> bool:
        """Whether it converged in the basin of the reference minimum."""
        return self.verdict == Verdict.RIGHT

    def record(self) -> dict[str, Any]:
        """Return every field as JSON types, and whether it is right."""
        return {**asdict(self), "right_at": list(self.right_at), "right": self.right}

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> PairResult:
        """Read back what `record` gave; a missing key raises KeyError."""
        plain = {field.name: record[field.name] for field in fields(PairResult)}
        return PairResult(**{**plain, "right_at": tuple(plain["right_at"])})
