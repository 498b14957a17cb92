from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from thalweg.training.optimiser import Optimiser, learning_rate
from thalweg.training.settings import OptimiserSettings

SETTINGS = OptimiserSettings(learning_rate=0.1, warmup=4, updates=24, final=0.1, clip=None)


def module() -> nn.Module:
    made = nn.Module()
    made.a = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    made.b = nn.Parameter(torch.tensor([[0.5]], dtype=torch.float64))
    made.still = nn.Parameter(torch.ones(2, dtype=torch.float64), requires_grad=False)
    return made


def give_gradients(made: nn.Module, update: int) -> None:
    for k, p in enumerate(p for p in made.parameters() if p.requires_grad):
        p.grad = torch.cos(p.detach() * (update + 1) + k)


def values(made: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in made.parameters()])


def test_the_rate_rises_linearly_then_falls_by_half_a_cosine() -> None:
    rates = [learning_rate(SETTINGS, u) for u in range(24)]
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert rates[4] == pytest.approx(0.1)
    assert rates[14] == pytest.approx(0.1 * (0.1 + 0.9 * 0.5))
    assert rates[23] == pytest.approx(0.1 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 19 / 20))))
    constant = SETTINGS.model_copy(update={"schedule": "constant"})
    assert learning_rate(constant, 23) == 0.1


def test_without_warmup_the_first_rate_is_the_highest() -> None:
    assert learning_rate(SETTINGS.model_copy(update={"warmup": 0}), 0) == pytest.approx(0.1)


def test_the_first_step_is_the_sign_of_the_gradient_times_the_rate() -> None:
    """Adam's moments cancel in its first step: −rate g/(|g| + ε)."""
    made = module()
    before = values(made)
    optimiser = Optimiser(made, SETTINGS)
    give_gradients(made, 0)
    sign = torch.cat([p.grad.flatten().sign() for p in (made.a, made.b)])
    assert optimiser.step(0).rate == pytest.approx(0.025)
    assert (values(made) - before)[:4] == pytest.approx(-0.025 * sign, rel=1e-6)
    assert torch.equal(made.still, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    made = module()
    optimiser = Optimiser(made, SETTINGS)
    give_gradients(made, 0)
    assert optimiser.step(0).taken
    before, moments = values(made), {k: v.clone() for k, v in optimiser.state().items()}
    give_gradients(made, 1)
    made.a.grad[1] = bad
    stepped = optimiser.step(1)
    assert not stepped.taken
    assert not math.isfinite(stepped.norm)
    assert torch.equal(values(made), before)
    assert all(torch.equal(v, moments[k]) for k, v in optimiser.state().items())


def test_a_long_gradient_is_scaled_to_the_clip_and_its_norm_before_is_told() -> None:
    made = module()
    optimiser = Optimiser(made, SETTINGS.model_copy(update={"clip": 1.0}))
    made.a.grad, made.b.grad = (
        torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64),
        torch.full((1, 1), 4.0, dtype=torch.float64),
    )
    assert optimiser.step(0).norm == pytest.approx(5.0)
    assert made.a.grad.tolist() == pytest.approx([0.6, 0.0, 0.0])
    assert float(made.b.grad) == pytest.approx(0.8)


def test_a_parameter_the_loss_did_not_reach_has_a_zero_gradient() -> None:
    made = module()
    optimiser = Optimiser(made, SETTINGS)
    made.a.grad = torch.ones(3, dtype=torch.float64)
    optimiser.step(0)
    assert set(optimiser.state()) == set(optimiser.expected())
    assert float(made.b.detach()) == 0.5


def test_restored_moments_go_on_bit_for_bit_and_without_them_it_does_not() -> None:
    whole, first = module(), module()
    one, two = Optimiser(whole, SETTINGS), Optimiser(first, SETTINGS)
    for update in range(6):
        give_gradients(whole, update)
        one.step(update)
    for update in range(3):
        give_gradients(first, update)
        two.step(update)
    ends = []
    for keep in (True, False):
        again = module()
        again.load_state_dict(first.state_dict())
        three = Optimiser(again, SETTINGS)
        if keep:
            three.restore(two.state())
        for update in range(3, 6):
            give_gradients(again, update)
            three.step(update)
        ends.append(values(again))
    assert torch.equal(ends[0], values(whole))
    assert not torch.equal(ends[1], values(whole))
