"""A neighbour list comes back from its packed form as it was, and equal ones share their storage."""

from __future__ import annotations

import pytest
import torch

from thalweg.gradients.kept_edges import keep_edges
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges, find_edges


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_list_comes_back_as_it_was(ragged, dtype):
    structures = ragged.to(dtype=dtype)
    edges = find_edges(structures, 5.0)
    kept = keep_edges(edges, len(structures.numbers))
    back = kept.edges(dtype)
    for name in ("centre", "neighbour", "shift"):
        found, expected = getattr(back, name), getattr(edges, name)
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    assert kept.nbytes == 4 * len(structures.numbers) + 7 * len(edges)


def test_no_edges_and_far_images_come_back_too(silicon8):
    none = find_edges(silicon8, 0.5)
    assert len(keep_edges(none, 8).edges(torch.float64)) == 0
    zero = torch.zeros(1, dtype=torch.long)
    far = Edges(centre=zero + 3, neighbour=zero, shift=torch.tensor([[128.0, -129.0, 0.0]], dtype=torch.float64))
    back = keep_edges(far, 8).edges(torch.float64)
    assert torch.equal(back.shift, far.shift)
    assert back.centre.tolist() == [3]


def _moved(structures: Structures) -> Structures:
    positions = structures.positions.clone()
    positions[0] += 0.8
    return structures.with_positions(positions)


def test_equal_lists_share_their_storage_and_others_do_not(silicon8):
    first = keep_edges(find_edges(silicon8, 2.6), 8)
    same = keep_edges(find_edges(silicon8, 2.6), 8, first)
    assert all(a is b for a, b in zip(first, same, strict=True))
    other = keep_edges(find_edges(_moved(silicon8), 2.6), 8, first)
    assert other.neighbour is not first.neighbour
    assert torch.equal(other.edges(torch.float64).neighbour, find_edges(_moved(silicon8), 2.6).neighbour)
