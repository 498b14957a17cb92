"""The judge of gradients: passes right derivatives, rejects wrong ones, and gives no verdict without a plateau."""

from __future__ import annotations

import math

import pytest
import torch

from thalweg.gradients.differences import compare


def problem(seed: int = 0) -> tuple[torch.nn.Parameter, torch.Tensor]:
    stream = torch.Generator().manual_seed(seed)
    theta = torch.nn.Parameter(torch.randn(5, dtype=torch.float64, generator=stream))
    return theta, torch.randn(5, dtype=torch.float64, generator=stream)


def value(theta: torch.Tensor) -> torch.Tensor:
    """A smooth function with a derivative of order 1."""
    return torch.sin(3 * theta).sum() + theta.prod().exp()


def derivative(theta: torch.Tensor, d: torch.Tensor) -> float:
    (g,) = torch.autograd.grad(value(theta), theta)
    return float(g @ d)


def test_a_right_derivative_meets_the_plateau_far_below_the_bound():
    theta, d = problem()
    verdict = compare(lambda: float(value(theta.detach())), [theta], [d], derivative(theta, d))
    assert verdict.passed
    assert verdict.relative_error < 1e-8
    assert len(verdict.plateau) == 2


def test_the_parameters_are_as_before():
    theta, d = problem()
    before = theta.detach().clone()
    compare(lambda: float(value(theta.detach())), [theta], [d], 1.0)
    assert torch.equal(theta, before)


@pytest.mark.parametrize("wrong", ["sign", "dropped term", "one part in a hundred thousand", "nan"])
def test_wrong_derivatives_are_rejected(wrong):
    theta, d = problem()
    right = derivative(theta, d)
    (first,) = torch.autograd.grad(torch.sin(3 * theta).sum(), theta)
    derivatives = {
        "sign": -right,
        "dropped term": float(first @ d),
        "one part in a hundred thousand": right * (1 + 1e-5),
        "nan": math.nan,
    }
    assert not compare(lambda: float(value(theta.detach())), [theta], [d], derivatives[wrong]).passed


def test_a_function_with_a_kink_or_noise_has_no_plateau_and_does_not_pass():
    theta, d = problem()
    noise = iter(range(10**6))

    def noisy() -> float:
        return float(value(theta.detach())) + 1e-3 * math.sin(1e4 * next(noise))

    verdict = compare(noisy, [theta], [d], derivative(theta, d))
    assert not verdict.passed
    assert math.isnan(verdict.numeric)


def test_a_zero_derivative_needs_the_absolute_bound():
    theta, d = problem()
    constant = compare(lambda: 1.0, [theta], [d], 0.0)
    assert constant.passed
    assert not compare(lambda: 1.0, [theta], [d], 1e-6).passed


def test_a_function_that_does_not_move_is_still_and_a_derivative_that_moves_there_is_wrong():
    theta, d = problem()
    nothing = compare(lambda: 3.0, [theta], [d], 1e-13, floor=1e-7)
    assert nothing.still
    assert not nothing.passed
    wrong = compare(lambda: 3.0, [theta], [d], 1e-3, absolute=0.0, floor=1e-7)
    assert not wrong.still
    assert not wrong.passed
    moving = compare(lambda: float(value(theta.detach())), [theta], [d], 0.0, floor=1e-7)
    assert not moving.still
    assert not moving.passed
