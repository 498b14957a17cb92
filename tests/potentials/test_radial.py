"""Radial functions: closed forms, zeros at the cutoff to the third derivative, safety at the origin."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from thalweg.errors import PotentialError
from thalweg.potentials.radial import (
    SOFTENING,
    RadialBasis,
    bessel_basis,
    gaussian_basis,
    smooth_cutoff,
    softened_length,
)

R_C = 4.2


def derivatives(value: Tensor, at: Tensor, order: int) -> list[Tensor]:
    """Return value and derivatives up to `order` of an elementwise function of one variable."""
    found = [value]
    for _ in range(order):
        found.append(torch.autograd.grad(found[-1].sum(), at, create_graph=True)[0])
    return [f.detach() for f in found]


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def threefold_zero(distance: Tensor, cutoff: float) -> Tensor:
    """The polynomial in wide use (order 6), whose third derivative jumps at the cutoff: a control."""
    x = (distance / cutoff).clamp(max=1.0)
    return 1.0 - 28.0 * x**6 + 48.0 * x**7 - 21.0 * x**8


def test_cutoff_is_the_published_septic_step_for_order_four() -> None:
    x = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    smoothstep = x**4 * (35.0 - 84.0 * x + 70.0 * x**2 - 20.0 * x**3)
    torch.testing.assert_close(smooth_cutoff(R_C * x, R_C, order=4), 1.0 - smoothstep, rtol=0.0, atol=1e-14)


@pytest.mark.parametrize("order", [1, 2, 6, 9])
def test_cutoff_falls_from_one_to_zero(order: int) -> None:
    d = torch.linspace(0.0, 1.5 * R_C, 301, dtype=torch.float64)
    f = smooth_cutoff(d, R_C, order)
    assert float(f[0]) == 1.0
    assert bool((f.diff() <= 1e-15).all())
    assert bool((f[d >= R_C] == 0.0).all())


@pytest.mark.parametrize("order", [1, 2, 4, 6, 9])
def test_cutoff_and_three_derivatives_vanish_at_and_beyond_the_cutoff(order: int) -> None:
    d = tensor(R_C, R_C + 1e-9, 1.3 * R_C, 50.0)
    for f in derivatives(smooth_cutoff(d, R_C, order), d, 3):
        assert bool((f == 0.0).all())
    inside = tensor(R_C * (1 - 1e-4))
    size = [
        abs(float(f)) * R_C**k
        for k, f in enumerate(derivatives(smooth_cutoff(inside, R_C, order), inside, 4))
    ]
    # value and derivatives of c (1−x)⁴ at 1−x = 1e-4, c = C(p+3, 4)
    c = math.comb(order + 3, 4)
    wanted = [c * math.perm(4, k) * 1e-4 ** (4 - k) for k in range(5)]
    assert size == pytest.approx(wanted, rel=5e-3)


def test_threefold_zero_has_a_jump_that_this_test_sees() -> None:
    inside, outside = tensor(R_C * (1 - 1e-6)), tensor(R_C * (1 + 1e-6))
    jumps = [
        abs(float(a) - float(b))
        for a, b in zip(
            derivatives(threefold_zero(inside, R_C), inside, 3),
            derivatives(threefold_zero(outside, R_C), outside, 3),
            strict=True,
        )
    ]
    assert max(jumps[:3]) < 1e-4
    assert jumps[3] > 1.0
    ours = [derivatives(smooth_cutoff(at, R_C), at, 3)[3] for at in (inside, outside)]
    assert abs(float(ours[0] - ours[1])) < 1e-2 * jumps[3]


@pytest.mark.parametrize("order", [1, 4, 6])
def test_cutoff_leaves_one_with_the_power_of_its_order(order: int) -> None:
    d = torch.tensor([1e-3 * R_C], dtype=torch.float64)
    change = 1.0 - float(smooth_cutoff(d, R_C, order))
    assert change == pytest.approx(math.comb(order + 3, 3) * 1e-3**order, rel=1e-2, abs=1e-15)


def test_bessel_functions_are_orthonormal_on_the_ball() -> None:
    points = 4000
    d = (torch.arange(points, dtype=torch.float64) + 0.5) * (R_C / points)
    b = bessel_basis(d, R_C, 6)
    overlap = (b * d.square()) @ b.T * (R_C / points)
    torch.testing.assert_close(overlap, torch.eye(6, dtype=torch.float64), rtol=0.0, atol=1e-9)


def test_gaussians_are_one_at_their_centres_and_fall_by_a_known_factor() -> None:
    centres = torch.linspace(0.0, R_C, 5, dtype=torch.float64)
    b = gaussian_basis(centres, R_C, 5)
    torch.testing.assert_close(b.diagonal(), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(b.diagonal(1), torch.full((4,), math.exp(-0.5), dtype=torch.float64))


@pytest.mark.parametrize("kind", ["bessel", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_basis_is_finite_to_the_third_derivative_where_atoms_meet(kind: str, dtype: torch.dtype) -> None:
    r = torch.zeros((3, 1), dtype=dtype, requires_grad=True)
    value = RadialBasis(kind, R_C, 8)(softened_length(r)).sum()
    for _ in range(3):
        assert bool(value.isfinite())
        (gradient,) = torch.autograd.grad(value, r, create_graph=True)
        assert bool(gradient.isfinite().all())
        value = gradient.sum() + gradient.square().sum()


def test_softened_length_has_a_known_value_and_slope() -> None:
    r = torch.tensor([[0.0, 3.0], [0.0, 0.0], [0.0, 4.0]], dtype=torch.float64, requires_grad=True)
    d = softened_length(r)
    assert d.tolist() == pytest.approx([SOFTENING, 5.0], rel=1e-7)
    (slope,) = torch.autograd.grad(d.sum(), r)
    torch.testing.assert_close(
        slope.T, torch.tensor([[0, 0, 0], [0.6, 0, 0.8]]).double(), rtol=0.0, atol=1e-7
    )


@pytest.mark.parametrize("kind", ["bessel", "gaussian"])
def test_module_vanishes_with_three_derivatives_at_the_cutoff(kind: str) -> None:
    basis = RadialBasis(kind, R_C, 8)
    for d in (tensor(R_C), tensor(R_C + 0.3)):
        for n in range(8):
            assert all(float(f) == 0.0 for f in derivatives(basis(d)[n], d, 3))


@pytest.mark.parametrize("kind", ["bessel", "gaussian"])
@pytest.mark.parametrize(("cutoff", "count"), [(3.0, 4), (6.0, 12)])
def test_module_has_unit_mean_square_over_the_ball(kind: str, cutoff: float, count: int) -> None:
    x = torch.linspace(1e-6, 1.0, 20001, dtype=torch.float64)
    square = RadialBasis(kind, cutoff, count)(cutoff * x).square().sum(dim=0)
    assert float(torch.trapezoid(3 * x.square() * square, x)) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bessle", 4.0, 8, 6), "did you mean 'bessel'"),
        (("bessel", 0.0, 8, 6), "cutoff is 0.0 Å"),
        (("bessel", math.inf, 8, 6), "cutoff is inf Å"),
        (("bessel", 4.0, 0, 6), "count is 0"),
        (("bessel", 4.0, 8, 0), "order is 0"),
    ],
)
def test_module_refuses_what_it_cannot_be(arguments: tuple[str, float, int, int], message: str) -> None:
    with pytest.raises(PotentialError, match=message):
        RadialBasis(*arguments)
