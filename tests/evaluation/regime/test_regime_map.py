"""The whole map on two valleys: yes where there is something to gain, no with the coordinate that is off, else open."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tests.evaluation.surfaces import Valleys, at, pairs_at

from thalweg.errors import PotentialError, SettingsError, StructureError
from thalweg.evaluation.regime import Answer, MapLimits, MapSettings, RegimeMap, measure_map
from thalweg.structures.pairs import Pairs
from thalweg.training.settings import RelaxationSettings

BETWEEN = [0.02 + 0.028 * k for k in range(16)]
"""Starts between the ridge of the reference, 0, and that of a potential shifted by 0.5: it takes them the wrong way."""

SHIFTED = Valleys(0.5)
TOLD = MapSettings(
    relaxation=RelaxationSettings(alpha=0.02, steps=60, fmax=1e-4),
    limits=MapLimits(direction=-0.999999),  # between two ridges the forces of the two point opposite ways
    valley_deviation=0.8,
    batch=2,
)


def measured(potential: Valleys, pairs: Pairs, told: MapSettings = TOLD, **options: object) -> RegimeMap:
    return measure_map(potential, pairs, told, **{"reference": Valleys(), **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def wrong_base() -> RegimeMap:
    return measured(SHIFTED, pairs_at(BETWEEN), budget=1.0)


def test_a_base_that_lands_wrong_early_on_has_headroom_and_a_horizon(wrong_base):
    assert [c.answer for c in wrong_base.coordinates] == [Answer.YES] * 4
    assert wrong_base.headroom is Answer.YES
    landing, holding = wrong_base.coordinates[2].measurement, [d.holds for d in wrong_base.decisions]
    assert landing.figure.value == sum(holding) / 16
    assert not all(holding)  # the start nearest to the ridge
    assert {f.name: f.value for f in landing.beside}["wrong, held or not"] == 1
    steps = sorted(d.departure for d in wrong_base.decisions)
    assert wrong_base.suggestion is not None
    assert wrong_base.suggestion.horizon == steps[7]  # half of 16
    assert 0 < wrong_base.suggestion.recomputed_bytes < wrong_base.suggestion.stored_bytes
    assert "within 1 MB" in wrong_base.suggestion.plan


def test_the_record_reads_back_and_says_the_verdict(wrong_base):
    record = json.loads(json.dumps(wrong_base.record()))
    assert record["headroom"] == "yes"
    assert RegimeMap.from_record(record) == wrong_base
    with pytest.raises(SettingsError, match="no 'reach'"):
        RegimeMap.from_record({key: value for key, value in record.items() if key != "reach"})
    with pytest.raises(SettingsError, match="schema 7"):
        RegimeMap.from_record(record | {"schema": 7})


def test_forces_that_point_elsewhere_are_off_by_the_default_limit():
    told = TOLD.model_copy(update={"limits": MapLimits()})
    found = measured(SHIFTED, pairs_at(BETWEEN[:10]), told)
    assert (found.headroom, found.off) == (Answer.NO, ("forces right",))


def test_a_base_that_is_right_already_has_none():
    found = measured(Valleys(), pairs_at([x for x in BETWEEN for _ in "abc"][:48]), count=48)
    assert (found.headroom, found.off) == (Answer.NO, ("base lands wrong",))
    assert found.suggestion is None


def test_a_single_valley_within_reach_has_none():
    told = TOLD.model_copy(update={"valley_deviation": 0.001})
    found = measured(SHIFTED, pairs_at(BETWEEN), told)
    assert (found.headroom, found.off) == (Answer.NO, ("many valleys",))


def test_decisions_that_fall_outside_what_fits_have_none():
    assert measured(SHIFTED, pairs_at(BETWEEN), budget=1e-5).off == ("short relaxation",)
    told = TOLD.model_copy(update={"relaxation": RelaxationSettings(alpha=0.001, steps=5, fmax=1e-4)})
    found = measured(SHIFTED, pairs_at(BETWEEN[4:]), told)
    assert found.off == ("short relaxation",)
    assert found.suggestion is None


def test_few_pairs_leave_it_open():
    found = measured(SHIFTED, pairs_at(BETWEEN[:4]))
    assert found.headroom is Answer.OPEN
    assert "short relaxation" in found.unsettled
    assert found.off == ()


def test_with_end_points_only_it_says_what_cannot_be_measured():
    found = measured(SHIFTED, pairs_at(BETWEEN), reference=None)
    assert found.rule == "distance"
    assert [c.name for c in found.coordinates if c.answer is Answer.UNMEASURED] == ["forces right"]
    assert found.headroom is Answer.OPEN
    assert "--reference" in (found.coordinates[0].measurement.why_not or "")
    assert "by the potential itself" in found.coordinates[1].measurement.how
    assert len(found.decisions) == 16


def test_with_end_points_and_forces_at_the_starts_all_four_are_measured():
    pairs = pairs_at(BETWEEN[:8])
    told = replace(pairs, forces_start=Valleys()(pairs.starts).forces)
    found = measured(SHIFTED, told, reference=None)
    assert "at the starts alone" in found.coordinates[0].measurement.how
    assert Answer.UNMEASURED not in [c.answer for c in found.coordinates]


def test_the_map_does_not_depend_on_how_many_go_at_once_and_leaves_the_potential_as_it_was():
    potential = Valleys(0.5).train()
    pairs = pairs_at(BETWEEN[:6])
    whole, split = measured(potential, pairs), measured(potential, pairs, TOLD.model_copy(update={"max_atoms": 5}))
    assert whole.decisions == split.decisions
    for one, other in zip(whole.coordinates, split.coordinates, strict=True):
        assert one.measurement.figure.value == pytest.approx(other.measurement.figure.value, rel=1e-6)
    assert potential.training
    assert potential.shift.grad is None


def test_alpha_is_measured_where_it_is_left_open():
    told = TOLD.model_copy(update={"relaxation": RelaxationSettings(steps=20)})
    found = measured(SHIFTED, pairs_at(BETWEEN[:2]), told)
    assert found.alpha == pytest.approx(0.1)  # 1.5/λ_max with λ_max = 8 is more than the largest it takes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "count is 0: allowed is 1 pair or more"),
        ({"budget": -1.0}, "budget is -1.0: allowed are MB above 0"),
        ({"budget": float("nan")}, "budget is nan"),
    ],
)
def test_bad_input_is_refused_before_anything_is_run(options, words):
    with pytest.raises(SettingsError, match=words):
        measured(SHIFTED, pairs_at([0.1]), **options)
    assert torch.isfinite(SHIFTED.shift)


def test_pairs_that_cannot_be_measured_are_refused():
    twice = pairs_at([0.1, 0.1])
    same = Pairs(at([0.1]).select([0, 0]), at([1.0]).select([0, 0]), twice.parents)
    with pytest.raises(StructureError, match="occurs at 0 and 1"):
        measured(SHIFTED, same)
    with pytest.raises(SettingsError, match="there are no pairs"):
        measured(SHIFTED, twice.select([]))
    strange = Valleys()
    strange.species = (2,)
    with pytest.raises(PotentialError, match="contains H"):
        measured(SHIFTED, twice, reference=strange)
