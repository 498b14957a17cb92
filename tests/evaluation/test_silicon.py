"""Evaluation on real defects: the Stillinger–Weber surface, itself and with its parameters changed."""

from __future__ import annotations

import copy

import pytest
import torch

from thalweg.evaluation import evaluate
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relaxation import Descent, Path
from thalweg.structures.pairs import Pairs
from thalweg.testbeds.silicon import Silicon

PATH = Path(Descent(alpha=0.03))


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return Silicon().make(8, seed=2)


@pytest.fixture(scope="module")
def surface() -> StillingerWeber:
    return Silicon().reference()


def changed(surface: StillingerWeber, by: float) -> StillingerWeber:
    """Return the surface with every logarithm of a parameter moved by a normal deviate of this size."""
    other, stream = copy.deepcopy(surface), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=stream, dtype=parameter.dtype))
    return other


@pytest.mark.parametrize("rule", ["quench", "distance"])
def test_the_reference_finds_its_own_minima_and_a_changed_surface_does_not(
    rule: str, surface: StillingerWeber, pairs: Pairs
) -> None:
    itself = evaluate(surface, pairs, PATH, rule=rule, reference=surface)
    assert itself.basins_right == len(pairs)
    assert set(itself.basins_by_threshold.values()) == {len(pairs)}
    other = evaluate(changed(surface, 0.1), pairs, PATH, rule=rule, reference=surface, base=itself)
    assert other.basins_right < len(pairs)
    assert other.against_base is not None
    assert other.against_base.basins_lost == len(pairs) - other.basins_right


def test_chunks_do_not_change_verdicts_in_single_precision(surface: StillingerWeber, pairs: Pairs) -> None:
    single = changed(surface, 0.03).to(torch.float32)
    whole, cut = (
        evaluate(single, pairs, PATH, rule="quench", reference=surface, max_atoms=atoms) for atoms in (4096, 200)
    )
    assert [p.verdict for p in whole.pairs] == [p.verdict for p in cut.pairs]
    assert whole.dq == pytest.approx(cut.dq, abs=0.02)
