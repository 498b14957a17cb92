"""Training sets are nested, validation is fixed, no parent is on both sides; batches follow from their place alone."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.structures.store.ragged import frames

from thalweg.errors import SettingsError, StructureError
from thalweg.structures.store import AtomBatches, Partition, Store, open_store, partition
from thalweg.structures.store.writing import StoreWriter


def made(path: Path, count: int, seed: int, parents: int) -> Store:
    writer = StoreWriter(path, "float32", {})
    writer.append(frames([1 + k % 5 for k in range(count)], seed, parents=parents), {})
    writer.finish("made up")
    return open_store(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return made(tmp_path_factory.mktemp("subsets") / "store", 60, 1, 11)


def parents_of(store: Store, chosen: np.ndarray) -> set[str]:
    return set(store.select(chosen).parents)


@pytest.mark.parametrize("held_out", [0.25, 1, 15, 59])
def test_no_parent_is_on_both_sides_and_every_frame_on_one(store: Store, held_out: float | int) -> None:
    found = partition(store, held_out, 3)
    assert sorted([*found.training.tolist(), *found.validation.tolist()]) == list(range(60))
    assert not parents_of(store, found.training) & parents_of(store, found.validation)
    assert len(found.training) > 0
    if held_out != 59:  # else all parents but one
        assert len(found.validation) >= (held_out * 60 if isinstance(held_out, float) else held_out)


def test_the_smaller_training_set_lies_in_the_larger_and_parents_come_one_after_the_other(store: Store) -> None:
    found = partition(store, 0.2, 3)
    for n in (1, 7, 30):
        assert set(found.subset(n)) < set(found.subset(n + 5))
    names = [store.select([int(k)]).parents[0] for k in found.training]
    assert sum(a != b for a, b in pairwise(names)) == len(set(names)) - 1
    assert found.training.tolist() != sorted(found.training)


def test_order_and_validation_depend_on_the_seed_and_on_nothing_else(store: Store) -> None:
    first, again, other = partition(store, 0.2, 3), partition(open_store(store.path), 0.2, 3), partition(store, 0.2, 4)
    assert first.training.tolist() == again.training.tolist()
    assert first.validation.tolist() == again.validation.tolist()
    assert first.training.tolist() != other.training.tolist()


def test_nothing_held_out_is_allowed_and_too_much_is_not(store: Store, tmp_path: Path) -> None:
    assert len(partition(store, 0, 1).validation) == 0
    assert len(partition(store, 0, 1).training) == 60
    for wrong in (1.0, -1, 60, True, -0.1):
        with pytest.raises(SettingsError, match="allowed is a fraction from 0"):
            partition(store, wrong, 1)
    with pytest.raises(SettingsError, match="allowed is 1 to"):
        partition(store, 0, 1).subset(61)
    with pytest.raises(StructureError, match="all 6 frames are of one parent, 'parent 0'"):
        partition(made(tmp_path / "one", 6, 2, 1), 0.5, 1)
    assert len(partition(made(tmp_path / "alone", 6, 2, 1), 0, 1).training) == 6


def test_a_partition_that_shares_parents_would_be_seen(store: Store) -> None:
    """The negative control: splitting by frame puts parents on both sides."""
    bad = Partition(np.arange(0, 60, 2), np.arange(1, 60, 2))
    assert parents_of(store, bad.training) & parents_of(store, bad.validation)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=50), extra=st.integers(0, 60), seed=st.integers(0, 10**6)
)
def test_every_batch_keeps_the_cap_is_full_and_every_frame_comes_once(sizes: list[int], extra: int, seed: int) -> None:
    cap = max(sizes) + extra
    series = AtomBatches(np.array(sizes), cap, seed)
    for epoch in (0, 1):
        batches = series.epoch(epoch)
        assert Counter(np.concatenate(batches).tolist()) == Counter(range(len(sizes)))
        loads = [sum(sizes[k] for k in batch) for batch in batches]
        assert max(loads) <= cap
        for load, following in zip(loads, batches[1:], strict=False):
            assert load + sizes[following[0]] > cap  # the next frame would not have fitted


def test_a_series_goes_on_from_any_place_bit_for_bit() -> None:
    sizes = np.arange(1, 40)
    series = AtomBatches(sizes, 60, 7)
    whole = list(islice(series.after(0, 0), 50))
    places = [series.place(k) for k in range(50)]
    assert all(np.array_equal(series.epoch(e)[k], batch) for (e, k), (_, batch) in zip(places, whole, strict=True))
    assert len({place[0] for place, _ in whole}) > 2  # several epochs
    for k in (0, 1, 13, 14, 30):
        again = list(islice(AtomBatches(sizes, 60, 7).after(*whole[k][0]), 50 - k - 1))
        assert [place for place, _ in again] == [place for place, _ in whole[k + 1 :]]
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(again, whole[k + 1 :], strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(series.epoch(0), series.epoch(1), strict=False))
    assert any(
        not np.array_equal(a, b) for a, b in zip(series.epoch(0), AtomBatches(sizes, 60, 8).epoch(0), strict=False)
    )


def test_caps_and_places_that_do_not_exist_are_refused() -> None:
    with pytest.raises(SettingsError, match="a batch of 9 atoms at most, but a frame has 12: raise the cap"):
        AtomBatches(np.array([3, 12]), 9, 0)
    with pytest.raises(StructureError, match="no frames"):
        AtomBatches(np.array([], dtype=np.int64), 9, 0)
    for place in ((0, 3), (-1, 0), (0, -1)):
        with pytest.raises(SettingsError, match="there is no batch"):
            next(AtomBatches(np.array([3, 3]), 3, 0).after(*place))
