"""Every check of the contract passes a whole potential and rejects one that is broken in what it checks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.contracts import potential_checks as checks
from tests.contracts.broken_potentials import FAULTS, Forgetful, Handed, Whole
from tests.contracts.crystals import silicon

from thalweg.potentials import POTENTIALS


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Whole]], Whole]:
    """Make a toy that model files know, having learned something since it was built."""

    def make(kind: type[Whole]) -> Whole:
        monkeypatch.setitem(POTENTIALS, kind.kind, kind)
        potential = kind()
        potential.k.data += 0.01
        if isinstance(potential, Forgetful):
            potential.learned = 1.1
        return potential

    return make


@pytest.mark.parametrize("check", checks.EVERY, ids=lambda check: check.__name__)
def test_whole_potential_passes(check: checks.Check, toy: Callable[[type[Whole]], Whole]) -> None:
    check(toy(Whole), silicon())


@pytest.mark.parametrize(("check", "kind"), FAULTS, ids=lambda x: x.__name__)
def test_broken_potential_is_rejected(
    check: checks.Check, kind: type[Whole], toy: Callable[[type[Whole]], Whole]
) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(toy(kind), silicon())


def test_handed_potential_turns_with_rotations(toy: Callable[[type[Whole]], Whole]) -> None:
    checks.rotation(toy(Handed), silicon())


def test_every_check_rejects_something() -> None:
    assert {check for check, _ in FAULTS} == set(checks.EVERY)


@pytest.mark.parametrize("claim", [claim for claim in checks.CLAIMED if claim not in checks.REFUSALS])
def test_a_claim_left_out_without_reason_is_rejected(claim: str, toy: Callable[[type[Whole]], Whole]) -> None:
    for check in checks.CLAIMED[claim]:
        with pytest.raises(pytest.fail.Exception, match="claim it"):
            checks.lacking(check)(toy(Whole), silicon())


def test_a_stress_given_where_none_is_claimed_is_rejected(toy: Callable[[type[Whole]], Whole]) -> None:
    periodic = silicon().select([0, 1])
    with pytest.raises(pytest.fail.Exception):
        checks.stress_refused(toy(Whole), periodic)


def test_clusters_answered_where_none_are_claimed_are_rejected(toy: Callable[[type[Whole]], Whole]) -> None:
    with pytest.raises(pytest.fail.Exception):
        checks.clusters_refused(toy(Whole), silicon())
