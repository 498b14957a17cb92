"""The same-basin rules on surfaces where the basin of every structure is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st
from tests.evaluation.surfaces import Valleys, at, ended

from thalweg.errors import SettingsError, StructureError
from thalweg.evaluation.basins import (
    THRESHOLDS,
    BasinRule,
    Comparison,
    Distance,
    Quench,
    Verdict,
    basin_rule,
    in_double,
)
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relaxation import LBFGS, Outcome, Relaxation, relax
from thalweg.structures.batch import Structures


def verdict(rule: BasinRule, end: Structures, minimum: Structures, reference=None) -> Verdict:
    return rule.compare(ended(end), minimum, reference=reference).verdicts(rule.threshold)[0]


@pytest.fixture
def cadmium_telluride() -> Structures:
    return Structures.from_atoms(bulk("CdTe", "zincblende", a=6.48, cubic=True))


@pytest.fixture(scope="module")
def silicon() -> StillingerWeber:
    return StillingerWeber.from_published("Si")


def interstitial(fraction: float) -> Atoms:
    """Return silicon with one atom more, at a place along the diagonal of the cell."""
    host = bulk("Si", cubic=True) * 2
    return host + Atoms("Si", positions=[host.cell.array.sum(axis=0) * fraction])


@pytest.fixture(scope="module")
def defects(silicon: StillingerWeber) -> Relaxation:
    """Two interstitials, relaxed: in two hollows of one cell, alike but for their place."""
    starts = Structures.from_atoms([interstitial(0.25), interstitial(0.34)])
    starts = starts.with_positions(
        starts.positions + torch.from_numpy(np.random.default_rng(3).normal(0, 0.02, starts.positions.shape))
    )
    found = relax(silicon, starts, LBFGS(memory=30), fmax=1e-4, max_steps=500)
    assert found.outcomes == (Outcome.CONVERGED,) * 2
    assert abs(float(found.energy[0] - found.energy[1])) < 1e-4  # energies cannot tell them apart
    return found


@pytest.mark.parametrize("jump", [[1, 0, 0], [0, -2, 0], [3, 1, -1]])
def test_lattice_jumps_permutations_and_a_rigid_shift_do_not_change_the_basin(
    cadmium_telluride: Structures, jump: list[int]
) -> None:
    x, numbers = cadmium_telluride.positions.clone(), cadmium_telluride.numbers
    order = torch.arange(8)
    order[numbers == 48] = (numbers == 48).nonzero().squeeze(1).flip(0)
    shift = torch.tensor(jump, dtype=torch.float64) @ cadmium_telluride.cell[0]
    x[2] += shift
    x[5] -= shift
    x = x[order] + torch.tensor([0.4, -0.7, 1.1], dtype=torch.float64)
    assert verdict(Distance(), cadmium_telluride.with_positions(x), cadmium_telluride) is Verdict.RIGHT


def test_one_atom_displaced_is_another_basin_by_distance(cadmium_telluride: Structures) -> None:
    x = cadmium_telluride.positions.clone()
    x[2, 0] += 0.5
    assert verdict(Distance(), cadmium_telluride.with_positions(x), cadmium_telluride) is Verdict.WRONG


def test_an_antisite_pair_is_another_basin(cadmium_telluride: Structures) -> None:
    x, numbers = cadmium_telluride.positions.clone(), cadmium_telluride.numbers
    cd, te = int((numbers == 48).nonzero()[0]), int((numbers == 52).nonzero()[0])
    x[[cd, te]] = x[[te, cd]]  # the same places taken, by other species
    assert verdict(Distance(), cadmium_telluride.with_positions(x), cadmium_telluride) is Verdict.WRONG


def test_an_end_displaced_within_its_basin_is_right_by_quench_and_wrong_by_distance(
    silicon: StillingerWeber, defects: Relaxation
) -> None:
    minimum = defects.structures.select([0])
    x = minimum.positions.clone()
    x[10] += torch.tensor([0.3, 0.0, 0.0], dtype=torch.float64)
    moved = minimum.with_positions(x)
    assert verdict(Distance(), moved, minimum) is Verdict.WRONG
    assert verdict(Quench(), moved, minimum, silicon) is Verdict.RIGHT


def test_an_end_at_another_minimum_is_wrong_by_both(silicon: StillingerWeber, defects: Relaxation) -> None:
    one, other = defects.structures.select([0]), defects.structures.select([1])
    for end, minimum in ((one, other), (other, one)):
        assert verdict(Distance(), end, minimum) is Verdict.WRONG
        assert verdict(Quench(), end, minimum, silicon) is Verdict.WRONG
        assert verdict(Quench(), minimum, minimum, silicon) is Verdict.RIGHT


def test_the_quench_decides_by_the_side_of_the_ridge() -> None:
    ends, minima = at([0.05, 0.4, 1.6, -0.05, -0.4]), at([1.0] * 5)
    found = Quench().compare(ended(ends), minima, reference=Valleys())
    assert found.right(0.1).tolist() == [True, True, True, False, False]
    torch.testing.assert_close(
        found.displacement, torch.tensor([0.0, 0.0, 0.0, 2.0, 2.0], dtype=torch.float64), atol=1e-3, rtol=0
    )


def test_each_rule_finds_the_known_displacement() -> None:
    found = Distance().compare(ended(at([1.3, 0.85, -1.0])), at([1.0] * 3))
    torch.testing.assert_close(found.displacement, torch.tensor([0.3, 0.15, 2.0], dtype=torch.float64))
    assert [found.right(t).tolist() for t in (0.1, 0.2, 0.4)] == [
        [False, False, False],
        [False, True, False],
        [True, True, False],
    ]


@pytest.mark.parametrize("outcome", [Outcome.OUT_OF_STEPS, Outcome.EXPLODED, Outcome.TOO_CLOSE])
@pytest.mark.parametrize("rule", [Quench(), Distance()])
def test_what_did_not_converge_is_a_class_of_its_own_even_at_the_minimum(rule: BasinRule, outcome: Outcome) -> None:
    found = rule.compare(ended(at([1.0]), outcome), at([1.0]), reference=Valleys())
    assert found.verdicts(0.5) == (Verdict.UNCONVERGED,)
    assert not found.right(math.inf).any()
    assert torch.isnan(found.displacement).all()


def test_a_quench_that_does_not_converge_leaves_the_pair_unjudged() -> None:
    ends, minima = ended(at([0.4, 1.0])), at([1.0, 1.0])
    found = Quench(max_steps=1).compare(ends, minima, reference=Valleys())
    assert found.verdicts(0.5) == (Verdict.UNJUDGED, Verdict.RIGHT)
    assert Quench().compare(ends, minima, reference=Valleys()).verdicts(0.5) == (Verdict.RIGHT,) * 2


def test_a_minimum_that_the_reference_carries_away_is_unjudged() -> None:
    ends, minima = (
        ended(at([1.5])),
        at([1.0]),
    )  # the reference has its minimum at 1.5, not where the pair says
    assert Quench().compare(ends, minima, reference=Valleys(0.5)).verdicts(0.2) == (Verdict.UNJUDGED,)
    assert Quench().compare(ends, minima, reference=Valleys(0.1)).verdicts(0.2) == (Verdict.RIGHT,)


class Crater(Valleys):
    """`Valleys` without a finite energy beyond x = 3."""

    def energy(self, structures: Structures, edges) -> torch.Tensor:
        lost = structures.total((structures.positions[:, 0] > 3).to(structures.dtype)) > 0
        return torch.where(lost, torch.nan, super().energy(structures, edges))


def test_an_end_where_the_reference_has_no_answer_is_unjudged_and_spares_the_others() -> None:
    found = Quench().compare(ended(at([5.0, 0.9])), at([1.0, 1.0]), reference=Crater())
    assert found.verdicts(0.2) == (Verdict.UNJUDGED, Verdict.RIGHT)


def test_energies_are_compared_only_on_one_surface() -> None:
    end, minimum = ended(at([1.0]), energy=7.0), at([1.0])
    known, unknown = torch.zeros(1, dtype=torch.float64), torch.full((1,), torch.nan, dtype=torch.float64)
    said = Distance(energies_compare=True)
    assert Distance().compare(end, minimum, energy_minimum=known).right(0.2).all()
    assert not said.compare(end, minimum, energy_minimum=known).right(0.2).any()
    assert said.compare(end, minimum, energy_minimum=unknown).right(0.2).all()
    assert replace(said, energy=8.0).compare(end, minimum, energy_minimum=known).right(0.2).all()


@pytest.mark.parametrize(("energy", "right"), [(0.049, True), (-0.049, True), (0.051, False), (-0.051, False)])
def test_the_energy_limit_is_fifty_millielectronvolts(energy: float, right: bool) -> None:
    rule, zero = Distance(energies_compare=True), torch.zeros(1, dtype=torch.float64)
    found = rule.compare(ended(at([1.0]), energy=energy), at([1.0]), energy_minimum=zero)
    assert found.right(0.2).tolist() == [right]


def test_a_reference_evaluates_both_energies() -> None:
    ends, minima = ended(at([1.05, 1.15]), energy=99.0), at([1.0, 1.0])
    found = Distance(energies_compare=True).compare(ends, minima, reference=Valleys())
    expected = [(x**2 - 1) ** 2 for x in (1.05, 1.15)]  # 0.011 and 0.104 eV
    torch.testing.assert_close(found.energy_difference, torch.tensor(expected, dtype=torch.float64))
    assert found.right(0.2).tolist() == [True, False]
    assert Distance().compare(ends, minima, reference=Valleys()).right(0.2).tolist() == [True, True]


def test_a_reference_without_an_energy_there_does_not_agree() -> None:
    rule = Distance(energies_compare=True)
    found = rule.compare(ended(at([3.05, 1.05])), at([3.0, 1.0]), reference=Crater())
    assert found.right(0.2).tolist() == [False, True]


@given(st.lists(st.floats(0, 2) | st.just(math.nan), min_size=1, max_size=20), st.booleans())
def test_counts_never_fall_as_the_threshold_grows(displacements: list[float], energies: bool) -> None:
    apart = torch.tensor(displacements, dtype=torch.float64)
    found = Comparison(~torch.isnan(apart), apart, 0.1 * apart.flip(0), 0.05 if energies else None)
    counts = [int(found.right(t).sum()) for t in THRESHOLDS]
    assert counts == sorted(counts)
    assert all(len(found.verdicts(t)) == len(displacements) for t in THRESHOLDS)
    assert found.verdicts(0.5).count(Verdict.UNCONVERGED) == int(torch.isnan(apart).sum())


def test_a_reference_in_single_precision_is_evaluated_in_double_and_left_as_it_was() -> None:
    reference = Valleys(dtype=torch.float32)
    end = at([0.4]).to(dtype=torch.float32)
    found = Quench(fmax=1e-6).compare(ended(end), at([1.0]), reference=reference)
    assert found.right(0.1).all()
    assert float(found.displacement[0]) < 1e-6
    assert reference.shift.dtype == torch.float32
    assert reference.types == []  # the copy was evaluated
    double = Valleys()
    assert in_double(double) is double


def test_ends_of_another_composition_are_refused() -> None:
    with pytest.raises(StructureError, match="cannot be compared"):
        Distance().compare(ended(at([1.0])), Structures.from_atoms(Atoms("H2", positions=[[0, 0, 0], [3, 0, 0]])))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quench(threshold=0.0), "quench threshold is 0.0"),
        (lambda: Distance(threshold=math.inf), "distance threshold is inf"),
        (lambda: Quench(fmax=0.05), "quench fmax is 0.05"),
        (lambda: Quench(max_steps=0), "quench max_steps is 0"),
        (lambda: Distance(energy=0.0), "distance energy is 0.0"),
        (lambda: basin_rule("distnce"), "did you mean 'distance'"),
        (
            lambda: Quench().check(None, None),
            "rule 'quench' relaxes on the reference surface and none was given",
        ),
        (lambda: Quench().compare(ended(at([1.0])), at([1.0])), "none was given"),
        (lambda: Distance(energies_compare=True).check(None, None), "the pairs have none"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line(make, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_rule_is_found_by_name_or_taken_as_it_is() -> None:
    rule = Quench(threshold=0.3)
    assert basin_rule(rule) is rule
    assert basin_rule("quench") == Quench()
    assert Quench().settings["relaxer"]["kind"] == "lbfgs"
