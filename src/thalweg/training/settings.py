"""What `train` and `tune` are told: one typed, frozen settings object a command, built from shared sections.

Unknown keys are refused, numbers have ranges, and every value has a default except where there can be none. A
route is held as the frozen value itself; in files it is a mapping with its `kind` and that route's own fields.
Files and command-line overrides are read by `loading`, which turns any fault into one line.
"""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    Strict,
    field_validator,
    model_validator,
)

from thalweg.errors import nearest_known
from thalweg.gradients import Route, Split
from thalweg.gradients.guidance import check_horizon
from thalweg.relaxation import RELAXERS, Descent, FreeCoordinates, Path, Positions, PositionsAndCell
from thalweg.training.route_settings import read_route, route_values
from thalweg.units import FORCE_TOLERANCE

SAME_RESULT: dict[str, Any] = {"changes_result": False}
"""Marks a field (as `json_schema_extra`) that says where or how a run is done and not what comes out."""


class Section(BaseModel):
    """A group of settings: frozen, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, arbitrary_types_allowed=True
    )


class RelaxationSettings(Section):
    """The path that training differentiates."""

    alpha: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Step size α of the update, Å²/eV; null takes 1.5/λ_max, measured with the base at training minima."""
    cap: float = Field(default=0.2, gt=0, allow_inf_nan=False)
    """Largest displacement of an atom in one update, Å."""
    steps: int = Field(default=75, ge=1)
    """T, the number of updates."""
    finish: str = "lbfgs"
    """What relaxes on after the updates, a key of `RELAXERS`; `descent` goes on with the same update, which is slow
    but needs no energy behind the forces, where `lbfgs` and `fire` lean on one."""
    fmax: float = Field(default=FORCE_TOLERANCE, gt=0, allow_inf_nan=False)
    """Largest force that counts as relaxed, eV/Å."""
    max_steps: int = Field(default=400, ge=0)
    """Most steps of the finisher."""
    cell: Literal["fixed", "free"] = "fixed"
    """Whether the cell relaxes with the atoms; `free` is judged by rule `crystal` or `distance`."""

    @field_validator("finish")
    @classmethod
    def _known_finisher(cls, finish: str) -> str:
        if finish not in RELAXERS:
            raise ValueError(f"finisher {finish!r} is not known; {nearest_known(finish, RELAXERS)}")
        return finish

    @property
    def coordinates(self) -> FreeCoordinates:
        """What moves."""
        return PositionsAndCell() if self.cell == "free" else Positions()

    def path(self, alpha: float | None = None) -> Path:
        """Return the path; `alpha` (Å²/eV), where given, replaces the setting, which a run may have lowered."""
        size = self.alpha if alpha is None else alpha
        if size is None:
            raise ValueError("alpha is neither set nor given")
        update = Descent(size, self.cap)
        return Path(
            update=update,
            steps=self.steps,
            finish=update if self.finish == Descent.kind else RELAXERS[self.finish](),
            fmax=self.fmax,
            max_steps=self.max_steps,
            coordinates=self.coordinates,
        )


class OptimiserSettings(Section):
    """AdamW with warm-up, a schedule and clipping by the norm of the whole gradient."""

    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    """Highest learning rate."""
    warmup: int = Field(default=10, ge=0)
    """Updates of the parameters over which the learning rate rises linearly."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up: down a half cosine to `final`, or constant."""
    final: float = Field(default=0.01, ge=0, le=1)
    """Learning rate at the end of the cosine, as a fraction of the highest."""
    clip: float | None = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Largest norm of the gradient; longer ones are scaled down to it; null leaves them."""
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Decoupled weight decay."""
    updates: int = Field(default=100, ge=1)
    """Number of updates of the parameters."""
    batch: int = Field(default=8, ge=1)
    """Structures an update, over all processes."""

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if self.warmup > self.updates:
            raise ValueError(
                f"warmup is {self.warmup}, but there are {self.updates} updates: lower warmup or raise updates"
            )
        return self


class ObjectiveSettings(Section):
    """Weights of guidance and equilibrium, and where the loss turns robust."""

    guidance_weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of the loss on X_K."""
    equilibrium_weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of the loss on X*."""
    delta: float = Field(default=3.0, gt=0, allow_inf_nan=False)
    """δ, amu^½ Å: ΔQ beyond which a structure pulls less the farther away it is."""


class StabilitySettings(Section):
    """What keeps α λ_max below 2 while tuning stiffens the potential; see `training.stability`."""

    penalty: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """w, amu Å²: weight of the penalty on curvatures of the potential; 0 for none, 10 held silicon at twice the α it
    was stable with. Keeps α, so that arms can be compared."""
    penalty_limit: float = Field(default=1.5, gt=0, lt=2, allow_inf_nan=False)
    """α s above which the penalty rises."""
    penalty_minima: int = Field(default=2, ge=1)
    """Reference minima of every batch at which it is taken."""
    guard: Literal["warn", "lower"] = "warn"
    """What a check does that finds α too large: `warn` says so, once, from α λ_max = 2 on; `lower` takes a smaller α
    for the rest of the run, so that the path of the relaxation is no longer that of the settings."""
    guard_limit: float = Field(default=1.8, gt=0, le=2, allow_inf_nan=False)
    """α λ_max above which `lower` acts."""
    guard_target: float = Field(default=1.5, gt=0, lt=2, allow_inf_nan=False)
    """α λ_max after it acted."""

    @model_validator(mode="after")
    def _target_is_lower(self) -> Self:
        if self.guard_target >= self.guard_limit:
            raise ValueError(
                f"guard_target is {self.guard_target}: allowed is a value below guard_limit ({self.guard_limit})"
            )
        return self


class DeviceSettings(Section):
    """Where a run computes; nothing here but `dtype` changes the result beyond rounding."""

    accelerator: Literal["auto", "cpu", "cuda"] = Field(default="auto", json_schema_extra=SAME_RESULT)
    """`auto` takes a CUDA device if there is one."""
    devices: int = Field(default=1, ge=1, json_schema_extra=SAME_RESULT)
    """Processes, each with a device (or a CPU worker) of its own, that share every batch."""
    dtype: Literal["float32", "float64"] | None = None
    """Floating type; null keeps that of the potential."""


class RunSettings(Section):
    """What every run has."""

    out: Annotated[FilePath, Strict(False)] = Field(default=FilePath("run"), json_schema_extra=SAME_RESULT)
    """The run folder."""
    overwrite: bool = Field(default=False, json_schema_extra=SAME_RESULT)
    """Begin anew although the folder holds a run; what that run wrote is removed."""
    seed: int = Field(default=0, ge=0)
    """Root seed of every random stream."""
    augment: Literal["none", "rotation"] = "none"
    """`rotation` turns every structure of a batch at random, cell and labels with it, anew in every update: for
    potentials that are not equivariant. Validation is not turned."""
    device: DeviceSettings = DeviceSettings()
    """Where to compute."""
    checkpoint_every: int = Field(default=1, ge=1, json_schema_extra=SAME_RESULT)
    """Updates between checkpoints."""
    validate_every: int = Field(default=10, ge=1)
    """Updates between validations."""


class PotentialSettings(BaseModel):
    """Which potential to build: `kind` and that kind's own keys, checked by the potential itself."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    kind: str = "painn"
    """A key of `POTENTIALS`."""

    @property
    def values(self) -> dict[str, Any]:
        """The keys that belong to the potential."""
        return dict(self.__pydantic_extra__ or {})


class MatchingSettings(Section):
    """The loss of force matching."""

    energy_weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of the energies."""
    force_weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of the forces."""
    energy_scale: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """Unit of energy errors, eV per atom: where the loss turns from square to linear. With 0.01 the energies
    drown the forces: force errors on silicon came out 2.4 times as large as with 0.1."""
    force_scale: float = Field(default=0.3, gt=0, allow_inf_nan=False)
    """Unit of force errors, eV/Å: where the Huber loss turns from square to linear."""
    stress_weight: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the stresses; 0 leaves them out. Wanted where the cell relaxes; frames without one are passed over."""
    stress_scale: float = Field(default=0.01, gt=0, allow_inf_nan=False)
    """Unit of stress errors, eV/Å³, where the Huber loss turns from square to linear: 1.6 GPa, which on the cell of a
    tetrahedral crystal weighs as 0.3 eV/Å do on an atom."""


class MatchingOptimiserSettings(OptimiserSettings):
    """The same with defaults for force matching, which takes many cheap updates."""

    learning_rate: float = Field(default=1e-2, gt=0, allow_inf_nan=False)
    """Highest learning rate."""
    warmup: int = Field(default=50, ge=0)
    """Updates of the parameters over which the learning rate rises linearly."""
    clip: float | None = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Largest norm of the gradient; longer ones are scaled down to it; null leaves them."""
    updates: int = Field(default=2000, ge=1)
    """Number of updates of the parameters."""
    batch: int = Field(default=4, ge=1)
    """Frames an update: with silicon, 2000 updates of 4 fit better than 1000 of 8 and take less time."""


class TrainSettings(RunSettings):
    """Force matching: what makes the base."""

    potential: PotentialSettings = PotentialSettings()
    """What to train."""
    matching: MatchingSettings = MatchingSettings()
    """The loss."""
    optimiser: MatchingOptimiserSettings = MatchingOptimiserSettings()
    """How to step."""
    checkpoint_every: int = Field(default=200, ge=1, json_schema_extra=SAME_RESULT)
    """Updates between checkpoints."""
    validate_every: int = Field(default=100, ge=1)
    """Updates between validations and lines of metrics."""


class StoreSettings(Section):
    """What of a store is trained on, and how it is read."""

    validation: float | int = Field(default=0.05, ge=0, allow_inf_nan=False)
    """Frames held out by whole parents: a fraction below 1 or a whole number; 0 for none. They are the same for
    every `frames` and every seed of the run."""
    split_seed: int = Field(default=0, ge=0)
    """Seed of the permutation of parents by which frames are held out and put in order."""
    frames: int | None = Field(default=None, ge=1)
    """Train on the first so many of that order; null for all. Smaller sets lie in larger ones."""
    batch_atoms: int | None = Field(default=None, ge=1)
    """Most atoms of a batch, instead of a number of frames (`optimiser.batch`)."""
    in_memory: Literal["auto"] | bool = Field(default="auto", json_schema_extra=SAME_RESULT)
    """Load the store, or leave it on the disk (false); `auto` loads it where half of the free memory holds it."""
    ahead: bool = Field(default=True, json_schema_extra=SAME_RESULT)
    """Prepare the next batch beside the step; without, a step waits for all of its own."""


class StoreTrainSettings(TrainSettings):
    """Force matching on frames of a store."""

    store: StoreSettings = StoreSettings()
    """What of the store is trained on."""


class ReplaySettings(Section):
    """Labelled frames beside the relaxations of tuning, so that energies and forces are not forgotten."""

    share: float = Field(default=0.0, ge=0, lt=1, allow_inf_nan=False)
    """s: replay's part of the summed lengths of both gradients at the first update, from which its weight follows;
    0 for no replay."""
    weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The weight of the force-matching loss itself, instead of `share`."""
    batch: int = Field(default=4, ge=1)
    """Frames an update, over all processes."""
    matching: MatchingSettings = MatchingSettings()
    """The loss; set `energy_weight` to 0 where the labels count energies from another zero than the potential."""

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        if self.share > 0 and self.weight is not None:
            raise ValueError(f"share is {self.share} and weight is {self.weight}: give one of them")
        return self

    @property
    def on(self) -> bool:
        """Whether frames are replayed."""
        return self.share > 0 or self.weight is not None


class TuneSettings(RunSettings):
    """Training through relaxation."""

    relaxation: RelaxationSettings = RelaxationSettings()
    """What is relaxed."""
    route: Annotated[Route, PlainValidator(read_route), PlainSerializer(route_values)] = Split()
    """How it is differentiated."""
    objective: ObjectiveSettings = ObjectiveSettings()
    """What is wanted of the positions reached."""
    optimiser: OptimiserSettings = OptimiserSettings()
    """How to step."""
    replay: ReplaySettings = ReplaySettings()
    """What limits the damage to energies and forces."""
    stability: StabilitySettings = StabilitySettings()
    """What keeps α stable for the potential."""
    stability_every: int = Field(default=10, ge=1)
    """Updates between checks that α is still stable for the potential, and of its guard."""
    minima: int = Field(default=4, ge=1)
    """Training minima at which λ_max is measured."""

    @model_validator(mode="after")
    def _horizon_fits(self) -> Self:
        if hasattr(self.route, "horizon"):
            check_horizon(self.route.horizon, self.relaxation.path(1.0))
        return self
