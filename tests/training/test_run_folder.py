from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from thalweg.errors import CheckpointError, OutputError, SettingsError
from thalweg.training.loading import load_settings, settings_hash
from thalweg.training.run_folder import Identity, RunFolder, identify
from thalweg.training.settings import TuneSettings


def opened(folder: RunFolder, *overrides: str, data: str = "d", overwrite: bool = False) -> str:
    settings = load_settings(TuneSettings, None, overrides)
    return folder.open(settings, identify(settings, data, "s"), overwrite=overwrite)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "deep" / "run")


def test_a_fresh_folder_holds_settings_that_can_be_loaded_and_their_hash(folder: RunFolder) -> None:
    assert opened(folder, "seed=3") == "fresh"
    found = load_settings(TuneSettings, folder.settings)
    assert found.seed == 3
    assert folder.settings.read_text().startswith(f"# settings hash: {settings_hash(found)}\n")


def test_a_killed_run_is_resumed_and_a_finished_one_skipped(folder: RunFolder) -> None:
    opened(folder)
    assert opened(folder) == "fresh"
    folder.checkpoint.write_bytes(b"any")
    assert opened(folder, "out=elsewhere") == "interrupted"
    identity = Identity(settings_hash(TuneSettings()), "d", "s")
    folder.finish({"identity": {"settings": identity.settings, "data": "d", "start": "s"}})
    assert opened(folder) == "finished"


def test_other_settings_are_refused_and_the_difference_is_named(folder: RunFolder) -> None:
    opened(folder)
    folder.checkpoint.write_bytes(b"precious")
    with pytest.raises(SettingsError, match=r"objective\.delta is 3\.0 there and 2\.0 here.*overwrite=true"):
        opened(folder, "objective.delta=2.0")
    assert folder.checkpoint.read_bytes() == b"precious"


def test_a_finished_run_on_other_structures_is_refused(folder: RunFolder) -> None:
    opened(folder)
    folder.finish({"identity": {"settings": settings_hash(TuneSettings()), "data": "d", "start": "s"}})
    with pytest.raises(SettingsError, match="other structures"):
        opened(folder, data="e")


def test_overwriting_removes_the_run_and_nothing_else(folder: RunFolder) -> None:
    opened(folder)
    for file in (folder.checkpoint, folder.results, folder.metrics, folder.best):
        file.write_bytes(b"old")
    mine = folder.path / "notes.txt"
    mine.write_text("keep")
    assert opened(folder, "seed=9", overwrite=True) == "fresh"
    assert sorted(f.name for f in folder.path.iterdir()) == ["notes.txt", "settings.yaml"]


def test_a_folder_with_records_but_no_settings_is_refused(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    folder.metrics.write_text("{}\n")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl but no settings\.yaml"):
        opened(folder)


def test_settings_written_by_hand_are_not_taken_for_a_run(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    folder.settings.write_text("seed: 1\n")
    with pytest.raises(CheckpointError, match="not written by a run"):
        opened(folder)
    assert folder.settings.read_text() == "seed: 1\n"


def test_results_that_are_no_json_are_one_line(folder: RunFolder) -> None:
    opened(folder)
    folder.results.write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        opened(folder)
    assert "\n" not in str(caught.value)


def test_a_place_that_is_no_folder_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for place in (file, file / "below"):
        with pytest.raises(OutputError, match="cannot make the run folder"):
            opened(RunFolder(place))
    assert file.read_text() == "x"


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not hold for the superuser")
def test_a_read_only_folder_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot make the run folder"):
        opened(RunFolder(tmp_path / "run"))


def test_rewinding_drops_later_lines_and_a_torn_one(folder: RunFolder) -> None:
    opened(folder)
    folder.record(folder.metrics, [{"update": u, "loss": u / 10} for u in range(5)])
    folder.record(folder.certificates, [{"update": u, "id": i} for u in (1, 2, 3) for i in "ab"])
    with folder.metrics.open("a") as file:
        file.write('{"update": 2, "los')
    folder.rewind(2)
    assert [json.loads(x)["update"] for x in folder.metrics.read_text().splitlines()] == [0, 1, 2]
    assert [json.loads(x)["update"] for x in folder.certificates.read_text().splitlines()] == [1, 1, 2, 2]


def test_a_run_killed_before_its_first_checkpoint_begins_with_empty_records(folder: RunFolder) -> None:
    opened(folder)
    folder.record(folder.metrics, [{"update": 0}])
    assert opened(folder) == "fresh"
    assert folder.metrics.read_text() == ""


def test_numbers_that_are_not_finite_become_null(folder: RunFolder) -> None:
    opened(folder)
    folder.record(folder.metrics, [{"update": 1, "norm": math.nan, "nested": {"list": [math.inf, 1.0]}}])
    assert json.loads(folder.metrics.read_text()) == {
        "update": 1,
        "norm": None,
        "nested": {"list": [None, 1.0]},
    }
