"""Plain and recomputed unrolling give the same bits; a structure that explodes harms only itself."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from ase.build import bulk
from tests.gradients.surfaces import Morse

from thalweg.errors import SettingsError
from thalweg.gradients import Split, Unrolled
from thalweg.gradients.binomial import fewest_forward_steps
from thalweg.potentials.painn import PaiNN
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relaxation.path import Path
from thalweg.relaxation.update import Descent
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges


def _starts(symbol: str, count: int, dtype: torch.dtype) -> Structures:
    frames = []
    for seed in range(count):
        frame = bulk(
            symbol, "zincblende" if symbol == "CdTe" else "diamond", a=6.2 if symbol == "CdTe" else 5.43, cubic=True
        )
        frame.rattle(0.15, seed=seed)
        frames.append(frame)
    return Structures.from_atoms(frames, dtype=dtype)


def _potential(name: str):
    if name == "morse":
        return Morse(), "CdTe"
    if name == "painn":
        return PaiNN.from_settings({"species": [14], "channels": 8, "layers": 2, "cutoff": 4.0}), "Si"
    return StillingerWeber.from_published("Si"), "Si"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["morse", "stillinger-weber", "painn"])
def test_recomputed_equals_plain_bit_for_bit(name, dtype):
    potential, symbol = _potential(name)
    potential = potential.to(dtype)
    starts = _starts(symbol, 3, dtype)
    path = Path(Descent(alpha=0.03), steps=12)
    found = []
    for recompute in (False, True):
        potential.zero_grad(set_to_none=True)
        guided = Unrolled(recompute=recompute).differentiate(potential, starts, path).guided
        (guided.positions - starts.positions).square().sum().sqrt().backward()
        found.append((guided.positions.detach(), [p.grad for p in potential.parameters() if p.requires_grad]))
    assert torch.equal(found[0][0], found[1][0])
    for plain, recomputed in zip(found[0][1], found[1][1], strict=True):
        assert (plain is None) == (recomputed is None)  # a shift of the energy has no force to act through
        assert plain is None or torch.equal(plain, recomputed)
    assert sum(plain is not None for plain in found[0][1]) >= 3


class Counting(Descent):
    """The update, counting how often it is made."""

    made: ClassVar[list[int]] = []

    def move(self, rows: torch.Tensor, forces: torch.Tensor) -> torch.Tensor:
        Counting.made.append(1)
        return super().move(rows, forces)


def _gradient(route: Unrolled, name: str, path: Path) -> list[torch.Tensor | None]:
    potential, symbol = _potential(name)
    starts = _starts(symbol, 1, next(potential.parameters()).dtype)
    guided = route.differentiate(potential, starts, path).guided
    (guided.positions - starts.positions).square().sum().sqrt().backward()
    return [guided.positions.detach(), *(p.grad for p in potential.parameters() if p.requires_grad)]


@pytest.mark.parametrize("steps", [1, 2, 7, 75])
def test_any_number_of_kept_states_gives_the_same_bits_in_the_fewest_steps(steps):
    path = Path(Counting(alpha=0.02), steps=steps)
    name = "stillinger-weber" if steps == 75 else "painn"
    expected = _gradient(Unrolled(recompute=False), name, path)
    for states in (None, 1, 2, 3, 9, steps, 100):
        if steps == 75 and states == 1:
            continue  # 2850 steps
        Counting.made.clear()
        found = _gradient(Unrolled(states=states), name, path)
        for a, b in zip(expected, found, strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.equal(a, b)
        held = steps if states is None else states
        assert len(Counting.made) == fewest_forward_steps(steps + 1, held) + steps


def test_a_step_made_from_the_wrong_state_would_show():
    path = Path(Descent(alpha=0.02), steps=7)
    expected = _gradient(Unrolled(states=2), "stillinger-weber", path)
    shorter = _gradient(Unrolled(horizon=6, states=2), "stillinger-weber", path)
    assert not torch.equal(expected[1], shorter[1])


@pytest.mark.parametrize("route", [Unrolled, Split])
def test_kept_states_that_cannot_be_are_refused(route):
    with pytest.raises(SettingsError, match=r"route\.states is 0: allowed is 1 or more"):
        route(states=0)
    with pytest.raises(SettingsError, match=r"route\.states is 4, but route\.recompute is false"):
        route(recompute=False, states=4)


class Cliff(Morse):
    """Morse with an energy that is not a number once two atoms come closer than 1.5 Å."""

    def energy(self, structures: Structures, edges: Edges) -> torch.Tensor:
        r = edges.vectors(structures).norm(dim=1)
        close = (r < 1.5).nonzero().squeeze(1)
        fall = r.new_zeros(len(structures)).index_add(0, structures.owner[edges.centre[close]], r[close] * torch.nan)
        return super().energy(structures, edges) + fall


@pytest.mark.parametrize("recompute", [False, True])
def test_a_structure_that_explodes_is_left_out_and_harms_no_other(recompute):
    starts = _starts("CdTe", 2, torch.float64)
    overlapping = starts.positions.clone()
    overlapping[1] = overlapping[0] + 0.8
    sick = Structures.concatenate([starts.with_positions(overlapping).select([0]), starts.select([1])])
    path = Path(Descent(alpha=0.03), steps=8)
    gradients = []
    for batch, kept in ((sick, [False, True]), (starts.select([1]), [True])):
        potential = Cliff()
        result = Unrolled(recompute=recompute).differentiate(potential, batch, path)
        assert result.guidance_counts().tolist() == kept
        inside = torch.tensor(kept)[batch.owner]
        torch.where(inside[:, None], result.guided.positions, 0.0).square().sum().backward()
        gradients.append([p.grad for p in potential.parameters()])
        assert [c.took_part for c in result.certificates] == kept
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("route", [Split(horizon=9), Unrolled(horizon=9), Unrolled(horizon=0)])
def test_a_horizon_outside_the_updates_of_the_path_is_refused_in_one_line(route):
    with pytest.raises(SettingsError, match=r"horizon is \d, but the relaxation makes 8 updates: allowed is 1 to 8"):
        route.differentiate(Morse(), _starts("CdTe", 1, torch.float64), Path(Descent(alpha=0.03), steps=8))
