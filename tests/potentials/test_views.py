"""What a potential sees: attention is that of the forward pass, and the response of forces is their derivative."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk
from torch import Tensor

from thalweg.errors import PotentialError
from thalweg.potentials import build_potential
from thalweg.potentials.contract import Potential
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.potentials.views import MOST_ATOMS, attention, force_response, view
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures

SMALL = {"species": [14], "width": 16, "feed_forward": 16, "layers": 2, "heads": 2}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"attention": "plain"},
    {"coordinates": "fractional", "distance_bias": "minimum-image", "cutoff": 4.0},
]


def small(**settings: Any) -> Potential:
    return build_potential("transformer", {**SMALL, **settings}).double()


def silicon(count: int = 1) -> Structures:
    frames = [bulk("Si", cubic=True) for _ in range(count)]
    for k, frame in enumerate(frames):
        frame.positions += 0.1 * numpy_stream(4, "views", k).standard_normal((8, 3))
    return Structures.from_atoms(frames)


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_of_attention_sum_to_one_and_are_those_of_the_forward_pass(variant: dict[str, Any]) -> None:
    """Shares times values, mixed as the layer mixes them, are what its forward returns, fused or plain."""
    potential, structure = small(**variant), silicon()
    inside: list[tuple[tuple[Any, ...], Tensor]] = []
    first = potential.get_submodule("layers.0.attention")
    handle = first.register_forward_hook(lambda module, inputs, out: inside.append((inputs, out)))
    shares = attention(potential, structure)
    handle.remove()
    assert shares.shape == (2, 2, 8, 8)
    torch.testing.assert_close(shares.sum(dim=3), torch.ones(2, 2, 8, dtype=torch.float64), rtol=0, atol=1e-12)
    assert bool((shares > 0).all())
    (h, _, _), out = inside[0]
    value = first.enter(h).view(8, 3, 2, 8)[:, 2].permute(1, 0, 2)  # heads atoms channels
    rebuilt = first.leave((shares[0] @ value).permute(1, 0, 2).flatten(1))
    torch.testing.assert_close(rebuilt, out, rtol=0, atol=1e-12)
    wrong = first.leave((shares[0].transpose(1, 2) @ value).permute(1, 0, 2).flatten(1))
    assert not torch.allclose(wrong, out, atol=1e-3)


def test_looking_leaves_no_hook_behind() -> None:
    potential = small()
    attention(potential, silicon())
    assert not any(module._forward_pre_hooks for module in potential.modules())


@pytest.mark.parametrize("make", [small, lambda: StillingerWeber.from_published("Si")], ids=["direct", "conservative"])
def test_the_response_is_the_derivative_of_forces(make: Any) -> None:
    potential, structure = make(), silicon()
    found, h = force_response(potential, structure), 1e-5
    block = []
    for axis in range(3):
        step = torch.zeros_like(structure.positions)
        step[5, axis] = h
        ends = [potential(structure.with_positions(structure.positions + sign * step)).forces for sign in (1, -1)]
        block.append((ends[0] - ends[1]) / (2 * h))
    wanted = torch.stack(block).square().sum(dim=(0, 2)).sqrt()
    torch.testing.assert_close(found[:, 5], wanted, rtol=1e-6, atol=1e-8)


def test_a_view_holds_every_layer_and_head_and_the_response() -> None:
    seen = view(small(), silicon(2), 1)
    assert [m.name for m in seen.measures] == [
        *("layer 1, head 1", "layer 1, head 2", "layer 2, head 1", "layer 2, head 2"),
        "response of forces",
    ]
    assert (seen.id, seen.reach, len(seen.atoms)) == ("1", None, 8)
    wanted = attention(small(), silicon(2).select([1]))[1, 0].numpy()
    np.testing.assert_array_equal(seen.measures[2].weights, wanted)


def test_a_graph_is_seen_by_its_response_and_its_reach() -> None:
    seen = view(StillingerWeber.from_published("Si"), silicon())
    assert [(m.name, m.unit, m.rows_sum_to_one) for m in seen.measures] == [("response of forces", "eV/Å²", False)]
    assert seen.reach == pytest.approx(3.77, abs=0.01)


def test_what_cannot_be_looked_at_is_refused_in_one_line() -> None:
    surface = StillingerWeber.from_published("Si")
    with pytest.raises(PotentialError, match="index is 1: there are 1 structures, allowed is 0 to 0"):
        view(surface, silicon(), 1)
    large = Structures.from_atoms(bulk("Si", cubic=True) * (4, 4, 4))
    assert len(large.positions) > MOST_ATOMS
    with pytest.raises(PotentialError, match="has 512 atoms: allowed is up to 500"):
        view(surface, large)
    with pytest.raises(PotentialError, match="contains Cd"):
        view(surface, Structures.from_atoms(bulk("CdTe", "zincblende", a=6.48)))
