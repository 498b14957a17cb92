"""Stepping the parameters: AdamW, a learning rate that is a function of the update alone, and a finite check.

    rate(u) = r (u + 1)/w                                          for u < w (warm-up)
    rate(u) = r [f + (1 − f) ½ (1 + cos π (u − w)/(U − w))]        after it (cosine; r for constant)

Nothing here counts by itself: a resumed run asks for update u and gets what the undisturbed one got. Source:
Loshchilov and Hutter 2019 (decoupled weight decay), 2017 (cosine, without restarts).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thalweg.training.settings import OptimiserSettings

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""The state of AdamW for each parameter."""


def learning_rate(settings: OptimiserSettings, update: int) -> float:
    """Return the learning rate of update `update` (from 0)."""
    if update < settings.warmup:
        return settings.learning_rate * (update + 1) / settings.warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (update - settings.warmup) / max(settings.updates - settings.warmup, 1)
    falling = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return settings.learning_rate * (settings.final + (1 - settings.final) * falling)


@dataclass(frozen=True)
class Stepped:
    """What became of one update."""

    norm: float
    """Norm of the gradient before clipping; may be infinite or NaN."""
    rate: float
    """Learning rate."""
    taken: bool
    """False if the gradient was not finite: parameters and moments stay as they were."""


class Optimiser:
    """AdamW over the parameters of a module that want gradients."""

    def __init__(self, module: nn.Module, settings: OptimiserSettings) -> None:
        """Begin with no moments."""
        self.settings = settings
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._adam = torch.optim.AdamW(
            self.parameters.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def clear(self) -> None:
        """Forget the gradients."""
        self._adam.zero_grad(set_to_none=True)

    def gradients(self) -> list[Tensor]:
        """Return the gradient of every parameter; zero where a loss did not reach it."""
        for p in self.parameters.values():
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        return [p.grad for p in self.parameters.values() if p.grad is not None]

    def step(self, update: int) -> Stepped:
        """Clip the gradients and step, unless they are not finite."""
        rate = learning_rate(self.settings, update)
        gradients = self.gradients()
        norm = torch.nn.utils.get_total_norm(gradients)
        size = float(norm)
        if not math.isfinite(size):
            return Stepped(size, rate, taken=False)
        if self.settings.clip is not None and size > self.settings.clip:
            for gradient in gradients:
                gradient.mul_(self.settings.clip / size)
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()
        return Stepped(size, rate, taken=True)

    def state(self) -> dict[str, Tensor]:
        """Return the moments as `name.moment`; empty before the first step."""
        return {
            f"{name}.{moment}": self._adam.state[p][moment].detach()
            for name, p in self.parameters.items()
            if p in self._adam.state
            for moment in MOMENTS
        }

    def expected(self) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes that a full `state` has."""
        shapes = {name: tuple(p.shape) for name, p in self.parameters.items()}
        return {f"{n}.{m}": () if m == "step" else shape for n, shape in shapes.items() for m in MOMENTS}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take the moments that `state` returned."""
        for name, p in self.parameters.items():
            if f"{name}.step" not in state:
                continue
            step, *moments = (state[f"{name}.{moment}"].clone() for moment in MOMENTS)
            placed = (step, *(m.to(p) for m in moments))  # the count stays on the host, as AdamW keeps it
            self._adam.state[p] = dict(zip(MOMENTS, placed, strict=True))


def count_parameters(parameters: Iterable[Tensor]) -> int:
    """Return the number of values in some parameters."""
    return sum(p.numel() for p in parameters)
