from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file
from tests.training import problems

from thalweg.errors import CheckpointError, PotentialError, SettingsError, StructureError
from thalweg.potentials.files import load_potential
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.structures.pairs import Pairs
from thalweg.training.processes import Report
from thalweg.training.run import RunResult
from thalweg.training.scoring import Reached, figures, reach
from thalweg.training.tuning import tune

ROOT = Path(__file__).parents[2]


class StoppedError(Exception):
    """Stands for a kill between two updates."""


@pytest.fixture(scope="module")
def data() -> tuple[Pairs, Pairs]:
    return problems.pairs(6, 1), problems.pairs(3, 2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: tuple[Pairs, Pairs]) -> RunResult:
    """An undisturbed run."""
    return tune(problems.settings(tmp_path_factory.mktemp("whole") / "run"), problems.base(), *data)


def lines(result: RunResult, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return problems.records(result.folder / name)


def stop_at(update: int):
    def progress(report: Report) -> None:
        if report.update == update:
            raise StoppedError

    return progress


def test_tuning_brings_the_loss_down_on_fixed_pairs(tmp_path: Path, data: tuple[Pairs, Pairs]) -> None:
    told = problems.settings(
        tmp_path,
        "route={kind: implicit}",
        "optimiser={updates: 15, batch: 3, warmup: 2, learning_rate: 1e-2}",
        "validate_every=15",
    )
    result = tune(told, problems.base(), data[0].select([0, 1, 2]))
    losses = [float(line["equilibrium"]) for line in lines(result)]
    assert losses[-1] < 0.35 * losses[0]


def test_every_update_is_recorded_with_what_its_gradient_is_worth(whole: RunResult) -> None:
    metrics = lines(whole)
    assert [line["update"] for line in metrics] == list(range(9))
    for line in metrics[1:]:
        assert line["took_part"] + sum(line["reasons"].values()) == line["structures"] == 3
        assert line["worst_residual"] <= 1e-2
        assert line["gradient_norm"] > 0
        assert line["seconds"] > 0
    assert [line["update"] for line in metrics if line["validation"] is not None] == [0, 3, 6, 8]
    assert [line["update"] for line in metrics[1:] if line["alpha_curvature"] is not None] == [1, 5, 8]
    assert [line["update"] for line in metrics[1:] if line["saved_bytes"] is not None] == [2]
    certificates = lines(whole, "certificates.jsonl")
    assert [c["update"] for c in certificates] == [u for u in range(1, 9) for _ in range(3)]
    assert all(c["outcome"] == "converged" and c["adjoint_iterations"] > 0 for c in certificates)


def test_the_results_say_what_came_out_and_the_models_load(whole: RunResult, data: tuple[Pairs, Pairs]) -> None:
    results = json.loads((whole.folder / "results.json").read_text())
    assert results == whole.results
    scores = {x["update"]: x["validation"]["score"] for x in lines(whole) if x["validation"] is not None}
    assert results["best_score"] == min(scores.values()) == scores[results["best_update"]]
    assert results["alpha"] == pytest.approx(1.5 / 33.7, rel=0.02)  # λ_max of the base at the two minima
    best = load_potential(whole.best)
    told = problems.settings(Path("none"))
    found = figures(reach(best, data[1], told.relaxation.path(results["alpha"]), told.objective.delta))
    assert found["score"] == pytest.approx(results["best_score"], rel=1e-9)


def test_the_base_is_left_as_it_was(tmp_path: Path, data: tuple[Pairs, Pairs]) -> None:
    base = problems.base()
    before = {k: v.clone() for k, v in base.state_dict().items()}
    tune(problems.settings(tmp_path, "optimiser={updates: 1, batch: 1, warmup: 0}"), base, data[0])
    assert all(torch.equal(v, before[k]) for k, v in base.state_dict().items())
    assert all(p.grad is None for p in base.parameters())


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path, data: tuple[Pairs, Pairs], whole: RunResult) -> None:
    told = problems.settings(tmp_path, "checkpoint_every=3")  # stopped two updates after a checkpoint
    with pytest.raises(StoppedError):
        tune(told, problems.base(), *data, progress=stop_at(5))
    cut = tune(told, problems.base(), *data)
    assert cut.model.read_bytes() == whole.model.read_bytes()
    assert cut.best.read_bytes() == whole.best.read_bytes()
    assert [x["loss"] for x in lines(cut)[1:]] == [x["loss"] for x in lines(whole)[1:]]
    assert lines(cut, "certificates.jsonl") == lines(whole, "certificates.jsonl")


def test_a_run_resumed_without_its_moments_ends_elsewhere(
    tmp_path: Path, data: tuple[Pairs, Pairs], whole: RunResult
) -> None:
    """The negative control of the tests of resuming."""
    told = problems.settings(tmp_path)
    with pytest.raises(StoppedError):
        tune(told, problems.base(), *data, progress=stop_at(5))
    path = tmp_path / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = {k: v for k, v in load_file(path).items() if k.startswith("model.")}
    save_file(tensors, path, metadata)
    assert tune(told, problems.base(), *data).model.read_bytes() != whole.model.read_bytes()


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.kill_driver", str(tmp_path), "10"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    trials = json.loads(done.stdout)
    assert len(trials) == 10
    assert all(trial["same"] for trial in trials)
    assert sum(trial["killed"] for trial in trials) >= 8  # the others had just finished
    assert len({trial["seen"] for trial in trials}) >= 4
    assert all(trial["updates"] == list(range(9)) for trial in trials)
    assert all(trial["certificates"] == 24 for trial in trials)


def test_a_finished_run_is_skipped_and_another_refused(whole: RunResult, data: tuple[Pairs, Pairs]) -> None:
    called: list[Report] = []
    again = tune(problems.settings(whole.folder), problems.base(), *data, progress=called.append)
    assert again.already_finished
    assert again.results == whole.results
    assert not called
    with pytest.raises(SettingsError, match=r"route\.horizon is 3 there and 2 here"):
        tune(problems.settings(whole.folder, "route.horizon=2"), problems.base(), *data)
    with pytest.raises(SettingsError, match="other structures"):
        tune(problems.settings(whole.folder), problems.base(), data[0])
    with pytest.raises(SettingsError, match="other start potential"):
        tune(problems.settings(whole.folder), StillingerWeber.from_published("Si"), *data)


def test_a_checkpoint_of_another_potential_or_a_damaged_one_is_refused(
    tmp_path: Path, data: tuple[Pairs, Pairs]
) -> None:
    told = problems.settings(tmp_path)
    with pytest.raises(StoppedError):
        tune(told, problems.base(), *data, progress=stop_at(1))
    with pytest.raises(CheckpointError, match="belongs to other start potential"):
        tune(told, StillingerWeber.from_published("Si"), *data)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="damaged") as caught:
        tune(told, problems.base(), *data)
    assert "\n" not in str(caught.value)


def test_an_update_in_which_no_structure_took_part_changes_nothing_and_is_counted(
    tmp_path: Path, data: tuple[Pairs, Pairs]
) -> None:
    told = problems.settings(
        tmp_path,
        "route={kind: implicit}",
        "relaxation={steps: 1, max_steps: 0, alpha: 0.001}",
        "optimiser={updates: 2, batch: 2, warmup: 0}",
    )
    base = problems.base()
    result = tune(told, base, data[0])
    assert result.results["skipped_updates"] == 2
    assert [x["skipped"] for x in lines(result)] == ["no structure took part"] * 2
    assert [x["reasons"] for x in lines(result)] == [{"out_of_steps": 2}] * 2
    tuned = load_potential(result.model)
    assert all(torch.equal(a, b) for a, b in zip(base.parameters(), tuned.parameters(), strict=True))


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(
    tmp_path: Path, data: tuple[Pairs, Pairs], monkeypatch: pytest.MonkeyPatch
) -> None:
    from thalweg.training import tuning

    honest = tuning.objective

    def poisoned(*args: object, **kwargs: object) -> object:
        loss = honest(*args, **kwargs)
        loss.total.register_hook(lambda gradient: gradient * torch.nan)
        return loss

    monkeypatch.setattr(tuning, "objective", poisoned)
    base = problems.base()
    told = problems.settings(tmp_path, "optimiser={updates: 2, batch: 2, warmup: 0}", "route.kind=unrolled")
    result = tune(told, base, data[0])
    assert [x["skipped"] for x in lines(result)] == ["the gradient is not finite"] * 2
    assert [x["gradient_norm"] for x in lines(result)] == [None, None]
    tuned = load_potential(result.model)
    assert all(torch.equal(a, b) for a, b in zip(base.parameters(), tuned.parameters(), strict=True))


def test_a_step_size_that_is_too_large_is_warned_of_and_recorded(tmp_path: Path, data: tuple[Pairs, Pairs]) -> None:
    told = problems.settings(
        tmp_path, "relaxation.alpha=0.09", "optimiser={updates: 2, batch: 1, warmup: 0}", "stability_every=1"
    )
    with pytest.warns(RuntimeWarning, match="the relaxation oscillates") as caught:
        result = tune(told, problems.base(), data[0])
    assert len(caught) == 1
    assert all(x["alpha_curvature"] > 2 and "use alpha" in x["warning"] for x in lines(result))
    assert result.results["unstable_checks"] == 2


@pytest.mark.parametrize("kind", ["unrolled", "implicit", "phantom", "split"])
def test_every_route_tunes(kind: str, tmp_path: Path, data: tuple[Pairs, Pairs]) -> None:
    told = problems.settings(
        tmp_path, f"route={{kind: {kind}}}", "relaxation.steps=25", "optimiser={updates: 1, batch: 2, warmup: 0}"
    )
    result = tune(told, problems.base(), data[0])
    (line,) = lines(result)
    assert line["skipped"] is None
    assert (line["guidance"] is not None) == (kind in ("unrolled", "split"))
    assert (line["equilibrium"] is not None) == (kind != "unrolled")
    assert result.best == result.model  # nothing was held out
    assert result.results["best_score"] is None
    assert line["saved_bytes"] == result.results["saved_bytes"] > 0


def test_faults_of_the_data_are_told_before_any_work(tmp_path: Path, data: tuple[Pairs, Pairs]) -> None:
    told, (good, held), base = problems.settings(tmp_path / "run"), data, problems.base()
    with pytest.raises(StructureError, match="there are no training pairs"):
        tune(told, base, good.select([]))
    with pytest.raises(StructureError, match="there are no validation pairs"):
        tune(told, base, good, held.select([]))
    with pytest.raises(StructureError, match="hold out whole parents"):
        tune(told, base, good, good)
    with pytest.raises(SettingsError, match=r"optimiser\.batch is 3, but there are 2 training pairs"):
        tune(told, base, good.select([0, 1]), held)
    with pytest.raises(PotentialError, match="contains Si, which this stillinger-weber potential never saw"):
        tune(told, StillingerWeber.from_published("CdTe-2013"), good)
    good.minima.positions[8, 0], kept = torch.nan, float(good.minima.positions[8, 0])
    try:
        with pytest.raises(StructureError, match=r"'small-1-1': the minimum of atom 1 is \[nan"):
            tune(told, base, good)
    finally:
        good.minima.positions[8, 0] = kept
    with pytest.raises(SettingsError, match="no parameters that can be learnt"):
        tune(told, problems.base().requires_grad_(False), good)
    assert not (tmp_path / "run").exists()


def test_a_pair_is_right_only_if_it_converged_within_the_distance() -> None:
    rows = [
        Reached("a", "converged", 0.1, 0.005, 0.19),
        Reached("b", "converged", 0.1, 0.005, 0.2),
        Reached("c", "out_of_steps", 0.1, 0.005, 0.01),
        Reached("d", "exploded", 50.0, 12.0, 9.0),
    ]
    found = figures(rows)
    assert (found["right"], found["total"]) == (1, 4)
    assert found["outcomes"] == {"converged": 2, "exploded": 1, "out_of_steps": 1}
    assert found["score"] == pytest.approx((3 * 0.005 + 12.0) / 4)
    assert found["median_delta_q"] == pytest.approx(0.1)


def test_the_published_surface_reaches_every_minimum(data: tuple[Pairs, Pairs]) -> None:
    told = problems.settings(Path("none"))
    found = reach(StillingerWeber.from_published("Si"), data[1], told.relaxation.path(0.03), 3.0)
    assert all(row.right for row in found)
    assert max(row.delta_q for row in found) < 0.05
