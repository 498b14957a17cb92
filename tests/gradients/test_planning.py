"""The planner's bytes are those that a gradient then keeps, and what it picks fits the budget."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from thalweg.errors import SettingsError
from thalweg.gradients import Implicit, Phantom, Route, Split, Unrolled
from thalweg.gradients.planning import Costs, Forecast, measure_costs, plan_memory, saved_bytes
from thalweg.potentials.contract import Potential
from thalweg.potentials.painn import PaiNN
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relaxation.path import Path
from thalweg.relaxation.update import Descent
from thalweg.structures.batch import Structures

PATH = Path(Descent(alpha=0.03), steps=75)
HORIZONS = (10, 20, 30, 75)
SHORT = Path(Descent(alpha=0.03), steps=12)


def _potential(name: str) -> Potential:
    if name == "painn":
        return PaiNN.from_settings({"species": [14], "channels": 4, "layers": 2, "cutoff": 4.0})
    return StillingerWeber.from_published("Si")


def _starts(silicon8: Structures, potential: Potential) -> Structures:
    """One structure, rattled by some 0.2 Å, so that neighbours change on the way."""
    starts = silicon8.to(dtype=next(potential.parameters()).dtype)
    return starts.with_positions(starts.positions + 0.2 * torch.randn_like(starts.positions))


@pytest.fixture(scope="module")
def costs() -> Costs:
    """Costs in round figures, to see what is made of them."""
    return Costs(
        graphs=(1000,) * 76,
        lists=(3,) * 76,
        rest=100,
        state=10,
        adjoint=2000,
        plain_seconds=(0.3, 0.3),
        recomputed_seconds=(0.4, 0.4),
        free_seconds=0.1,
        relaxation_seconds=10.0,
        shortcut_seconds=3.0,
        adjoint_seconds=5.0,
    )


@pytest.mark.parametrize("name", ["painn", "stillinger-weber"])
def test_bytes_are_foretold_within_a_fifth(name, silicon8):
    potential = _potential(name)
    starts = _starts(silicon8, potential)
    found = measure_costs(potential, starts, PATH, equilibrium=False)
    for route in [Unrolled(k, recompute) for k in HORIZONS for recompute in (False, True)]:
        measured = saved_bytes(potential, starts, PATH, route)
        assert found.forecast(route, PATH).saved_bytes == pytest.approx(measured, rel=0.2)
    # a forecast that forgot the horizon would be out by far
    measured = saved_bytes(potential, starts, PATH, Unrolled(10, recompute=False))
    assert found.forecast(Unrolled(20, recompute=False), PATH).saved_bytes > 1.5 * measured


def test_bytes_of_routes_with_an_equilibrium_are_foretold_within_a_fifth(silicon8):
    potential = _potential("stillinger-weber")
    starts = _starts(silicon8, potential)
    found = measure_costs(potential, starts, PATH)
    for route in (Implicit(), Phantom(), Split(20), Split(20, recompute=False), Split(20, states=3)):
        measured = saved_bytes(potential, starts, PATH, route)
        assert found.forecast(route, PATH).saved_bytes == pytest.approx(measured, rel=0.2)


def test_costs_add_up(costs):
    def cost(route: Route) -> tuple[int, float]:
        found: Forecast = costs.forecast(route, PATH)
        return found.saved_bytes, pytest.approx(found.seconds)

    assert cost(Implicit()) == (2000, 15.0)
    assert cost(Unrolled(recompute=False)) == (1100 + 74 * 1000, 75 * 0.3)
    assert cost(Unrolled()) == (1100 + 75 * 13, 75 * 0.4)
    # 5 states take 220 forward steps, 145 more than the 75 of keeping all, of 0.1 s each
    assert cost(Unrolled(states=5)) == (1100 + 5 * 10, 75 * 0.4 + 145 * 0.1)
    assert cost(Split(20, recompute=False)) == (1100 + 19 * 1000 + 2000, 20 * 0.3 + (10 - 20 * 0.1) + 5)
    assert cost(Split(20)) == (2000 + 20 * 13, 20 * 0.4 + (10 - 20 * 0.1) + 5)
    assert cost(Split(20, shortcut=True)) == (2000 + 20 * 13, 20 * 0.4 + 3 + 5)


@pytest.mark.parametrize(
    ("budget", "recompute", "states", "said"),
    [
        (100, False, None, "stored whole: "),
        (0.3, True, None, "; stored whole it would keep "),
        (1e-5, True, None, "which does not fit"),
    ],
)
def test_the_fastest_way_that_fits_is_taken_and_said_in_one_line(budget, recompute, states, said, silicon8):
    potential = _potential("painn")
    starts = _starts(silicon8, potential)
    plan = plan_memory(potential, starts, SHORT, Unrolled(), budget=budget)
    assert all(p.grad is None for p in potential.parameters())
    assert plan.chosen.route == Unrolled(recompute=recompute, states=states)
    assert plan.fits == (saved_bytes(potential, starts, SHORT, plan.chosen.route) <= budget * 1e6)
    assert said in plan.sentence
    assert "\n" not in plan.sentence


def test_a_budget_below_all_states_takes_fewer(silicon8):
    potential = _potential("stillinger-weber")
    starts = _starts(silicon8, potential)
    all_states = saved_bytes(potential, starts, SHORT, Unrolled())
    plan = plan_memory(potential, starts, SHORT, Unrolled(), budget=(all_states - 800) / 1e6)
    assert plan.fits
    assert plan.chosen.route.states is not None
    assert saved_bytes(potential, starts, SHORT, plan.chosen.route) <= plan.budget
    assert f"recomputed from {plan.chosen.route.states} states" in plan.sentence


def test_gradients_that_were_there_are_given_back(silicon8):
    potential = _potential("stillinger-weber")
    for p in potential.parameters():
        p.grad = torch.full_like(p, 7.0)
    measure_costs(potential, _starts(silicon8, potential), SHORT, equilibrium=False)
    assert all(bool((p.grad == 7.0).all()) for p in potential.parameters())


def test_what_cannot_be_planned_is_refused(silicon8, costs):
    potential = _potential("stillinger-weber")
    starts = _starts(silicon8, potential)
    with pytest.raises(SettingsError, match=r"budget is 0: allowed are MB above 0"):
        plan_memory(potential, starts, SHORT, Unrolled(), budget=0)
    with pytest.raises(SettingsError, match=r"no structures to plan for"):
        plan_memory(potential, starts.select([]), SHORT, Unrolled(), budget=10)
    with pytest.raises(SettingsError, match=r"horizon is 13, but the relaxation makes 12"):
        costs.forecast(Unrolled(13), SHORT)
    with pytest.raises(SettingsError, match=r"horizon is 20, but the relaxation makes 7"):
        costs.forecast(Split(20), replace(SHORT, steps=7))
