"""The update G_θ: its cap and the derivative of the cap."""

from __future__ import annotations

import pytest
import torch

from thalweg.errors import SettingsError
from thalweg.relaxation import Descent


def forces_of_length(*lengths: float) -> torch.Tensor:
    directions = torch.randn((len(lengths), 3), generator=torch.Generator().manual_seed(1)).double()
    return torch.nn.functional.normalize(directions, dim=1) * torch.tensor(lengths).double()[:, None]


def test_short_steps_are_alpha_times_the_force_and_long_ones_have_the_length_of_the_cap() -> None:
    forces = forces_of_length(0.0, 1.0, 3.99, 4.01, 1e6)
    moved = Descent(alpha=0.05, cap=0.2).move(torch.zeros_like(forces), forces)
    torch.testing.assert_close(moved[:3], 0.05 * forces[:3], rtol=1e-14, atol=0)
    torch.testing.assert_close(
        moved[3:].norm(dim=1), torch.full((2,), 0.2, dtype=torch.float64), rtol=1e-14, atol=0
    )
    along = torch.nn.functional.cosine_similarity(moved[3:], forces[3:])
    torch.testing.assert_close(along, torch.ones(2).double())


def test_atoms_are_capped_one_by_one() -> None:
    forces = forces_of_length(1.0, 50.0)
    both = Descent(0.05).move(torch.zeros_like(forces), forces)
    torch.testing.assert_close(both[0], 0.05 * forces[0], rtol=1e-14, atol=0)


def test_the_derivative_of_the_step_is_right_below_and_above_the_cap_and_at_zero_force() -> None:
    rows = torch.randn((5, 3), generator=torch.Generator().manual_seed(2)).double().requires_grad_()
    forces = forces_of_length(0.0, 1.0, 3.9, 4.1, 30.0).requires_grad_()
    step = Descent(alpha=0.05, cap=0.2).move
    assert torch.autograd.gradcheck(step, (rows, forces), eps=1e-6, atol=1e-8)
    assert torch.autograd.gradgradcheck(step, (rows, forces), eps=1e-6, atol=1e-7)


def test_the_naive_cap_has_no_derivative_at_zero_force() -> None:
    """The check above must be able to fail: the plain formula gives NaN where a force is zero."""

    def naive(rows: torch.Tensor, forces: torch.Tensor) -> torch.Tensor:
        d = 0.05 * forces
        length = d.square().sum(dim=1, keepdim=True).sqrt()
        return rows + d * torch.where(length > 0.2, 0.2 / length, 1.0)

    forces = forces_of_length(0.0, 1.0).requires_grad_()
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(naive, (torch.zeros((2, 3)).double(), forces), eps=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("alpha", "cap", "said"),
    [(0.0, 0.2, "alpha is 0.0"), (float("nan"), 0.2, "alpha is nan"), (0.1, 0.0, "cap is 0.0")],
)
def test_settings_outside_their_range_are_refused(alpha: float, cap: float, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Descent(alpha, cap)
