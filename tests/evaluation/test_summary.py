"""Results of studies from records made up: sums, means and errors against closed forms, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.study_records import first, record

from thalweg.errors import CheckpointError, RunFolderError
from thalweg.evaluation.registration import Registration, register
from thalweg.evaluation.statistics import wilson_interval
from thalweg.evaluation.study_folder import StudyFolder
from thalweg.evaluation.summary import summarise_study
from thalweg.reports import read_study, study_lines, write_study
from thalweg.reports.study import notes

TEXT = """
title: Made up <b>
seeds: [0, 1, 2]
data: {held_out: 40}
arms:
  - {name: base}
  - {name: split-20, route: {kind: split, horizon: 20}, tune: {objective: {delta: 1.0}}}
  - {name: force-matched, matching: {labels: path, every: 5}}
hypotheses:
  - {id: H1, says: more, arm: split-20, against: base, wanted: more}
kill:
  - {id: K1, says: labels do it, arm: force-matched, against: split-20, wanted: not fewer}
"""
RIGHT = {"base": (10, 11, 12), "split-20": (30, 31, 29), "force-matched": (12, 11, 10)}


@pytest.fixture
def registration(tmp_path: Path) -> Registration:
    (tmp_path / "protocol.yaml").write_text(TEXT)
    return register(tmp_path / "protocol.yaml")[0]


def put(folder: Path, frozen: Registration, arm: str, seed: int, **more: Any) -> None:
    path = StudyFolder(folder).record(seed, arm)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = record(frozen.hash, seed, arm, first(RIGHT[arm][seed]), trained=arm != "base")
    path.write_text(json.dumps({**made, **more}))


def put_all(folder: Path, registration: Registration) -> None:
    for arm in RIGHT:
        for seed in range(3):
            put(folder, registration, arm, seed, extra_labels=77 if arm == "force-matched" else 0)


def results(folder: Path) -> dict[str, Any]:
    return json.loads(summarise_study(folder).read_text())


def test_an_arm_has_sums_means_errors_and_the_interval_of_its_structures(
    tmp_path: Path, registration: Registration
) -> None:
    put_all(tmp_path, registration)
    base, split, control = results(tmp_path)["arms"]
    assert (split["basins_right"], split["basins_total"], split["seeds"], split["held_out"]) == (90, 120, 3, 40)
    assert split["basins_right_mean"] == 30
    assert split["basins_right_se"] == pytest.approx(1 / 3**0.5)
    assert split["basins_right_by_seed"] == {"0": 30, "1": 31, "2": 29}
    assert split["basins_interval"] == pytest.approx(wilson_interval(30, 40))
    assert split["basins_difference"]["mean"] == 19
    assert split["mcnemar_p"] < 1e-4
    assert (base["saved_bytes"], base["seconds"]) == (None, None)
    assert (control["extra_labels"], control["mcnemar_p"]) == (77, 1.0)
    assert split["tune"] == {"objective": {"delta": 1.0}}


def test_with_data_drawn_anew_structures_of_all_seeds_are_counted(tmp_path: Path) -> None:
    (tmp_path / "protocol.yaml").write_text(TEXT.replace("data: {", "data: {anew: true, ", 1))
    frozen = register(tmp_path / "protocol.yaml")[0]
    put_all(tmp_path, frozen)
    found = results(tmp_path)
    _, split, _ = found["arms"]
    assert found["anew"]
    assert split["basins_interval"] == pytest.approx(wilson_interval(90, 120))
    assert len(split["dq"]) == 120
    assert (split["basins_total"], split["held_out"]) == (120, 40)
    for arm, right in RIGHT.items():  # a draw that gave one minimum less
        put(tmp_path, frozen, arm, 2, evaluation=record(frozen.hash, 2, arm, first(right[2], 39))["evaluation"])
    fewer = results(tmp_path)["arms"][1]
    assert (fewer["basins_right"], fewer["basins_total"]) == (90, 119)
    assert fewer["basins_interval"] == pytest.approx(wilson_interval(90, 119))
    put_all(tmp_path, frozen)
    results(tmp_path)
    assert any("structures of its own" in note for note in notes(read_study(tmp_path)))


def test_verdicts_come_first_on_the_console_and_on_the_page(tmp_path: Path, registration: Registration) -> None:
    put_all(tmp_path, registration)
    found = results(tmp_path)
    assert [claim["verdict"] for claim in (*found["hypotheses"], *found["kill"])] == ["holds", "fails"]
    lines = study_lines(read_study(tmp_path))
    assert lines[0].startswith("H1 holds: more. Held-out structures in the right basin, of 40: split-20 30 ± 0.577,")
    assert lines[1].startswith("Kill condition K1 is not met: labels do it.")
    assert any(line.startswith("split-20 ") and "30.0 ± 0.6" in line for line in lines)
    page = write_study(tmp_path).read_text()
    assert page.index("H1 holds") < page.index("Kill condition K1 is not met") < page.index("<h2>The arms</h2>")
    assert "<b>" not in page.split("<main>")[1].split("</main>")[0]
    assert "fitted on, 600 updates, with labels of the reference paths" in page
    assert "objective.delta 1.0" in page


def test_an_unfinished_study_is_reported_with_open_verdicts(tmp_path: Path, registration: Registration) -> None:
    put(tmp_path, registration, "base", 0)
    put(tmp_path, registration, "split-20", 0)
    found = results(tmp_path)
    assert found["complete"] == {"finished": 2, "total": 9, "failed": []}
    assert [claim["verdict"] for claim in (*found["hypotheses"], *found["kill"])] == ["open", "open"]
    assert found["arms"][2]["seeds"] == 0
    assert "basins_right" not in found["arms"][2]
    lines = study_lines(read_study(tmp_path))
    assert lines[0] == "2 of 9 runs are there; what needs the others is open."
    assert "H1 is open" in write_study(tmp_path).read_text()


def test_arms_that_began_from_other_bits_are_told(tmp_path: Path, registration: Registration) -> None:
    put_all(tmp_path, registration)
    assert results(tmp_path)["same_start"]
    put(tmp_path, registration, "split-20", 1, start="another base")
    assert not results(tmp_path)["same_start"]
    write_study(tmp_path)
    assert "not all arms began from the same bits" in (tmp_path / "report.html").read_text()


def test_the_cost_of_tuning_is_a_table_where_every_seed_has_it(tmp_path: Path, registration: Registration) -> None:
    put_all(tmp_path, registration)
    for seed in range(3):
        put(
            tmp_path,
            registration,
            "split-20",
            seed,
            cost={
                "errors": {"force_mae": 0.1 * (seed + 1), "reason": None},
                "crystal": {"c11": 90.0},
                "reference": {"c11": 151.0},
            },
        )
    found = results(tmp_path)
    assert found["arms"][1]["cost"]["errors.force_mae"] == pytest.approx(0.2)
    assert found["arms"][0]["cost"] is None
    assert "<h2>What tuning cost</h2>" in (page := write_study(tmp_path).read_text())
    assert "<th scope='col'>force mae</th><th scope='col'>c11</th>" in page
    assert "split-20</th><td>0.2</td><td>90</td>" in page
    assert "reference</th><td>–</td><td>151</td>" in page


def test_records_that_cannot_be_used_are_refused(tmp_path: Path, registration: Registration) -> None:
    with pytest.raises(RunFolderError, match="has no records yet"):
        summarise_study(tmp_path)
    with pytest.raises(RunFolderError, match=r"has no results\.json: make it with thalweg study report"):
        read_study(tmp_path)
    put_all(tmp_path, registration)
    put(tmp_path, registration, "base", 0, registration="another")
    with pytest.raises(RunFolderError, match="belongs to registration another"):
        summarise_study(tmp_path)
    StudyFolder(tmp_path).record(0, "base").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        summarise_study(tmp_path)
