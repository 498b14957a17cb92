"""The guard of α and the penalty on curvatures: what they do to a run, that runs resume, and the penalty's gradient."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training import problems

from thalweg.errors import SettingsError
from thalweg.gradients.differences import Comparison, compare
from thalweg.potentials.files import load_potential
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relaxation import largest_curvature
from thalweg.structures.pairs import Pairs
from thalweg.training.loading import load_settings
from thalweg.training.processes import Report
from thalweg.training.run import RunResult
from thalweg.training.settings import RelaxationSettings, StabilitySettings, TuneSettings
from thalweg.training.stability import Penalised, add_penalty, penalty_record
from thalweg.training.tuning import tune

ALPHA = 0.09
"""α λ_max of the base is 3.0 with it."""
GUARD = ("stability.guard=lower", "stability_every=3")
PENALTY = ("stability={penalty: 10.0, penalty_limit: 1.5}", "stability_every=3")
OPTIONS = {
    "none": ("stability_every=3",),
    "guard": GUARD,
    "penalty": PENALTY,
    "both": ("stability={penalty: 10.0, penalty_limit: 1.2, guard: lower}", "stability_every=3"),
}


class StoppedError(Exception):
    """Stands for a kill between two updates."""


@pytest.fixture(scope="module")
def data() -> Pairs:
    return problems.pairs(6, 1)


def told(out: Path, *overrides: str, alpha: float = ALPHA, updates: int = 7) -> TuneSettings:
    optimiser = f"optimiser={{updates: {updates}, batch: 2, warmup: 0, learning_rate: 2e-2, schedule: constant}}"
    fast = ("route={kind: unrolled}", "relaxation.steps=5", "relaxation.finish=fire", "validate_every=7")
    return problems.settings(out, f"relaxation.alpha={alpha}", optimiser, *fast, *overrides)


def lines(result: RunResult) -> list[dict[str, Any]]:
    return [line for line in problems.records(result.folder / "metrics.jsonl") if "loss" in line]


def quiet(settings: TuneSettings, data: Pairs, stop: int | None = None) -> RunResult:
    """Tune without a word about α, which is too large on purpose; stop after an update if told to."""

    def progress(report: Report) -> None:
        if report.update == stop:
            raise StoppedError

    with pytest.warns(RuntimeWarning, match="α λ_max"):
        return tune(settings, problems.base(), data, progress=progress)


def certified(limit: float, **changed: float) -> tuple[Comparison, Penalised]:
    """Compare the gradient that the penalty adds with central differences of P, whose λ_max are found tightly."""
    potential, minima, alpha = problems.base(), problems.pairs(3, 1).minima, 0.05
    settings = StabilitySettings(penalty=7.0, penalty_limit=limit)
    parameters = list(potential.parameters())
    done = add_penalty(potential, minima, alpha, settings, total=3, seed=0)
    stream = torch.Generator().manual_seed(3)
    direction = [torch.randn(p.shape, generator=stream, dtype=p.dtype) for p in parameters]
    analytic = sum(
        float((torch.zeros_like(p) if p.grad is None else p.grad).mul(d).sum())
        for p, d in zip(parameters, direction, strict=True)
    )

    def value() -> float:
        products = changed.get("alpha", alpha) * largest_curvature(potential, minima, tolerance=1e-11, max_products=90)
        return float((7.0 / 3 * (products - limit).clamp(min=0).square()).sum())

    with torch.no_grad():
        return compare(value, parameters, direction, analytic, relative=2e-3, steps=(1e-3, 3e-4, 1e-4, 3e-5)), done


def test_the_penalty_adds_the_gradient_of_what_it_says() -> None:
    """To 0.2 %: the eigenvectors are as good as the run's own tolerance of 2 % makes them."""
    found, done = certified(1.0)
    assert found.passed, found
    assert done.above == 3
    assert abs(found.numeric) > 1


def test_the_gradient_of_another_penalty_is_refused() -> None:
    """The negative control of the test above: the differences are taken at an α one percent larger."""
    found, _ = certified(1.0, alpha=0.0505)
    assert not found.passed


def test_below_its_limit_the_penalty_adds_nothing() -> None:
    potential, minima = problems.base(), problems.pairs(2, 1).minima
    found = add_penalty(potential, minima, 0.05, StabilitySettings(penalty=7.0, penalty_limit=1.9), total=2, seed=0)
    assert (found.value, found.above, found.gradient_norm) == (0.0, 0, 0.0)
    assert 1.4 < found.product < 1.9
    assert all(p.grad is None for p in potential.parameters())


def test_a_gradient_that_is_already_there_is_added_to() -> None:
    potential, minima = problems.base(), problems.pairs(2, 1).minima
    settings = StabilitySettings(penalty=7.0, penalty_limit=1.0)
    once = add_penalty(potential, minima, 0.05, settings, total=2, seed=0)
    norm = torch.nn.utils.get_total_norm([p.grad for p in potential.parameters() if p.grad is not None])
    assert float(norm) == pytest.approx(once.gradient_norm, rel=1e-12)
    add_penalty(potential, minima, 0.05, settings, total=2, seed=0)
    norm = torch.nn.utils.get_total_norm([p.grad for p in potential.parameters() if p.grad is not None])
    assert float(norm) == pytest.approx(2 * once.gradient_norm, rel=1e-12)


def test_the_penalty_brings_the_potential_back_under_the_limit_and_keeps_alpha(tmp_path: Path, data: Pairs) -> None:
    free = quiet(told(tmp_path / "free", "stability_every=3", updates=12), data)
    held = quiet(told(tmp_path / "held", *PENALTY, updates=12), data)
    assert held.results["alpha"] == free.results["alpha"] == ALPHA
    first, last = lines(held)[0], lines(held)[-1]
    assert first["penalised"] == 2
    assert first["penalty_product"] > 2.5
    assert first["penalty"] > 0
    assert last["alpha_curvature"] < 1.8 < 2 < lines(free)[-1]["alpha_curvature"]
    assert {line["penalty"] for line in lines(free)} == {None}


def test_the_guard_lowers_alpha_once_and_for_all_and_tells(tmp_path: Path, data: Pairs) -> None:
    settings = told(tmp_path / "run", *GUARD, "relaxation.alpha=0.05", "stability.guard_limit=1.55", alpha=0.05)
    with pytest.warns(RuntimeWarning, match=r"above stability\.guard_limit \(1\.55\): α is lowered from 0\.05 to"):
        result = tune(settings, problems.base(), data)
    changes, found = result.results["alpha_changes"], result.results["alpha"]
    assert changes
    assert changes[-1]["alpha"] == found < 0.05
    assert found * changes[-1]["largest_curvature"] == pytest.approx(1.5, rel=1e-12)
    stood = {0: 0.05, **{change["update"]: change["alpha"] for change in changes}}
    for line in lines(result):
        before = max(update for update in stood if update < line["update"])
        assert line["alpha"] == stood[before]
        assert (line["warning"] is not None) == (line["update"] in stood)


def test_an_alpha_too_large_for_the_base_is_lowered_before_the_first_update(tmp_path: Path, data: Pairs) -> None:
    result = quiet(told(tmp_path, *GUARD, updates=1), data)
    first = result.results["alpha_changes"][0]
    assert first["update"] == 0
    assert lines(result)[0]["alpha"] == first["alpha"] == pytest.approx(1.5 / 33.7, rel=0.02)


def test_the_path_takes_the_alpha_that_the_run_came_to() -> None:
    assert RelaxationSettings(alpha=0.05).path(0.03).update.alpha == 0.03
    assert RelaxationSettings(alpha=0.05).path().update.alpha == 0.05


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Pairs) -> dict[str, RunResult]:
    """Undisturbed runs by their options."""
    root = tmp_path_factory.mktemp("whole")
    return {name: quiet(told(root / name, *options), data) for name, options in OPTIONS.items()}


@pytest.mark.parametrize("name", ["guard", "penalty", "both"])
def test_a_stopped_run_goes_on_bit_for_bit(name: str, tmp_path: Path, data: Pairs, whole: dict[str, RunResult]) -> None:
    options = OPTIONS[name]
    cut = told(tmp_path / "cut", *options, "checkpoint_every=2")
    with pytest.raises(StoppedError):
        quiet(cut, data, stop=5)
    resumed = tune(cut, problems.base(), data)
    assert resumed.model.read_bytes() == whole[name].model.read_bytes()
    for key in ("alpha", "alpha_changes", "unstable_checks"):
        assert resumed.results[key] == whole[name].results[key]
    for ours, theirs in zip(lines(resumed), lines(whole[name]), strict=True):
        assert {k: v for k, v in ours.items() if k not in ("seconds", "peak_bytes")} == {
            k: v for k, v in theirs.items() if k not in ("seconds", "peak_bytes")
        }


def test_the_options_change_what_comes_out(whole: dict[str, RunResult]) -> None:
    """The negative control of the test above: it could not pass by the options being without effect."""
    assert len({run.model.read_bytes() for run in whole.values()}) == 4


def test_the_penalty_steps_where_no_relaxation_takes_part(tmp_path: Path, data: Pairs) -> None:
    stuck = ("route={kind: implicit}", "relaxation={steps: 1, max_steps: 0, alpha: 0.09}")
    result = quiet(told(tmp_path / "held", *PENALTY, *stuck, updates=2), data)
    assert result.results["skipped_updates"] == 0
    assert [line["took_part"] for line in lines(result)] == [0, 0]
    tuned, base = load_potential(result.model), problems.base()
    minima = data.minima.select([0, 1])
    assert isinstance(tuned, StillingerWeber)
    assert (largest_curvature(tuned, minima) < largest_curvature(base, minima)).all()
    free = quiet(told(tmp_path / "free", *stuck, updates=2), data)
    assert free.results["skipped_updates"] == 2


def test_shares_of_several_processes_add_up() -> None:
    record = penalty_record([Penalised(1.0, 1.7, 1, 3.0), Penalised(0.5, 2.1, 2, 1.0)])
    assert record == {"penalty": 1.5, "penalised": 3, "penalty_product": 2.1, "penalty_gradient_norm": 4.0}
    lost = penalty_record([Penalised(1.0, math.nan, 1, 3.0), Penalised(0.5, 2.1, 2, 1.0)])
    assert math.isnan(lost["penalty_product"])
    assert set(penalty_record([]).values()) == {None}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stability.penalty=-1", "stability.penalty is -1"),
        ("stability.penalty=.inf", "stability.penalty is inf"),
        ("stability.penalty_limit=2", "stability.penalty_limit is 2: allowed is below 2"),
        ("stability.penalty_minima=0", "stability.penalty_minima is 0: allowed is 1 or more"),
        ("stability.guard=stop", "stability.guard is 'stop'"),
        ("stability.guard_limit=2.5", "stability.guard_limit is 2.5"),
        ("stability.guard_target=1.9", "guard_target is 1.9: allowed is a value below guard_limit (1.8)"),
        ("stability.gaurd=lower", "stability.gaurd is not a setting; did you mean 'guard'?"),
    ],
)
def test_bad_settings_are_refused_in_one_line(override: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(TuneSettings, None, [override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
