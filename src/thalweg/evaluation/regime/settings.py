"""What `thalweg map` is told."""

from __future__ import annotations

from pydantic import Field

from thalweg.evaluation.regime.verdict import MapLimits
from thalweg.training.settings import RelaxationSettings, Section


class MapSettings(Section):
    """The path, how much is looked at, and what each coordinate is held against."""

    relaxation: RelaxationSettings = RelaxationSettings()
    """The path that training would differentiate; `relaxation.alpha` null is measured at minima."""
    limits: MapLimits = MapLimits()
    """What each coordinate is held against."""
    seed: int = Field(default=0, ge=0)
    """Root of all random streams."""
    batch: int = Field(default=8, ge=1)
    """Structures a gradient, for the predicted memory."""
    threshold: float = Field(default=0.2, gt=0, allow_inf_nan=False)
    """Largest matched displacement within a basin, Å."""
    valley_copies: int = Field(default=8, ge=2)
    """Perturbed copies of each start."""
    valley_deviation: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """Standard deviation of their perturbation, Å: about what thermal motion at room temperature does."""
    holding_copies: int = Field(default=4, ge=1)
    """Copies of each start from which the reference must reach its minimum again for the start to hold."""
    holding_deviation: float = Field(default=0.03, gt=0, allow_inf_nan=False)
    """Standard deviation of their perturbation, Å: less than zero-point motion (0.05 Å a component in silicon)."""
    decision_copies: int = Field(default=10, ge=2)
    """Without a reference: perturbed copies of each X_t."""
    decision_deviation: float = Field(default=0.02, gt=0, allow_inf_nan=False)
    """Standard deviation of their perturbation, Å: small beside a basin, large beside rounding."""
    decision_share: float = Field(default=0.9, gt=0, le=1)
    """Share of the copies that must end at X*."""
    minima: int = Field(default=4, ge=1)
    """Minima at which α is measured where it is null."""
    max_atoms: int = Field(default=4096, ge=1)
    """Most atoms relaxed at once."""
