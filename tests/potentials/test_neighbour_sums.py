"""Sums over neighbours in blocks: equal to one einsum over all pairs, in every derivative up to the third."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from thalweg.potentials import neighbour_sums
from thalweg.potentials.neighbour_sums import Inputs
from thalweg.seeds import torch_stream

ATOMS, SLOTS, CHANNELS, RADIAL, WIDTHS = 5, 3, 2, 4, (3, 2)


def given() -> tuple[Inputs, tuple[Tensor, ...]]:
    g = torch_stream(3, "neighbour sums")

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    pairs, rows = ATOMS * SLOTS, sum(WIDTHS)
    tensors = (draw(4, pairs), draw(RADIAL, pairs), draw(rows, ATOMS, CHANNELS), draw(RADIAL, rows, CHANNELS))
    neighbour = torch.randint(0, ATOMS, (ATOMS, SLOTS), generator=g)
    couplings = tuple(draw(4, width, 2 * order + 1) for order, width in enumerate(WIDTHS))
    return Inputs(*(x.requires_grad_() for x in tensors), neighbour=neighbour), couplings


def plainly(inputs: Inputs, couplings: tuple[Tensor, ...]) -> Tensor:
    """All pairs at once, one einsum an order."""
    y, r = inputs.harmonics.unflatten(1, (ATOMS, SLOTS)), inputs.radial.unflatten(1, (ATOMS, SLOTS))
    found = []
    for q, u, w in zip(couplings, inputs.features.split(WIDTHS), inputs.filters.split(WIDTHS, 1), strict=True):
        found.append(torch.einsum("dij,dsm,kij,ksc,sijc->imc", y, q, r, w, u[:, inputs.neighbour]))
    return torch.cat(found, 1)


def derivatives(found: Tensor, inputs: Inputs) -> list[Tensor]:
    """Return the sums and gradients of first, second and third order of what is not linear in them."""
    values, variables = [found], list(inputs[:4])
    scalar = found.square().sum()
    for _ in range(3):
        slopes = torch.autograd.grad(scalar, variables, create_graph=True)
        values += slopes
        scalar = sum(x.square().sum() for x in slopes)
    return values


@pytest.mark.parametrize("size", [1, 500, 10**6])
def test_blocks_of_any_size_equal_one_sum_in_every_derivative(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbour_sums, "BLOCK_BYTES", size)
    inputs, couplings = given()
    found = derivatives(neighbour_sums.neighbour_sums(inputs, couplings), inputs)
    wanted = derivatives(plainly(inputs, couplings), inputs)
    assert len(found) == 13
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * float(b.detach().abs().max()))


@pytest.mark.parametrize("chosen", range(4))
def test_a_gradient_to_one_input_alone_is_that_to_all(chosen: int) -> None:
    inputs, couplings = given()
    found = neighbour_sums.neighbour_sums(inputs, couplings).square().sum()
    for graph in (False, True):
        every = torch.autograd.grad(found, inputs[:4], retain_graph=True, create_graph=graph)
        (one,) = torch.autograd.grad(found, inputs[chosen], retain_graph=True, create_graph=graph)
        torch.testing.assert_close(one, every[chosen], rtol=1e-13, atol=0)


def test_a_wrong_index_is_seen() -> None:
    """The comparison itself: another neighbour gives another sum."""
    inputs, couplings = given()
    other = inputs._replace(neighbour=(inputs.neighbour + 1) % ATOMS)
    found, wanted = neighbour_sums.neighbour_sums(other, couplings), plainly(inputs, couplings)
    assert float((found - wanted).detach().abs().max()) > 0.1
