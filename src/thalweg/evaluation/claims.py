"""Hypotheses and kill conditions as data: a metric, an arm, what it is held against, and what is wanted of it.

    {id: H1, says: "the split finds more basins than the base", metric: basins_right, arm: split-20, against: base,
     wanted: more}

`says` is for people; the rest is what is judged, by the rules of `verdicts`, and is fixed before a number is seen.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from thalweg.errors import nearest_known
from thalweg.training.settings import Section

METRICS = {
    "basins_right": "held-out structures in the right basin",
    "unconverged": "held-out relaxations that did not converge",
    "dq_mean": "mean ΔQ, amu^½ Å",
    "saved_bytes": "bytes kept for backward in one update, counted exactly",
    "peak_bytes": "peak memory of the process, bytes",
    "seconds": "wall time of training, s",
}
"""What can be claimed about an arm."""

COST = "cost."
"""Prefix of metrics that are read from the cost of tuning, e.g. `cost.force_mae`."""

COMPARED = ("more", "fewer", "not fewer", "not more")
"""Wanted beside another arm: `against` says which."""
RATIOS = ("ratio at most", "ratio at least")
"""Wanted of the arm's figure divided by that of `against`, beside `value`."""
BOUNDS = ("at least", "at most")
"""Wanted of the arm alone, beside `value`."""
WANTED = (*COMPARED, *BOUNDS, *RATIOS)


class Claim(Section):
    """One hypothesis or one kill condition."""

    id: str = Field(min_length=1)
    """Short name, e.g. H1."""
    says: str = Field(min_length=1)
    """The claim in words."""
    metric: str = "basins_right"
    """A key of `METRICS`, or `cost.` and a key of the cost of tuning."""
    arm: str
    """The arm it is about."""
    against: str | None = None
    """The arm it is compared with, where `wanted` compares."""
    wanted: str
    """One of `WANTED`."""
    value: float | None = Field(default=None, allow_inf_nan=False)
    """The bound, where `wanted` has one."""

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, metric: str) -> str:
        if metric not in METRICS and not metric.startswith(COST):
            raise ValueError(f"metric {metric!r} is not known; {nearest_known(metric, [*METRICS, COST + '...'])}")
        return metric

    @field_validator("wanted")
    @classmethod
    def _known_wanted(cls, wanted: str) -> str:
        if wanted not in WANTED:
            raise ValueError(f"wanted {wanted!r} is not known; {nearest_known(wanted, WANTED)}")
        return wanted

    @model_validator(mode="after")
    def _complete(self) -> Self:
        compares, bounds = self.wanted in (*COMPARED, *RATIOS), self.wanted in (*BOUNDS, *RATIOS)
        if compares != (self.against is not None):
            need = "needs against, the name of another arm" if compares else "is about one arm: leave against out"
            raise ValueError(f"{self.id}: wanted {self.wanted!r} {need}")
        if bounds != (self.value is not None):
            need = "needs value, a number" if bounds else "compares two arms without a number: leave value out"
            raise ValueError(f"{self.id}: wanted {self.wanted!r} {need}")
        if self.against == self.arm:
            raise ValueError(f"{self.id}: arm and against are both {self.arm!r}: name two arms")
        return self

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that must be measured before it can be judged."""
        return (self.arm,) if self.against is None else (self.arm, self.against)
