"""Descriptors of elements against the periodic table and ASE's tables."""

from __future__ import annotations

import pytest
import torch
from ase.data import covalent_radii

from thalweg.potentials.element_descriptors import DESCRIPTORS, HEAVIEST, descriptors, period_and_group, valence

PLACES = {1: (1, 1), 2: (1, 18), 3: (2, 1), 5: (2, 13), 10: (2, 18), 14: (3, 14), 22: (4, 4), 30: (4, 12)}
PLACES |= {48: (5, 12), 52: (5, 16), 57: (6, 3), 64: (6, 3), 71: (6, 3), 72: (6, 4), 82: (6, 14), 92: (7, 3)}


@pytest.mark.parametrize(("number", "place"), PLACES.items())
def test_places_are_those_of_the_periodic_table(number: int, place: tuple[int, int]) -> None:
    assert period_and_group(number) == place


@pytest.mark.parametrize(
    ("number", "shells"),
    [
        (1, (1, 0, 0, 0)),
        (2, (2, 0, 0, 0)),
        (14, (2, 2, 0, 0)),
        (22, (2, 0, 2, 0)),
        (52, (2, 4, 10, 0)),
        (72, (2, 0, 2, 14)),
    ],
)
def test_valence_shells_fill_by_madelungs_rule(number: int, shells: tuple[int, int, int, int]) -> None:
    assert valence(number) == shells


def test_shells_hold_all_electrons_outside_the_core() -> None:
    noble = (0, 2, 10, 18, 36, 54, 86)
    for number in range(1, HEAVIEST + 1):
        assert sum(valence(number)) == number - max(n for n in noble if n < number)


def test_the_table_is_standardised_and_tells_every_element_from_every_other() -> None:
    table = descriptors()
    assert table.shape == (HEAVIEST, DESCRIPTORS)
    torch.testing.assert_close(table.mean(dim=0), torch.zeros(9, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(table.std(dim=0), torch.ones(9, dtype=torch.float64), rtol=0, atol=1e-12)
    assert float(torch.pdist(table).min()) > 0.01


def test_radii_are_known_for_every_element_of_the_table() -> None:
    missing = covalent_radii[0]
    assert all(covalent_radii[z] != missing for z in range(1, HEAVIEST + 1))
