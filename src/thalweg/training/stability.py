"""What keeps α stable while a potential is tuned: its choice, the watch on α λ_max, the guard and the penalty.

    guard:    α λ_max > limit at a check        →  α = target / λ_max for the rest of the run
    penalty:  P(θ) = (w/n) Σ_s max(0, α s(θ) − limit)²,   s: the stiffness of reference minimum s of the batch

Tuning stiffens potentials, and beyond α λ_max = 2 relaxations oscillate and the gradients through them grow with
every differentiated update. The guard changes the path of the relaxation and leaves the potential alone; the penalty
holds the potential and leaves the path. Arms that are compared must keep one α, so a study takes the penalty. The
guard alone did not stop silicon from stiffening: α fell to a seventh and gradients through the path still grew.

P is a function of the parameters alone: its points are reference minima, which do not depend on them and are there
when relaxations fail, and its start vectors are keyed by seed and structure, so a resumed run finds the same bits
and nothing is stored but α and its history. Called by `tuning`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from thalweg.potentials.contract import Potential
from thalweg.relaxation.coordinates import FreeCoordinates
from thalweg.relaxation.path import Path
from thalweg.relaxation.stability import Stability, check_alpha, safe_alpha
from thalweg.relaxation.stiffness import measure_stiffness
from thalweg.structures.batch import Structures
from thalweg.training.processes import Processes
from thalweg.training.settings import StabilitySettings, TuneSettings


@dataclass(frozen=True)
class Penalised:
    """What the penalty did in one process's share of a batch."""

    value: float
    """The share of P, amu Å²."""
    product: float
    """Largest α s seen; NaN if forces are not finite somewhere."""
    above: int
    """Minima above the limit, which pull."""
    gradient_norm: float
    """Norm of this share of P's gradient."""


def add_penalty(
    potential: Potential,
    minima: Structures,
    alpha: float,
    settings: StabilitySettings,
    *,
    total: int,
    seed: int,
    coordinates: FreeCoordinates | None = None,
) -> Penalised:
    """Add the gradient of P to the parameters' gradients; costs no more than finding s where none is above the limit.

    Args:
        potential: whose parameters receive the gradient.
        minima: this process's share of the n reference minima.
        alpha: α, Å²/eV; constant under differentiation.
        settings: weight and limit.
        total: n, over all processes.
        seed: root seed of the start vectors.
        coordinates: what moves; atoms in a fixed cell by default.

    Raises:
        PotentialError: direct forces that cannot be differentiated twice.
    """
    stiffness = measure_stiffness(potential, minima, coordinates=coordinates, seed=seed)
    products = alpha * stiffness.value
    above = int((products > settings.penalty_limit).sum())
    worst = float(products[int(torch.nan_to_num(products, nan=math.inf).argmax())])
    if above == 0:
        return Penalised(0.0, worst, 0, 0.0)
    excess = (alpha * stiffness.differentiable() - settings.penalty_limit).clamp(min=0)
    # left out by selection, not by a factor of zero: 0 · NaN is NaN
    value = settings.penalty / total * excess[torch.isfinite(products)].square().sum()
    parameters = [p for p in potential.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(value, parameters, materialize_grads=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    norm = float(torch.nn.utils.get_total_norm(gradients))
    return Penalised(float(value.detach()), worst, above, norm)


class Watch:
    """Holds α of one run, and what became of it."""

    def __init__(self, settings: TuneSettings, potential: Potential, minima: Structures, processes: Processes) -> None:
        """Begin with the α of the settings.

        Args:
            settings: of the run.
            potential: what is trained, in place.
            minima: training minima at which λ_max is measured.
            processes: who takes part.
        """
        self._settings, self._potential, self._minima = settings, potential, minima
        self._processes = processes
        self._alpha = settings.relaxation.alpha
        self._unstable = 0
        self._changes: list[dict[str, float]] = []

    @property
    def path(self) -> Path:
        """The relaxation, with α as it stands."""
        return self._settings.relaxation.path(self._alpha)

    def begin(self) -> None:
        """Choose α where the settings leave it open, or let the guard look at it.

        Raises:
            PotentialError: the curvature is not finite at a minimum.
        """
        if self._alpha is None:
            self._alpha = self._processes.from_main(
                lambda: safe_alpha(
                    self._potential,
                    self._minima,
                    coordinates=self._settings.relaxation.coordinates,
                    seed=self._settings.seed,
                )
            )
        elif self._settings.stability.guard == "lower":
            self._lower(self._measure(), 0)

    def scalars(self) -> dict[str, Any]:
        """Return what a checkpoint has to hold."""
        return {"alpha": self._alpha, "unstable": self._unstable, "alpha_changes": self._changes}

    def restore(self, scalars: dict[str, Any]) -> None:
        """Take back what `scalars` returned."""
        self._alpha, self._unstable = scalars["alpha"], scalars["unstable"]
        self._changes = list(scalars["alpha_changes"])

    def results(self) -> dict[str, Any]:
        """Return what goes into the results: the last α, which evaluation is to use, and how it came about."""
        return {"alpha": self._alpha, "alpha_changes": self._changes, "unstable_checks": self._unstable}

    def penalise(self, minima: Structures) -> Penalised | None:
        """Add the gradient of this process's share of the penalty; None where there is none.

        Args:
            minima: this process's share of the batch's reference minima, every `world`-th of them.

        Raises:
            PotentialError: direct forces that cannot be differentiated twice.
        """
        told = self._settings.stability
        total = min(told.penalty_minima, self._settings.optimiser.batch)
        own = len(range(self._processes.rank, total, self._processes.world))
        if told.penalty == 0 or own == 0:
            return None
        path = self.path
        return add_penalty(
            self._potential,
            minima.select(range(own)),
            path.update.alpha,
            told,
            total=total,
            seed=self._settings.seed,
            coordinates=path.coordinates,
        )

    def check(self, update: int) -> dict[str, Any]:
        """Return λ_max and α λ_max where update number `update` checks them; warn or lower α where it is too large."""
        due = update % self._settings.stability_every == 0 or update + 1 == self._settings.optimiser.updates
        alpha = self.path.update.alpha
        if not due:
            return {"alpha": alpha, "largest_curvature": None, "alpha_curvature": None, "warning": None}
        verdict = self._measure()
        warning = f"{verdict.warning}, or hold the potential with stability.penalty=10" if verdict.warning else None
        if not verdict.stable:
            self._unstable += 1
        if self._settings.stability.guard == "lower":
            warning = self._lower(verdict, update + 1) or warning
        elif self._unstable == 1 and not verdict.stable and self._processes.main:
            warnings.warn(f"after update {update + 1}: {warning}", RuntimeWarning, stacklevel=2)
        return {
            "alpha": alpha,
            "largest_curvature": verdict.curvature,
            "alpha_curvature": verdict.product,
            "warning": warning,
        }

    def _measure(self) -> Stability:
        path = self.path
        return self._processes.from_main(
            lambda: check_alpha(
                self._potential,
                self._minima,
                path.update.alpha,
                coordinates=path.coordinates,
                seed=self._settings.seed,
            )
        )

    def _lower(self, verdict: Stability, update: int) -> str | None:
        """Lower α where α λ_max is above the guard's limit; return one line that says so."""
        told, before = self._settings.stability, self.path.update.alpha
        if not verdict.product > told.guard_limit or not math.isfinite(verdict.curvature):
            return None
        self._alpha = told.guard_target / verdict.curvature
        self._changes.append({"update": update, "alpha": self._alpha, "largest_curvature": verdict.curvature})
        text = (
            f"α λ_max is {verdict.product:.3g}, above stability.guard_limit ({told.guard_limit:g}): α is lowered from "
            f"{before:.3g} to {self._alpha:.3g} Å²/eV for the rest of the run"
        )
        if len(self._changes) == 1 and self._processes.main:
            warnings.warn(f"after update {update}: {text}", RuntimeWarning, stacklevel=2)
        return text


def penalty_record(shares: Sequence[Penalised]) -> dict[str, Any]:
    """Return what metrics say of the penalty, None where it was not measured.

    Its gradient's norm is summed over processes, so with several it is a bound.
    """
    if not shares:
        return dict.fromkeys(("penalty", "penalised", "penalty_product", "penalty_gradient_norm"))
    products = [share.product for share in shares]
    return {
        "penalty": sum(share.value for share in shares),
        "penalised": sum(share.above for share in shares),
        "penalty_product": math.nan if any(map(math.isnan, products)) else max(products),
        "penalty_gradient_norm": sum(share.gradient_norm for share in shares),
    }
