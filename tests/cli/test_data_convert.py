"""From a file to a store to a potential, and the line that a mistake is told with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import SMALL, Inputs
from tests.cli.terminal import thalweg
from thalweg.structures.store import open_store


def test_frames_become_a_store_and_a_potential(inputs: Inputs, tmp_path: Path) -> None:
    store = tmp_path / "frames.store"
    made = thalweg("data", "convert", inputs.frames, store)
    assert (made.status, made.err) == (0, "")
    assert made.out.startswith(f"wrote 4 frames of 28 atoms to {store}, 0.0 MB")
    assert open_store(store).index.dtype == "float32"
    run = tmp_path / "run"
    quick = ("optimiser.updates=2", "optimiser.warmup=1", "optimiser.batch=2", "store.validation=1")
    done = thalweg("train", store, f"out={run}", *SMALL, *quick)
    assert done.status == 0, done.err
    results = json.loads((run / "results.json").read_text())
    assert (results["frames"], results["validation_frames"]) == (3, 1)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 <= last["waiting"] < 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("data", "convert", "{frames}", "{store}", "--dtype", "half"), "--dtype is 'half': allowed are float32 and"),
        (("data", "convert", "{none}", "{store}"), "there is no such file or folder: check the path"),
        (("data", "convert", "{frames}", "{folder}"), "exists: choose another name or give --overwrite"),
        (("train", "{folder}", "out={store}"), "no index.json, so this is no store: make one with thalweg data"),
        (("train", "{folder}", "--validation", "{frames}"), "--validation beside a store: its validation is part"),
        (("train", "{frames}", "store.frames=3"), "store is not a setting"),
    ],
)
def test_mistakes_are_one_line(inputs: Inputs, tmp_path: Path, words: tuple[str, ...], line: str) -> None:
    places = {"frames": inputs.frames, "none": tmp_path / "none", "store": tmp_path / "store", "folder": tmp_path}
    told = thalweg(*(word.format(**places) for word in words))
    assert told.status == 2
    assert line in told.err
    assert told.err.count("\n") == 1
