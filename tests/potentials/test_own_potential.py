"""The documentation's example of a potential of one's own passes every check of the contract."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.contracts import potential_checks as checks
from tests.contracts.crystals import compounds

from thalweg.errors import PotentialError
from thalweg.potentials import POTENTIALS
from thalweg.potentials.adapters.code import find_factory
from thalweg.potentials.contract import Potential

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "morse.py"


@pytest.fixture
def morse(monkeypatch: pytest.MonkeyPatch) -> Potential:
    kind = find_factory(f"{EXAMPLE}:Morse")
    monkeypatch.setitem(POTENTIALS, "morse", kind)  # type: ignore[arg-type]
    potential: Potential = kind([14, 48, 52]).double()
    return potential


@pytest.mark.parametrize("check", checks.EVERY, ids=lambda check: check.__name__)
def test_example_keeps_the_contract(check: checks.Check, morse: Potential) -> None:
    check(morse, compounds())


def test_example_refuses_unknown_settings(morse: Potential) -> None:
    with pytest.raises(PotentialError, match="has no setting 'cutof'"):
        type(morse).from_settings({"species": [14], "cutof": 5.0})
    assert {p.dtype for p in morse.parameters()} == {torch.float64}


def test_example_is_short() -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 60
