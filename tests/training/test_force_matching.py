from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from tests.training.problems import frames, records

from thalweg.errors import PotentialError, SettingsError, StructureError
from thalweg.potentials.files import load_potential
from thalweg.potentials.painn import PaiNN
from thalweg.structures.pairs import Frames
from thalweg.training import force_matching
from thalweg.training.force_matching import TrainJob, build_base, train
from thalweg.training.labelled import LabelledFrames
from thalweg.training.loading import load_settings
from thalweg.training.processes import Processes, Report
from thalweg.training.run_folder import Identity
from thalweg.training.settings import TrainSettings

QUICK = (
    "potential={kind: painn, channels: 6, layers: 1, radial_functions: 5}",
    "optimiser={updates: 40, batch: 5, warmup: 5}",
    "validate_every=15",
    "checkpoint_every=7",
    "device={accelerator: cpu, dtype: float64}",
)


class StoppedError(Exception):
    """Stands for a kill between two lines of metrics."""


def settings(out: Path, *overrides: str) -> TrainSettings:
    return load_settings(TrainSettings, None, [f"out={out}", *QUICK, *overrides])


@pytest.fixture(scope="module")
def data() -> tuple[Frames, Frames]:
    return frames(12, 1), frames(5, 2)


def matching(tmp_path: Path, data: tuple[Frames, Frames], *overrides: str) -> force_matching._Matching:
    told = settings(tmp_path, *overrides)
    job = TrainJob(None, told, Identity("", "", ""), build_base(told, data[0]), *data)
    return force_matching._Matching(Processes(torch.device("cpu")), job)


def test_fitting_brings_the_errors_down_and_the_files_load(tmp_path: Path, data: tuple[Frames, Frames]) -> None:
    result = train(settings(tmp_path, "optimiser.updates=150"), *data)
    lines = records(tmp_path / "metrics.jsonl")
    assert [line["update"] for line in lines] == [0, *range(15, 151, 15)]
    assert lines[-1]["loss"] < 0.25 * lines[1]["loss"]
    assert result.results["validation"]["force_mae"] < 0.5 * lines[0]["validation"]["force_mae"]
    assert result.results["best_score"] == min(x["validation"]["score"] for x in lines)
    held = data[1]
    loaded = load_potential(result.best)
    assert isinstance(loaded, PaiNN)
    error = (loaded(held.structures).forces - held.forces).abs().mean()
    best = next(x for x in lines if x["update"] == result.results["best_update"])
    assert float(error) == pytest.approx(best["validation"]["force_mae"], rel=1e-9)


def test_an_interrupted_fit_goes_on_bit_for_bit(tmp_path: Path, data: tuple[Frames, Frames]) -> None:
    whole = train(settings(tmp_path / "whole"), *data)

    def stop(report: Report) -> None:
        if report.update == 30:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(settings(tmp_path / "cut"), *data, progress=stop)
    cut = train(settings(tmp_path / "cut"), *data)
    assert cut.model.read_bytes() == whole.model.read_bytes()
    assert cut.best.read_bytes() == whole.best.read_bytes()
    lines = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in records(r.folder / "metrics.jsonl")]
        for r in (whole, cut)
    ]
    assert lines[0] == lines[1]


def test_a_finished_fit_is_not_done_again(tmp_path: Path, data: tuple[Frames, Frames]) -> None:
    first = train(settings(tmp_path, "optimiser.updates=6"), *data)
    called: list[Report] = []
    again = train(settings(tmp_path, "optimiser.updates=6"), *data, progress=called.append)
    assert again.already_finished
    assert not first.already_finished
    assert again.results == json.loads(json.dumps(first.results))
    assert not called


def test_every_frame_comes_once_an_epoch_in_an_order_of_its_own(tmp_path: Path, data: tuple[Frames, Frames]) -> None:
    task = matching(tmp_path, data)
    drawn = [k for update in range(12) for k in task._loss.batch(update)]  # 60 draws, 5 epochs of 12
    epochs = [drawn[start : start + 12] for start in range(0, 60, 12)]
    assert all(Counter(epoch) == Counter(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert task._loss.batch(7) == matching(tmp_path, data)._loss.batch(7)


def test_the_loss_is_the_formula(tmp_path: Path, data: tuple[Frames, Frames]) -> None:
    task = matching(tmp_path, data, "matching={energy_scale: 0.2, force_scale: 0.5}")
    chosen = [7, 2, 2, 11]
    parts = task._loss.parts(chosen, 4, 28, 0).tolist()
    energy = force = 0.0
    for k in chosen:
        one = data[0].select([k])
        found = task.potential(one.structures)
        energy += float((1 + ((found.energy - one.energy) / 7 / 0.2) ** 2).sqrt() - 1) / 4
        force += float(((1 + (found.forces - one.forces).square().sum(dim=1) / 0.25).sqrt() - 1).sum()) / 28
    assert parts == pytest.approx([energy, force], rel=1e-10)


def test_the_gradient_of_the_loss_agrees_with_central_differences(tmp_path: Path, data: tuple[Frames, Frames]) -> None:
    task = matching(tmp_path, data)
    p = dict(task.potential.named_parameters())["messages.0.filters"]
    loss = task._loss.parts([0, 3], 2, 14, 0).sum()
    (gradient,) = torch.autograd.grad(loss, p)
    direction = torch.cos(torch.arange(p.numel(), dtype=p.dtype)).view_as(p)
    wanted = float((gradient * direction).sum())
    found = []
    for h in (1e-4, 3e-5, 1e-5):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(sign * h * direction)
            values.append(float(task._loss.parts([0, 3], 2, 14, 0).sum().detach()))
            with torch.no_grad():
                p.add_(-sign * h * direction)
        found.append((values[0] - values[1]) / (2 * h))
    assert found == pytest.approx([wanted] * 3, rel=1e-6, abs=1e-8)


def test_kept_edges_are_those_of_a_fresh_search(data: tuple[Frames, Frames]) -> None:
    potential = build_base(settings(Path("none")), data[0])
    labelled = LabelledFrames.find(data[0], potential)
    chosen = [5, 0, 11, 5]
    batch, edges = labelled.select(chosen)
    fresh = potential.edges(batch.structures)
    assert torch.equal(edges.centre, fresh.centre)
    assert torch.equal(edges.neighbour, fresh.neighbour)
    assert torch.equal(edges.shift, fresh.shift)


def test_the_base_takes_species_neighbours_seed_and_reference_from_the_run(
    data: tuple[Frames, Frames],
) -> None:
    found = build_base(settings(Path("none"), "seed=9"), data[0])
    assert found.species == (14,)
    assert found.settings["seed"] == 9
    edges = len(found.edges(data[0].structures)) / len(data[0].structures.numbers)
    assert found.settings["average_neighbours"] == pytest.approx(edges, abs=0.05)
    assert float(found.shift) == pytest.approx(float(data[0].energy.mean()) / 7, rel=1e-6)
    given = build_base(settings(Path("none"), "potential.average_neighbours=3.0", "potential.seed=2"), data[0])
    assert (given.settings["average_neighbours"], given.settings["seed"]) == (3.0, 2)


def test_faults_of_the_data_are_told_before_any_work(tmp_path: Path, data: tuple[Frames, Frames]) -> None:
    told, (good, held) = settings(tmp_path / "run"), data
    broken = Frames(good.structures, good.energy, good.forces.clone(), good.parents)
    broken.forces[9, 1] = torch.nan
    with pytest.raises(StructureError, match=r"'small-1-1': the force label of atom 2 is"):
        train(told, broken)
    with pytest.raises(StructureError, match="there are no training frames"):
        train(told, good.select([]))
    with pytest.raises(StructureError, match="parent 'small-1-0' is in training and in validation"):
        train(told, good, good)
    with pytest.raises(SettingsError, match=r"optimiser\.batch is 5, but there are 4 training frames"):
        train(told, good.select(range(4)), held)
    with pytest.raises(PotentialError, match="contains Si, which this painn potential never saw"):
        train(settings(tmp_path / "run", "potential.species=[6]"), good)
    with pytest.raises(PotentialError, match="chanels"):
        train(settings(tmp_path / "run", "potential.chanels=6"), good)
    with pytest.raises(SettingsError, match="nothing would be learnt"):
        train(settings(tmp_path / "run", "matching={energy_weight: 0, force_weight: 0}"), good)
    assert not (tmp_path / "run").exists()
