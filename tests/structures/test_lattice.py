from itertools import product

import numpy as np
import pytest
from ase.geometry import find_mic
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.structures.lattice import shortest_images

REACH = np.array(list(product(range(-3, 4), repeat=3)))


def skewed_cell(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A cell of reasonable shape and a strongly skewed basis of the same lattice."""
    rng = np.random.default_rng(seed)
    plain = np.diag(rng.uniform(2, 6, 3)) + rng.uniform(-0.8, 0.8, (3, 3))
    skewed = plain.copy()
    for _ in range(3):
        i, j = rng.permutation(3)[:2]
        skewed[i] += rng.integers(-3, 4) * skewed[j]
    return plain, skewed


def shortest_by_enumeration(vectors: np.ndarray, plain: np.ndarray) -> np.ndarray:
    """Least lengths among all images near the origin, from the well-shaped basis of the lattice."""
    near = vectors - np.rint(vectors @ np.linalg.inv(plain)) @ plain
    return np.linalg.norm(near[:, None] + REACH @ plain, axis=-1).min(1)


def rounded(vectors: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """The usual wrong answer."""
    return -np.rint(vectors @ np.linalg.inv(cell))


def lengths(vectors: np.ndarray, numbers: np.ndarray, cell: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors + numbers @ cell, axis=-1)


ALL = np.array([True, True, True])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_image_is_the_shortest_of_all_in_skewed_cells(seed):
    plain, skewed = skewed_cell(seed)
    vectors = np.random.default_rng(seed).normal(size=(40, 3)) * 12
    numbers = shortest_images(vectors, skewed, ALL)
    np.testing.assert_allclose(
        lengths(vectors, numbers, skewed), shortest_by_enumeration(vectors, plain), rtol=0, atol=1e-9
    )


def test_the_enumeration_rejects_rounding():
    wrong = 0
    for seed in range(20):
        plain, skewed = skewed_cell(seed)
        vectors = np.random.default_rng(seed).normal(size=(40, 3)) * 12
        excess = lengths(vectors, rounded(vectors, skewed), skewed) - shortest_by_enumeration(vectors, plain)
        wrong += int((excess > 1e-6).sum())
    assert wrong > 400  # of 800


@pytest.mark.parametrize("seed", range(5))
def test_the_image_agrees_with_ase_in_three_periodic_directions(seed):
    _, cell = skewed_cell(seed)
    vectors = np.random.default_rng(seed).normal(size=(200, 3)) * 20
    _, expected = find_mic(vectors, cell, pbc=True)
    numbers = shortest_images(vectors, cell, ALL)
    np.testing.assert_allclose(lengths(vectors, numbers, cell), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("pbc", list(product([False, True], repeat=3)))
def test_only_periodic_directions_are_shifted_and_by_the_best(pbc):
    mask = np.array(pbc)
    for seed in range(5):
        plain, _ = skewed_cell(seed)
        vectors = np.random.default_rng(seed).normal(size=(50, 3)) * 2.5
        numbers = shortest_images(vectors, plain, mask)
        assert (numbers[:, ~mask] == 0).all()
        tried = np.array([n for n in product(range(-7, 8), repeat=3) if not np.array(n)[~mask].any()])
        least = np.linalg.norm(vectors[:, None] + tried @ plain, axis=-1).min(1)
        np.testing.assert_allclose(lengths(vectors, numbers, plain), least, rtol=0, atol=1e-9)


def test_a_skewed_cell_with_two_periodic_directions_ignores_the_third_row():
    cell = np.array([[3.0, 0, 0], [7.6, 2.5, 0], [50.0, -40.0, 1.0]])
    mask = np.array([True, True, False])
    vectors = np.random.default_rng(0).normal(size=(50, 3)) * 8
    numbers = shortest_images(vectors, cell, mask)
    tried = np.array([(i, j, 0) for i, j in product(range(-40, 41), range(-12, 13))])
    least = np.linalg.norm(vectors[:, None] + tried @ cell, axis=-1).min(1)
    np.testing.assert_allclose(lengths(vectors, numbers, cell), least, rtol=0, atol=1e-9)


def test_an_orthogonal_cell_wraps_each_component():
    vectors = np.array([[0.6, -4.0, 29.0], [0.4, 1.0, -9.0]])
    numbers = shortest_images(vectors, np.diag([1.0, 3.0, 10.0]), ALL)
    np.testing.assert_array_equal(numbers, [[-1, 1, -3], [0, 0, 1]])


def test_zero_rows_are_allowed_where_nothing_is_periodic():
    numbers = shortest_images(np.full((2, 3), 9.0), np.zeros((3, 3)), np.zeros(3, dtype=bool))
    assert not numbers.any()


def test_any_leading_shape_is_kept():
    cell = skewed_cell(3)[1]
    vectors = np.random.default_rng(0).normal(size=(4, 5, 3)) * 9
    flat = shortest_images(vectors.reshape(-1, 3), cell, ALL)
    np.testing.assert_array_equal(shortest_images(vectors, cell, ALL), flat.reshape(4, 5, 3))
