from __future__ import annotations

import math

import pytest
import torch
from tests.training.problems import starts
from torch import Tensor

from thalweg.gradients import Certificate, Differentiated
from thalweg.structures.batch import Structures
from thalweg.structures.displacement import delta_q
from thalweg.training.objective import objective, robust
from thalweg.training.settings import ObjectiveSettings


def certificates(batch: Structures, refused: tuple[int, ...] = ()) -> list[Certificate]:
    return [Certificate(id=name, took_part=k not in refused) for k, name in enumerate(batch.ids)]


def moved(minima: Structures, offsets: Tensor) -> Structures:
    """Displace the first atom of each structure along x; ΔQ = |offset| sqrt(m (1 − m/M))."""
    field = torch.zeros_like(minima.positions)
    field[list(minima.offsets[:-1]), 0] = 1.0
    return minima.with_positions(minima.positions + field * offsets[minima.owner, None])


@pytest.fixture
def minima() -> Structures:
    return starts(4, 3)


def test_the_loss_is_half_the_square_near_zero_and_grows_like_a_logarithm() -> None:
    q = torch.tensor([1e-4, 30.0, 3e8], dtype=torch.float64)
    near, far, farther = robust(q, 3.0).tolist()
    assert near == pytest.approx(0.5 * 1e-8, rel=1e-8)
    assert far == pytest.approx(4.5 * math.log(101), rel=1e-12)
    assert farther == pytest.approx(9.0 * math.log(1e8), rel=1e-12)


def test_the_loss_of_a_known_displacement_is_the_closed_form(minima: Structures) -> None:
    reached = moved(minima, torch.full((4,), 0.2, dtype=torch.float64))
    settings = ObjectiveSettings(guidance_weight=2.0, equilibrium_weight=0.5, delta=1.5)
    loss = objective(Differentiated(reached, reached, certificates(minima)), minima, settings, batch=4)
    mass, atoms = 28.085, 7
    square = 0.2**2 * mass * (1 - 1 / atoms)  # the drift of the displaced atom is removed
    each = 0.5 * 1.5**2 * math.log1p(square / 1.5**2)
    assert loss.guidance == pytest.approx(each, rel=1e-9)
    assert loss.equilibrium == pytest.approx(each, rel=1e-9)
    assert float(loss.total) == pytest.approx(2.5 * each, rel=1e-9)
    assert (loss.guided, loss.relaxed) == (4, 4)


def test_a_structure_that_takes_no_part_adds_nothing_and_stays_in_the_denominator(minima: Structures) -> None:
    offsets = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64, requires_grad=True)
    reached = moved(minima, offsets)
    settings = ObjectiveSettings()
    loss = objective(Differentiated(None, reached, certificates(minima, (1, 3))), minima, settings, batch=4)
    loss.total.backward()
    each = robust(delta_q(reached, minima), settings.delta).detach()
    assert float(loss.total.detach()) == pytest.approx(float(each[0] + each[2]) / 4, rel=1e-12)
    assert (loss.guidance, loss.guided, loss.relaxed) == (None, 0, 2)
    assert offsets.grad is not None
    assert offsets.grad[1] == 0
    assert offsets.grad[3] == 0
    assert offsets.grad[2] > 0


def test_a_structure_that_is_not_finite_does_not_poison_the_gradient(minima: Structures) -> None:
    offsets = torch.tensor([0.1, math.nan, 0.3, 0.4], dtype=torch.float64, requires_grad=True)
    loss = objective(
        Differentiated(moved(minima, offsets), None, certificates(minima)), minima, ObjectiveSettings(), batch=4
    )
    loss.total.backward()
    assert loss.guided == 3
    assert offsets.grad is not None
    assert torch.isfinite(offsets.grad).all()


def test_without_anyone_the_loss_is_zero_and_has_no_graph(minima: Structures) -> None:
    everyone = certificates(minima, (0, 1, 2, 3))
    loss = objective(Differentiated(None, minima, everyone), minima, ObjectiveSettings(), batch=4)
    assert float(loss.total) == 0.0
    assert not loss.total.requires_grad


def shares(minima: Structures, *, robustly: bool) -> Tensor:
    """Return each structure's share in the gradient when the trajectory of the first has run away.

    Displacements grow as u exp(k θ) with one k for all: the first is 10,000 times as far and as sensitive.
    """
    growth = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    far = torch.tensor([3e3, 0.3, 0.3, 0.3], dtype=torch.float64)
    free = Structures(**{**vars_of(minima), "pbc": torch.zeros_like(minima.pbc)})  # no image is nearer
    reached = moved(free, far * torch.exp(20.0 * growth))
    if robustly:
        found = Differentiated(reached, None, certificates(free))
        loss = objective(found, free, ObjectiveSettings(), batch=4).total
    else:
        loss = 0.5 * delta_q(reached, free).square().sum() / 4
    (gradient,) = torch.autograd.grad(loss, growth)
    return gradient / gradient.sum()


def vars_of(structures: Structures) -> dict[str, Tensor]:
    return {name: getattr(structures, name) for name in structures.__dataclass_fields__}


def test_one_runaway_does_not_own_the_gradient(minima: Structures) -> None:
    assert float(shares(minima, robustly=True)[0]) < 0.7


def test_with_a_square_one_runaway_owns_the_gradient(minima: Structures) -> None:
    assert float(shares(minima, robustly=False)[0]) > 0.999999


def test_the_gradient_agrees_with_central_differences(minima: Structures) -> None:
    offsets = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64, requires_grad=True)

    def value(x: Tensor) -> Tensor:
        found = Differentiated(moved(minima, x), moved(minima, 2 * x), certificates(minima))
        return objective(found, minima, ObjectiveSettings(delta=1.0), batch=4).total

    assert torch.autograd.gradcheck(value, (offsets,), eps=1e-5, atol=1e-8, rtol=1e-6)
