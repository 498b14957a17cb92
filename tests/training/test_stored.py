"""Training on a store is training on its frames: same loss, exact resume, validation that never moves."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training.problems import frames, records

from thalweg.errors import SettingsError, StructureError
from thalweg.seeds import numpy_stream
from thalweg.structures.extended_xyz import write_frames
from thalweg.structures.store import Store, convert, open_store
from thalweg.training import stored
from thalweg.training.force_matching import build_base, train, train_stored
from thalweg.training.loading import load_settings
from thalweg.training.processes import Report
from thalweg.training.settings import StoreTrainSettings, TrainSettings
from thalweg.training.stored import StoredFrames, StoredSet, open_sets

QUICK = (
    "potential={kind: painn, channels: 6, layers: 1, radial_functions: 5, species: [14]}",
    "optimiser={updates: 30, batch: 4, warmup: 5}",
    "validate_every=10",
    "checkpoint_every=7",
    "device={accelerator: cpu, dtype: float64}",
)


class StoppedError(Exception):
    """Stands for a kill between two lines of metrics."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("stored")
    write_frames(folder / "frames.extxyz", frames(14, 1))
    convert(folder / "frames.extxyz", folder / "store", dtype="float64")
    return open_store(folder / "store")


def settings(out: Path, *overrides: str) -> StoreTrainSettings:
    return load_settings(StoreTrainSettings, None, [f"out={out}", *QUICK, "store.validation=3", *overrides])


def lines(folder: Path) -> list[dict[str, object]]:
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "waiting")} for line in records(folder / "metrics.jsonl")
    ]


def test_it_fits_as_the_same_frames_in_a_file_do_bit_for_bit(tmp_path: Path, store: Store) -> None:
    ours = train_stored(settings(tmp_path / "store"), store.path)
    data, held = open_sets(settings(tmp_path), store.path)
    assert held is not None
    plain = load_settings(TrainSettings, None, [f"out={tmp_path / 'plain'}", *QUICK])
    theirs = train(plain, data.frames(range(len(data))), held.frames(range(3)))
    assert ours.model.read_bytes() == theirs.model.read_bytes()
    assert ours.best.read_bytes() == theirs.best.read_bytes()
    assert lines(ours.folder) == lines(theirs.folder)
    assert all("waiting" not in line for line in records(theirs.folder / "metrics.jsonl"))


@pytest.mark.parametrize("batches", ["optimiser.batch=4", "store.batch_atoms=24"])
def test_an_interrupted_fit_goes_on_bit_for_bit(tmp_path: Path, store: Store, batches: str) -> None:
    whole = train_stored(settings(tmp_path / "whole", batches), store.path)

    def stop(report: Report) -> None:
        if report.update == 20:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_stored(settings(tmp_path / "cut", batches), store.path, progress=stop)
    cut = train_stored(settings(tmp_path / "cut", batches, "store.in_memory=false"), store.path)
    assert cut.model.read_bytes() == whole.model.read_bytes()
    assert lines(cut.folder) == lines(whole.folder)
    shares = [line["waiting"] for line in records(whole.folder / "metrics.jsonl") if "waiting" in line]
    assert len(shares) == 3
    assert all(0 < share < 1 for share in shares)


def test_validation_is_the_same_for_every_training_set_and_those_are_nested(tmp_path: Path, store: Store) -> None:
    small, first = open_sets(settings(tmp_path, "store.frames=4"), store.path)
    large, second = open_sets(settings(tmp_path, "store.frames=9", "seed=5"), store.path)
    assert first is not None
    assert second is not None
    assert first.chosen.tolist() == second.chosen.tolist()
    assert large.chosen[:4].tolist() == small.chosen.tolist()
    assert not {*first.chosen.tolist()} & {*large.chosen.tolist()}
    assert open_sets(settings(tmp_path, "store.validation=0"), store.path)[1] is None


def test_another_choice_or_store_is_another_run(tmp_path: Path, store: Store) -> None:
    data = open_sets(settings(tmp_path), store.path)[0]
    other = StoredSet(data.store, data.chosen[::-1].copy())
    assert data.digest == open_sets(settings(tmp_path, "store.in_memory=false"), store.path)[0].digest
    assert data.digest != other.digest
    train_stored(settings(tmp_path / "run", "optimiser.updates=5"), store.path)
    with pytest.raises(SettingsError, match=r"store\.frames is None there and 5 here"):
        train_stored(settings(tmp_path / "run", "optimiser.updates=5", "store.frames=5"), store.path)


def test_a_batch_is_prepared_beside_the_step_and_is_the_one_asked_for(tmp_path: Path, store: Store) -> None:
    data, _ = open_sets(settings(tmp_path), store.path)
    potential = build_base(settings(tmp_path), data.sample())
    batches = StoredFrames(data, potential, torch.device("cpu"), torch.float64)
    seen: list[str] = []
    prepare = batches._prepare

    def watched(chosen: list[int]) -> stored.Batch:
        seen.append(threading.current_thread().name)
        return prepare(chosen)

    batches._prepare = watched  # type: ignore[method-assign]
    batches.expect([3, 1])
    ahead, asked = batches.select([3, 1]), batches.select([3, 1])
    batches.expect([0])
    assert batches._coming is not None
    batches._coming[1].result()
    other = batches.select([2])  # not what was announced
    assert [name.startswith("frames") for name in seen] == [True, False, True, False]
    assert torch.equal(ahead[0].structures.positions, asked[0].structures.positions)
    assert torch.equal(ahead[1].neighbour, asked[1].neighbour)
    assert other[0].ids == data.frames([2]).ids
    assert batches.atoms([3, 1]) == 14


def test_nothing_is_prepared_beside_the_step_where_that_is_turned_off(tmp_path: Path, store: Store) -> None:
    data, _ = open_sets(settings(tmp_path), store.path)
    potential = build_base(settings(tmp_path), data.sample())
    batches = StoredFrames(data, potential, torch.device("cpu"), torch.float64, ahead=False)
    batches.expect([3, 1])
    assert batches._coming is None
    assert batches.select([3, 1])[0].ids == data.frames([3, 1]).ids
    beside = train_stored(settings(tmp_path / "beside"), store.path)
    within = train_stored(settings(tmp_path / "within", "store.ahead=false"), store.path)
    assert within.model.read_bytes() == beside.model.read_bytes()


def test_rare_elements_get_into_the_sample(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_SAMPLE", 2)
    numbers = np.array(store.arrays["numbers"])
    numbers[int(store.arrays["offsets"][5])] = 6
    changed = Store(store.path, store.index, {**store.arrays, "numbers": numbers}, True)
    chosen = numpy_stream(1, "order").permutation([0, 1, 2, 3, 4, 6, 7])
    data = StoredSet(changed, np.append(chosen, 5))
    assert data.species() == [6, 14]
    assert data.sample().ids == (*data.frames([0, 1]).ids, *data.frames([7]).ids)


def test_faults_are_told_before_any_work(tmp_path: Path, store: Store) -> None:
    run = tmp_path / "run"
    for overrides, line in (
        (("store.batch_atoms=6",), r"store\.batch_atoms is 6, but a training frame has 7 atoms: allowed is 7 or more"),
        (("optimiser.batch=12",), r"optimiser\.batch is 12, but there are 11 training frames"),
        (("store.frames=12",), "a training set of 12 frames: allowed is 1 to 11"),
        (("store.validation=14",), "held_out is 14: allowed is a fraction"),
        (("matching={energy_weight: 0, force_weight: 0}",), "nothing would be learnt"),
    ):
        with pytest.raises(SettingsError, match=line):
            train_stored(settings(run, *overrides), store.path)
    with pytest.raises(StructureError, match=r"matching\.stress_weight is 1\.0, but none of .* frames has a stress"):
        train_stored(settings(run, "matching.stress_weight=1"), store.path)
    with pytest.raises(StructureError, match="there is no such store"):
        train_stored(settings(run), tmp_path / "none")
    assert not run.exists()
