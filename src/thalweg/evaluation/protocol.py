"""The protocol of a study: all that is decided before the first number is seen, as one YAML file.

    data (drawn once, or anew by seed) → per seed: a base → every arm from it, with the same pairs in the same order
    hypotheses and kill conditions, each a metric, an arm and what is wanted of it

What a file leaves out has the defaults here: the arms of the question "which valley, and how deep". Called by
`registration`, which freezes it, and `study`, which runs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainSerializer, PlainValidator, Strict, field_validator, model_validator

from thalweg.errors import SettingsError, nearest_known
from thalweg.evaluation.basins import RULES, basin_rule
from thalweg.evaluation.claims import Claim
from thalweg.gradients import Implicit, Phantom, Route, Split, Unrolled
from thalweg.testbeds import TESTBEDS
from thalweg.testbeds.testbed import Testbed
from thalweg.training.loading import laid_over, validate_settings
from thalweg.training.route_settings import read_route, route_values
from thalweg.training.settings import (
    MatchingOptimiserSettings,
    OptimiserSettings,
    PotentialSettings,
    RelaxationSettings,
    Section,
    TrainSettings,
    TuneSettings,
)

BASE = "base"
"""Name of the arm that leaves the base as it is."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_OWN = ("out", "overwrite", "seed")
"""Settings that the study gives to every run itself."""
_NO_ROUTE = Implicit()  # what stands in the shared settings, because it fits any path; every arm has its own


def _read_route_or_none(value: Any) -> Route | None:
    return None if value is None else read_route(value)


def _route_values_or_none(route: Route | None) -> dict[str, Any] | None:
    return None if route is None else route_values(route)


class DataPlan(Section):
    """What is drawn: frames, training pairs and held-out pairs never share a parent."""

    testbed: str = "silicon"
    """A key of `TESTBEDS`."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the testbed."""
    frames: int = Field(default=200, ge=1)
    """Labelled frames that bases are fitted to."""
    pairs: int = Field(default=160, ge=1)
    """Training pairs."""
    held_out: int = Field(default=100, ge=1)
    """Held-out pairs."""
    frames_held_out: int = Field(default=50, ge=1)
    """Labelled frames on which errors of energies and forces are measured."""
    seed: int = Field(default=0, ge=0)
    """Root of all draws."""
    anew: bool = False
    """Whether each seed has frames, pairs and held-out pairs of its own, from the root `seed` plus it, so that
    intervals over seeds hold the chance of the draw as well; otherwise all seeds share one draw."""

    def root(self, seed: int) -> int:
        """Return the root of the draws that a seed of the study works with."""
        return self.seed + seed if self.anew else self.seed

    def family(self) -> Testbed:
        """Return the testbed.

        Raises:
            SettingsError: an unknown testbed, or settings that it refuses.
        """
        if self.testbed not in TESTBEDS:
            raise SettingsError(f"testbed {self.testbed!r} is not known; {nearest_known(self.testbed, TESTBEDS)}")
        return TESTBEDS[self.testbed].from_settings(self.settings)

    @model_validator(mode="after")
    def _testbed_fits(self) -> Self:
        try:
            self.family()
        except SettingsError as error:
            raise ValueError(str(error)) from None
        return self


class Matching(Section):
    """The force-matched control: the base fitted further, to its own frames and labels that the pairs cost anyway."""

    labels: Literal["ends", "path"] = "path"
    """`ends`: start and minimum of every training pair; `path`: frames along the reference relaxations too."""
    every: int = Field(default=1, ge=1)
    """Of the frames along a relaxation, every n-th counted from the start; the last is always there."""
    updates: int = Field(default=600, ge=1)
    """Updates of the parameters, after those of the base."""
    optimiser: dict[str, Any] = Field(default_factory=dict)
    """Where its steps differ from those of the base."""


class ArmPlan(Section):
    """One way to change the base; without `route` and `matching` it is the base itself."""

    name: str
    """Its name in claims, tables and files."""
    route: Annotated[Route | None, PlainValidator(_read_route_or_none), PlainSerializer(_route_values_or_none)] = None
    """How relaxations are differentiated."""
    matching: Matching | None = None
    """Ordinary fitting instead."""
    tune: dict[str, Any] = Field(default_factory=dict)
    """What this arm is told otherwise than the others; shown in the tables."""

    @field_validator("name")
    @classmethod
    def _is_a_file_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} names a folder too: allowed are letters, digits and . _ + -, e.g. split-20")
        return name

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.route is not None and self.matching is not None:
            raise ValueError(f"arm {self.name!r} has a route and matching: give one of them")
        if (self.name == BASE) != (self.route is None and self.matching is None):
            raise ValueError(
                f"arm {self.name!r}: the arm called {BASE!r}, and no other, has neither route nor matching"
            )
        if self.tune and self.route is None:
            raise ValueError(f"arm {self.name!r} has tune but no route: what is not tuned takes no such settings")
        return self


class Probe(Section):
    """Memory and time of one gradient by every route, stored and recomputed, at the base of the first seed."""

    structures: int = Field(default=8, ge=1)
    """Training pairs in the batch."""
    repetitions: int = Field(default=3, ge=1)
    """Timed gradients of each route, interleaved; the median counts."""


DEFAULT_ARMS = (
    ArmPlan(name="base"),
    ArmPlan(name="implicit", route=Implicit()),
    ArmPlan(name="phantom", route=Phantom()),
    ArmPlan(name="guidance-20", route=Unrolled(horizon=20)),
    ArmPlan(name="bptt", route=Unrolled()),
    *(ArmPlan(name=f"split-{k}", route=Split(horizon=k)) for k in (10, 15, 20, 30)),
    ArmPlan(name="force-matched", matching=Matching()),
)
"""The arms of a protocol that names none."""


class Protocol(Section):
    """All that a study is."""

    title: str = "Which valley, and how deep"
    """Heading of the report."""
    question: str = ""
    """What is asked, in words."""
    data: DataPlan = DataPlan()
    """What is drawn."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Strict(False), Field(min_length=1)] = (0, 1, 2, 3, 4)
    """Each has a base of its own, from which all its arms start; the order of batches follows it too."""
    rule: str = "quench"
    """Same-basin rule."""
    base: TrainSettings = TrainSettings(
        potential=PotentialSettings(kind="painn"),
        optimiser=MatchingOptimiserSettings(updates=200, learning_rate=3e-3, warmup=30),
    )
    """How bases are fitted; `seed` and `out` are the study's."""
    tune: TuneSettings = TuneSettings(
        relaxation=RelaxationSettings(alpha=0.03, max_steps=300),
        route=_NO_ROUTE,
        optimiser=OptimiserSettings(updates=36, warmup=5, learning_rate=1e-3),
    )
    """The budget of every arm; `route` is the arm's, `seed` and `out` are the study's."""
    arms: Annotated[tuple[ArmPlan, ...], Strict(False), Field(min_length=1)] = DEFAULT_ARMS
    """The arms, in the order of the tables."""
    hypotheses: Annotated[tuple[Claim, ...], Strict(False)] = ()
    """What is expected."""
    kill: Annotated[tuple[Claim, ...], Strict(False)] = ()
    """What, if it holds, refutes the idea."""
    probe: Probe | None = Probe()
    """Whether memory and time are measured stored and recomputed."""

    @property
    def claims(self) -> tuple[Claim, ...]:
        """Hypotheses and kill conditions."""
        return (*self.hypotheses, *self.kill)

    def arm(self, name: str) -> ArmPlan:
        """Return the arm of that name, which must be there."""
        return next(arm for arm in self.arms if arm.name == name)

    def tune_of(self, arm: ArmPlan, seed: int) -> TuneSettings:
        """Return what an arm with a route is told; `out` is left to who runs it.

        Raises:
            SettingsError: settings of the arm's own that are not allowed.
        """
        own = laid_over(self.tune.model_dump(mode="json"), arm.tune)
        route = route_values(self.tune.route if arm.route is None else arm.route)
        values = {**own, "route": route, "seed": seed}
        return validate_settings(TuneSettings, values, source="tune")

    def base_of(self, seed: int) -> TrainSettings:
        """Return what the base of a seed is told; `out` is left to who runs it."""
        return self.base.model_copy(update={"seed": seed})

    def fit_of(self, matching: Matching, seed: int) -> TrainSettings:
        """Return what a force-matched control is told: all that the base was, for updates of its own.

        Raises:
            SettingsError: settings of the control's own that are not allowed.
        """
        steps = {**matching.optimiser, "updates": matching.updates}
        values = laid_over(self.base.model_dump(mode="json"), {"optimiser": steps, "seed": seed})
        return validate_settings(TrainSettings, values, source="matching")

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, rule: str) -> str:
        if rule not in RULES:
            raise ValueError(f"rule {rule!r} is not known; {nearest_known(rule, RULES)}")
        return basin_rule(rule).kind

    @model_validator(mode="after")
    def _budget_fits(self) -> Self:
        if self.tune.relaxation.alpha is None:
            raise ValueError("tune.relaxation.alpha is null: every arm relaxes by the same one, e.g. 0.03")
        plain = TuneSettings(route=_NO_ROUTE)
        for section, told, names in (("base", self.base, _OWN), ("tune", self.tune, (*_OWN, "route"))):
            for name in names:
                if getattr(told, name) != getattr(plain, name):
                    raise ValueError(f"{section}.{name} is the study's own: leave it out")
        _refuse_large("tune.optimiser.batch", self.tune.optimiser.batch, self.data.pairs)
        _refuse_large("base.optimiser.batch", self.base.optimiser.batch, self.data.frames)
        return self

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        _refuse_twice("arm", (arm.name for arm in self.arms))
        _refuse_twice("claim", (claim.id for claim in self.claims))
        _refuse_twice("seed", map(str, self.seeds))
        names = [arm.name for arm in self.arms]
        for claim in self.claims:
            for name in claim.arms:
                if name not in names:
                    raise ValueError(f"{claim.id}: there is no arm {name!r}; {nearest_known(name, names)}")
        for arm in self.arms:
            for name in (*_OWN, "route"):
                if name in arm.tune:
                    raise ValueError(f"arm {arm.name!r}: tune.{name} cannot differ: leave it out")
            try:
                if arm.route is not None:
                    told = self.tune_of(arm, 0)
                    _refuse_large("tune.optimiser.batch", told.optimiser.batch, self.data.pairs)
                    _refuse_large("tune.replay.batch", told.replay.batch if told.replay.on else 0, self.data.frames)
                if arm.matching is not None:
                    self.fit_of(arm.matching, 0)
            except SettingsError as error:
                raise ValueError(f"arm {arm.name!r}: {error}") from None
        return self


def _refuse_large(key: str, batch: int, total: int) -> None:
    if batch > total:
        raise ValueError(f"{key} is {batch}: allowed is 1 to {total}, which are drawn")


def _refuse_twice(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} {name!r} occurs twice: give each its own")
        seen.add(name)
