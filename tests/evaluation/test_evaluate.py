"""Evaluating potentials whose right basins are known beforehand."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from ase import Atoms
from tests.evaluation.surfaces import PATH, Valleys, pairs_at
from tests.relaxation.surfaces import Counting, Poisoned

from thalweg.errors import PotentialError, SettingsError, StructureError
from thalweg.evaluation import Distance, Evaluation, Quench, evaluate, wilson_interval
from thalweg.evaluation.result import quantile_with_missing
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Pairs

PLACES = (-1.4, -0.6, -0.2, 0.2, 0.6, 1.4)
"""The ridge of `Valleys(0.3)` lies at 0.3: it takes 0.2 to the left, where the reference goes right."""


def quench(shift: float = 0.3, **changes) -> Evaluation:
    arguments = {"rule": "quench", "reference": Valleys(), **changes}
    return evaluate(Valleys(shift), pairs_at(PLACES), PATH, **arguments)


def test_right_basins_are_counted_by_quench() -> None:
    found = quench()
    assert found.right == (True, True, True, False, True, True)
    assert (found.basins_right, found.basins_total, found.rule) == (5, 6, "quench")
    assert found.basins_interval == wilson_interval(5, 6)
    assert found.basins_by_threshold == {"0.1": 5, "0.2": 5, "0.3": 5, "0.4": 5, "0.5": 5}
    assert [pair.displacement for pair in found.pairs] == pytest.approx([0, 0, 0, 2, 0, 0], abs=1e-3)


def test_the_same_ends_are_wrong_by_distance_up_to_their_displacement() -> None:
    found = quench(rule="distance", reference=None)
    assert found.basins_right == 0
    counts = found.basins_by_threshold
    assert [counts[t] for t in ("0.1", "0.2", "0.4", "0.5")] == [0, 0, 5, 5]  # 0.3 Å is the displacement
    assert found.basins_total == 6


def test_the_reference_itself_is_right_everywhere() -> None:
    assert quench(0.0).basins_right == 6
    assert quench(0.0, rule="distance").basins_right == 6


def test_a_wrong_end_of_the_same_energy_is_wrong_but_counted() -> None:
    found = quench()  # both valleys of the reference are at 0 eV
    assert (found.verdicts["wrong"], found.wrong_same_energy) == (1, 1)
    assert quench(rule="distance").wrong_same_energy is None
    apart = replace(found, pairs=tuple(replace(p, energy_difference=0.02) for p in found.pairs))
    assert apart.wrong_same_energy == 0


def test_dq_is_the_mass_weighted_displacement_of_the_potentials_own_end() -> None:
    root = math.sqrt(1.008)
    expected = [0.3 * root, 0.3 * root, 0.3 * root, 1.7 * root, 0.3 * root, 0.3 * root]
    assert quench().dq == pytest.approx(expected, abs=1e-4)
    assert quench().dq_median == pytest.approx(0.3 * root, abs=1e-4)


@pytest.fixture
def mixed() -> Evaluation:
    """Right, exploded, too close, out of steps, right."""
    pairs = pairs_at((0.5, 0.6, 0.7, 15.0, 0.8))
    starts = pairs.starts.positions.clone()
    starts[5] = starts[4] + 0.1
    potential = Poisoned(Valleys(), pairs.ids[1], start=3, value=math.nan, where="energy")
    pairs = replace(pairs, starts=pairs.starts.with_positions(starts))
    return evaluate(potential, pairs, PATH, rule="quench", reference=Valleys())


def test_what_did_not_converge_stays_in_the_denominator(mixed: Evaluation) -> None:
    assert mixed.outcomes == {"converged": 2, "out_of_steps": 1, "exploded": 1, "too_close": 1}
    assert mixed.verdicts == {"right": 2, "wrong": 0, "unconverged": 3, "unjudged": 0}
    assert (mixed.basins_right, mixed.basins_total) == (2, 5)
    assert mixed.right == (True, False, False, False, True)
    assert all(count == 2 for count in mixed.basins_by_threshold.values())


def test_a_missing_dq_is_none_counted_and_above_every_number(mixed: Evaluation) -> None:
    assert [value is None for value in mixed.dq] == [False, True, True, False, False]
    assert mixed.dq_missing == 2
    far = mixed.dq[3]
    assert far is not None
    assert far > 1
    assert mixed.dq_mean == pytest.approx(far / 3, abs=1e-3)  # the others are at their minima
    assert mixed.dq_median == pytest.approx(far)  # the middle of 0, 0, far, missing, missing
    assert mixed.dq_quantiles["0.9"] is None
    assert [pair.energy is None for pair in mixed.pairs] == [False, True, True, False, False]


def test_the_record_survives_json(mixed: Evaluation) -> None:
    for evaluation in (mixed, quench(base=quench(0.0))):
        text = json.dumps(evaluation.record(), allow_nan=False)
        assert Evaluation.from_record(json.loads(text)) == evaluation
        assert json.loads(text)["dq_mean"] == evaluation.dq_mean
    record = mixed.record()
    del record["pairs"][0]["dq"]
    with pytest.raises(SettingsError, match="has no 'dq'"):
        Evaluation.from_record(record)


@pytest.mark.parametrize("max_atoms", [1, 4, 7, 4096])
def test_chunks_do_not_change_the_result(max_atoms: int) -> None:
    found, whole = quench(max_atoms=max_atoms), quench()
    assert found.ids == whole.ids
    assert [p.verdict for p in found.pairs] == [p.verdict for p in whole.pairs]
    assert [p.steps for p in found.pairs] == [p.steps for p in whole.pairs]
    assert found.dq == pytest.approx(whole.dq, abs=1e-12)


def test_chunks_hold_at_most_so_many_atoms_and_at_least_one_structure() -> None:
    counting = Counting(Valleys())
    evaluate(counting, pairs_at(PLACES), PATH, rule="distance", max_atoms=5)
    assert max(counting.atoms) == 4
    alone = Counting(Valleys())
    evaluate(alone, pairs_at(PLACES), PATH, rule="distance", max_atoms=1)
    assert max(alone.atoms) == 2


def test_the_order_of_the_pairs_changes_only_the_order_of_the_results() -> None:
    pairs = pairs_at(PLACES)
    order = [4, 0, 3, 5, 1, 2]
    found = evaluate(Valleys(0.3), pairs.select(order), PATH, rule="quench", reference=Valleys())
    by_id = {pair.id: pair for pair in quench().pairs}
    assert found.ids == tuple(pairs.ids[k] for k in order)
    for pair in found.pairs:
        assert pair.verdict == by_id[pair.id].verdict
        assert pair.dq == pytest.approx(by_id[pair.id].dq, abs=1e-12)


def test_the_base_is_compared_structure_by_structure() -> None:
    base = quench(0.7)  # 0.2 and 0.6 end on the wrong side, the others 0.7 Å off
    assert base.right == (True, True, True, False, False, True)
    gain = quench(base=base).against_base
    assert gain is not None
    assert (gain.basins_base, gain.basins_gained, gain.basins_lost, gain.mcnemar_p) == (4, 1, 0, 1.0)
    root = math.sqrt(1.008)
    # four at 0.7 → 0.3, one at 1.3 → 1.7 on the wrong side of both, one at 1.3 → 0.3
    assert gain.share_improved == pytest.approx(5 / 6)
    assert gain.share_worsened == pytest.approx(1 / 6)
    assert gain.dq_improvement_median == pytest.approx(0.4 * root, abs=1e-4)
    assert gain.dq_improvement_mean == pytest.approx((4 * 0.4 - 0.4 + 1.0) / 6 * root, abs=1e-4)
    assert gain.dq_pairs == 6
    back = base.improvement_over(quench())
    assert (back.basins_gained, back.basins_lost) == (0, 1)
    assert (back.share_improved, back.share_worsened) == (gain.share_worsened, gain.share_improved)


def test_an_evaluation_beside_itself_gains_and_loses_nothing() -> None:
    one = quench()
    same = one.improvement_over(one)
    assert (same.share_improved, same.share_worsened, same.basins_gained, same.basins_lost) == (0, 0, 0, 0)
    assert (same.mcnemar_p, same.dq_improvement_interval) == (1.0, (0.0, 0.0))


def test_a_missing_dq_is_worse_than_any_number(mixed: Evaluation) -> None:
    whole = evaluate(Valleys(), pairs_at((0.5, 0.6, 0.7, 15.0, 0.8)), PATH, rule="quench", reference=Valleys())
    gain = whole.improvement_over(mixed)
    assert gain.share_improved >= 2 / 5
    assert gain.dq_pairs == 3


def test_a_base_on_other_pairs_or_by_another_rule_is_refused_before_anything_runs() -> None:
    base = quench()
    counting = Counting(Valleys())
    with pytest.raises(SettingsError, match=r"pair 'start-5' is only in the base's evaluation \(5 pairs here, 6"):
        evaluate(counting, pairs_at(PLACES[:5]), PATH, rule="quench", reference=Valleys(), base=base)
    with pytest.raises(SettingsError, match="pair 'start-6' is only in these pairs"):
        evaluate(counting, pairs_at((*PLACES, 0.9)), PATH, rule="quench", reference=Valleys(), base=base)
    with pytest.raises(SettingsError, match=r"counted by distance .* here and by quench"):
        evaluate(counting, pairs_at(PLACES), PATH, rule="distance", base=base)
    with pytest.raises(SettingsError, match="by one rule"):
        quench(rule=Quench(threshold=0.3), base=base)
    assert counting.atoms == []


def test_the_potential_is_evaluated_in_its_own_type_and_the_reference_in_double() -> None:
    single, reference = Valleys(0.3, dtype=torch.float32), Valleys()
    path = replace(PATH, fmax=1e-4)
    found = evaluate(single, pairs_at(PLACES), path, rule="quench", reference=reference)
    assert set(single.types) == {torch.float32}
    assert set(reference.types) == {torch.float64}
    assert found.right == quench().right


def test_the_potential_is_in_evaluation_mode_and_left_as_it_was() -> None:
    potential = Valleys(0.3)
    potential.train()
    evaluate(potential, pairs_at(PLACES), PATH, rule="distance")
    assert set(potential.modes) == {False}
    assert potential.training
    assert not potential._forward_pre_hooks


def test_a_potential_that_fails_is_left_as_it_was() -> None:
    class Failing(Valleys):
        def energy(self, structures: Structures, edges) -> torch.Tensor:
            raise PotentialError("no energy today")

    potential = Failing()
    with pytest.raises(PotentialError, match="no energy today"):
        evaluate(potential, pairs_at(PLACES), PATH, rule="distance")
    assert potential.training
    assert not potential._forward_pre_hooks


def test_force_calls_are_the_structures_evaluated_and_judging_is_not_counted() -> None:
    counting = Counting(Valleys(0.3))
    found = evaluate(counting, pairs_at(PLACES), PATH, rule="distance")
    assert found.force_calls == sum(counting.atoms) // 2
    itself = Valleys()
    assert evaluate(itself, pairs_at(PLACES), PATH, rule="quench", reference=itself).force_calls == (
        evaluate(itself, pairs_at(PLACES), PATH, rule="distance").force_calls
    )


def test_progress_only_grows_and_ends_with_all_pairs() -> None:
    seen: list[tuple[int, int]] = []
    quench(max_atoms=4, progress=lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {6}
    done = [d for d, _ in seen]
    assert done == sorted(done)
    assert done[-1] == 6


def test_quench_without_a_reference_is_refused_in_one_line() -> None:
    with pytest.raises(SettingsError, match=r"rule 'quench' .* none was given: .* or use rule 'distance'") as caught:
        quench(reference=None)
    assert "\n" not in str(caught.value)


def test_energies_may_be_compared_when_the_caller_says_so() -> None:
    lifted = pairs_at(PLACES)
    lifted = replace(lifted, energy_minimum=lifted.energy_minimum + 0.1)
    assert evaluate(Valleys(), lifted, PATH, rule="distance").basins_right == 6
    assert evaluate(Valleys(), lifted, PATH, rule=Distance(energies_compare=True)).basins_right == 0
    bare = replace(lifted, energy_minimum=None)
    with pytest.raises(SettingsError, match="the pairs have none"):
        evaluate(Valleys(), bare, PATH, rule=Distance(energies_compare=True))


def test_pairs_that_cannot_be_evaluated_are_refused() -> None:
    pairs = pairs_at(PLACES)
    with pytest.raises(StructureError, match="pair id 'start-1' occurs at 1 and 2"):
        evaluate(Valleys(), pairs.select([0, 1, 1]), PATH, rule="distance")
    with pytest.raises(SettingsError, match="max_atoms is 0"):
        evaluate(Valleys(), pairs, PATH, rule="distance", max_atoms=0)
    with pytest.raises(SettingsError, match="no pairs"):
        evaluate(Valleys(), pairs.select([]), PATH, rule="distance")
    neon = Structures.from_atoms(Atoms("Ne", positions=[[0, 0, 0]]))
    with pytest.raises(PotentialError, match="contains Ne"):
        evaluate(Valleys(), Pairs(neon, neon, ("a",)), PATH, rule="distance")
    grown = replace(pairs, minima=pairs.minima.with_cell(pairs.minima.cell + 0.01))
    with pytest.raises(StructureError, match=r"pair 'start-0': the cells .* differ by 0\.01 Å"):
        evaluate(Valleys(), grown, PATH, rule="distance")


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ((3.0, 1.0, 2.0), 0.5, 2.0),
        ((4.0, 1.0, 2.0, 3.0), 0.5, 2.5),
        ((1.0, None, 2.0), 0.5, 2.0),
        ((1.0, None, None), 0.5, None),
        ((1.0, 2.0, None, None), 0.5, None),
        ((1.0, 2.0, None), 0.5, 2.0),
        ((1.0, 2.0, None), 1.0, None),
        ((None,), 0.0, None),
        ((), 0.5, None),
    ],
)
def test_a_quantile_that_rests_on_a_missing_value_is_missing(values, share: float, expected) -> None:
    assert quantile_with_missing(values, share) == expected
