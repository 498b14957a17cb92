"""The backbones of the demonstration: settings that stand, sizes that compare, one budget for all."""

from __future__ import annotations

import pytest

from thalweg.errors import SettingsError
from thalweg.evaluation.backbones import BACKBONES, backbone_overrides
from thalweg.evaluation.demo import DemoSettings
from thalweg.potentials import build_potential
from thalweg.training.loading import load_settings

COUNTS = {"painn": 20_129, "equivariant": 19_369, "transformer": 19_539}


@pytest.mark.parametrize("kind", BACKBONES)
def test_each_backbone_has_its_size_and_the_budget_of_all(kind: str) -> None:
    told = load_settings(DemoSettings, None, backbone_overrides(kind))
    assert told.base.potential.kind == kind
    potential = build_potential(kind, {"species": [14], **told.base.potential.values})
    assert sum(p.numel() for p in potential.parameters()) == COUNTS[kind]
    plain = DemoSettings()
    budgets = [
        (s.frames, s.pairs, s.held_out, s.base.optimiser.updates, s.base.optimiser.batch, s.tune.optimiser)
        for s in (told, plain)
    ]
    assert budgets[0] == budgets[1]
    assert told.tune.relaxation.alpha == plain.tune.relaxation.alpha
    assert told.tune.relaxation.max_steps == plain.tune.relaxation.max_steps


def test_painn_is_the_demonstration_as_it_stands() -> None:
    assert load_settings(DemoSettings, None, backbone_overrides("painn")) == DemoSettings()


def test_another_kind_is_refused_in_one_line() -> None:
    with pytest.raises(SettingsError, match=r"did you mean 'equivariant'.*base\.potential\.kind=KIND") as caught:
        backbone_overrides("equivarant")
    assert "\n" not in str(caught.value)
