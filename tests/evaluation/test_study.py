"""A study on the smallest sizes: registered, run in processes, killed, resumed, copied, failed and reported."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.terminal import Done, alone, complaint, listing, started, thalweg, untouched

from thalweg.evaluation.data import labels_of
from thalweg.relaxation.outcome import Outcome
from thalweg.structures.extended_xyz import read_pairs
from thalweg.testbeds.silicon import Silicon

PROTOCOL = """
title: The smallest study
data: {pairs: 8, frames: 8, held_out: 2, frames_held_out: 2}
seeds: [0, 1]
base:
  potential: {kind: painn, channels: 4, layers: 1, cutoff: 3.0}
  optimiser: {updates: 3, warmup: 1}
tune:
  relaxation: {steps: 6, max_steps: 5}
  optimiser: {updates: 4, warmup: 1, batch: 2}
arms:
  - {name: base}
  - {name: split-3, route: {kind: split, horizon: 3}, tune: {replay: {share: 0.3, batch: 2}}}
  - {name: fitted, matching: {labels: ends, updates: 4}}
hypotheses:
  - {id: H1, says: more basins, arm: split-3, against: base, wanted: more}
  - {id: H2, says: not fewer basins, arm: split-3, against: base, wanted: not fewer}
kill:
  - {id: K1, says: fitting does as well, arm: fitted, against: split-3, wanted: more}
probe: {structures: 1, repetitions: 1}
"""
MEASURED = ("date", "seconds", "machine", "training")


def registered(folder: Path) -> Path:
    folder.mkdir()
    (folder / "protocol.yaml").write_text(PROTOCOL)
    done = thalweg("study", "register", folder / "protocol.yaml")
    assert (done.status, done.err) == (0, "")
    assert "3 arms, 2 seeds, 2 hypotheses" in done.out
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A study run to its end."""
    folder = registered(tmp_path_factory.mktemp("study") / "study")
    return folder, alone("study", "run", folder)


@pytest.fixture
def copy(finished: tuple[Path, Done], tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    return folder


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def comparable(path: Path) -> dict[str, Any]:
    """A record without what a clock or a machine decides."""
    record = {key: value for key, value in read(path).items() if key not in MEASURED}
    record["evaluation"] = {k: v for k, v in record["evaluation"].items() if not k.startswith("seconds")}
    return record


@pytest.mark.slow
def test_every_arm_of_every_seed_leaves_a_record_from_the_same_start(finished: tuple[Path, Done]) -> None:
    folder, done = finished
    assert (done.status, done.err) == (0, "")
    for seed in (0, 1):
        records = [read(folder / "records" / f"seed-{seed}" / f"{arm}.json") for arm in ("base", "split-3", "fitted")]
        assert len({record["start"] for record in records}) == 1
        assert [record["evaluation"]["basins_total"] for record in records] == [2, 2, 2]
        assert [record["extra_labels"] for record in records] == [0, 0, 16]
        assert all(record["cost"]["errors"]["force_mae"] > 0 for record in records)
        assert records[1]["training"]["saved_bytes"] > 0
    starts = {read(folder / "records" / f"seed-{seed}" / "base.json")["start"] for seed in (0, 1)}
    assert len(starts) == 2
    assert (folder / "work" / ".gitignore").read_text() == "*\n"


@pytest.mark.slow
def test_the_probe_measures_each_route_stored_and_recomputed(finished: tuple[Path, Done]) -> None:
    points = read(finished[0] / "records" / "probe.json")["points"]
    assert [(p["route"], p["horizon"], p["recompute"]) for p in points] == [("split", 3, True), ("split", 3, False)]
    assert 0 < points[0]["saved_bytes"] < points[1]["saved_bytes"]


@pytest.mark.slow
def test_a_finished_study_run_again_does_nothing(finished: tuple[Path, Done]) -> None:
    with untouched(finished[0]):
        done = thalweg("study", "run", finished[0])
        assert (done.status, done.out.splitlines()[-1]) == (0, f"{finished[0]}: all 6 arms are finished")


@pytest.mark.slow
def test_an_arm_killed_in_the_middle_resumes_to_the_same_record(finished: tuple[Path, Done], copy: Path) -> None:
    shutil.rmtree(copy / "records")
    shutil.rmtree(copy / "work" / "seed-0" / "arms")
    words = ("study", "run", copy, "--only", "split-3", "--seeds", "0")
    process = started(*words)
    while not (copy / "work" / "seed-0" / "arms" / "split-3" / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    name = Path("records", "seed-0", "split-3.json")
    assert not (copy / name).exists()
    for _ in range(500):  # the arm's own process ends with its parent, and gives up the lock
        done = alone(*words)
        if "another process is at work" not in done.out:
            break
    assert (done.status, done.err) == (0, "")
    assert comparable(copy / name) == comparable(finished[0] / name)


@pytest.mark.slow
def test_records_are_honoured_where_everything_else_is_gone(finished: tuple[Path, Done], copy: Path) -> None:
    """Only what the missing arm needs is made again, to the same record."""
    shutil.rmtree(copy / "work")
    name = Path("records", "seed-1", "base.json")
    kept = listing(copy / "records")
    (copy / name).unlink()
    done = alone("study", "run", copy)
    assert (done.status, done.err) == (0, "")
    assert not (copy / "work" / "seed-0").exists()
    assert not (copy / "work" / "labels-ends.extxyz").exists()
    assert comparable(copy / name) == comparable(finished[0] / name)
    now = listing(copy / "records")
    assert {key for key in kept if now[key] != kept[key]} <= {"seed-1/base.json"}


@pytest.mark.slow
def test_a_failed_arm_is_recorded_and_the_others_are_run(copy: Path) -> None:
    for arm in ("split-3", "base"):
        (copy / "records" / "seed-0" / f"{arm}.json").unlink()
    torn = copy / "work" / "seed-0" / "arms" / "split-3" / "evaluation.json"
    torn.write_text("{")
    done = alone("study", "run", copy)
    assert done.status == 1
    assert "1 failed, the same command tries again what failed: seed 0, split-3: " in done.out
    assert (copy / "records" / "seed-0" / "base.json").exists()
    failure = read(copy / "records" / "seed-0" / "split-3.failed.json")["failed"]
    assert "evaluation.json: cannot be read" in failure
    told = thalweg("study", "report", copy).out
    assert "5 of 6 runs are there; what needs the others is open." in told
    assert "H1 is open: more basins. 3 of 4 runs are there; split-3 of seed 0 is missing." in told
    assert read(copy / "results.json")["complete"]["failed"] == [{"arm": "split-3", "seed": 0, "reason": failure}]

    torn.unlink()
    assert alone("study", "run", copy, "--workers", "1").status == 0
    assert not (copy / "records" / "seed-0" / "split-3.failed.json").exists()


@pytest.mark.slow
def test_the_report_gives_verdicts_first_and_the_demos_results_with_seeds(finished: tuple[Path, Done]) -> None:
    folder, _ = finished
    done = thalweg("study", "report", folder)
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["H1 is a tie", "H2 holds", "Kill condition K1 is not met"]
    results = read(folder / "results.json")
    assert results["schema"] == 1
    assert [arm["name"] for arm in results["arms"]] == ["base", "split-3", "fitted"]
    for arm in results["arms"]:
        by_seed = list(arm["basins_right_by_seed"].values())
        assert (arm["seeds"], arm["basins_total"], arm["basins_right"]) == (2, 4, sum(by_seed))
        assert arm["basins_right_mean"] == sum(by_seed) / 2
        assert arm["basins_right_se"] == pytest.approx(abs(by_seed[0] - by_seed[1]) / 2)
    page = (folder / "report.html").read_text()
    assert page.index("Kill condition K1") < page.index("<h2>The arms</h2>")
    thalweg("study", "report", folder)
    assert (folder / "report.html").read_text() == page


@pytest.mark.slow
def test_a_changed_protocol_and_foreign_records_are_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "protocol.yaml").write_text(PROTOCOL.replace("updates: 4", "updates: 5"))
    for command in ("run", "report"):
        with untouched(copy):
            complaint(thalweg("study", command, copy), "is not what was registered on", "arms, tune changed")
    other = tmp_path / "other"
    other.mkdir()
    (other / "protocol.yaml").write_text(PROTOCOL.replace("updates: 4", "updates: 5"))
    assert thalweg("study", "register", other / "protocol.yaml").status == 0
    shutil.copytree(copy / "records", other / "records")
    for command in ("run", "report"):
        complaint(thalweg("study", command, other), "belongs to registration", "move it to its own study")
    shutil.rmtree(other / "records")
    shutil.copytree(copy / "work", other / "work")
    complaint(thalweg("study", "run", other), "is of another registration: remove it")


def test_parts_that_a_study_does_not_have_are_refused(tmp_path: Path) -> None:
    folder = registered(tmp_path / "study")
    for words, fragment in (
        (("--only", "splt-3"), "--only splt-3: the protocol has no such arm; did you mean 'split-3'?"),
        (("--seeds", "2"), "--seeds 2: the protocol has the seeds 0, 1"),
        (("--seeds", "a"), "--seeds has 'a'"),
        (("--workers", "0"), "--workers is 0"),
    ):
        with untouched(folder):
            complaint(thalweg("study", "run", folder, *words), fragment)
    complaint(thalweg("study", "report", folder), "has no records yet")
    complaint(thalweg("study", "run", tmp_path), "has no registration.json")
    complaint(thalweg("study", "register", folder / "missing" / "protocol.yaml"), "there is no such settings file")


def test_data_drawn_anew_are_those_of_another_root_for_each_seed(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "protocol.yaml").write_text(PROTOCOL.replace("data: {", "data: {anew: true, seed: 3, "))
    assert thalweg("study", "register", folder / "protocol.yaml").status == 0
    done = thalweg("study", "run", folder, "--workers", "1", "--only", "base")
    assert (done.status, done.err) == (0, "")
    work = folder / "work"
    assert not (work / "pairs.extxyz").exists()
    for seed in (0, 1):
        drawn = read_pairs(work / f"seed-{seed}" / "data" / "held-out.extxyz")
        same = Silicon().make(2, 10 * (3 + seed) + 1)
        assert drawn.ids == same.ids
        assert torch.equal(drawn.starts.positions, same.starts.positions)
        judged = read(folder / "records" / f"seed-{seed}" / "base.json")["evaluation"]["pairs"]
        assert {pair["id"] for pair in judged} == set(drawn.ids)


def test_no_arm_is_started_after_the_minutes_are_over(tmp_path: Path) -> None:
    folder = registered(tmp_path / "study")
    done = thalweg("study", "run", folder, "--minutes", "0", "--only", "base")
    assert done.status == 0
    assert done.out.splitlines()[-2:] == [
        "4 not started: seed 0, fitting the base; seed 0, base; seed 1, fitting the base; seed 1, base",
        "the same command goes on",
    ]


# labels that pairs cost anyway


def test_labels_along_the_path_are_every_frame_that_the_reference_computed(tmp_path: Path) -> None:
    testbed = Silicon()
    pairs = testbed.make(3, 7)
    found = testbed.path().run(testbed.reference(), pairs.starts)
    assert set(found.outcomes) == {Outcome.CONVERGED}
    frames = labels_of(testbed, pairs, "path")
    assert len(frames) == sum(steps + 1 for steps in found.steps.tolist())
    assert set(frames.parents) == set(pairs.parents)
    label = testbed.reference()(frames.structures)
    assert float((label.forces - frames.forces).abs().max()) < 1e-9
    last = frames.with_ids([f"{name}-step-{n:04d}" for name, n in zip(pairs.ids, found.steps.tolist(), strict=True)])
    assert float((last.energy - pairs.energy_minimum).abs().max()) < 1e-6
    assert float(last.forces.norm(dim=1).max()) < testbed.settling.fmax

    few = labels_of(testbed, pairs, "path", every=10)
    assert len(few) == sum(n // 10 + 1 + (n % 10 > 0) for n in found.steps.tolist())
    assert set(few.ids) < set(frames.ids)

    ends = labels_of(testbed, pairs, "ends")
    assert len(ends) == 6
    first = frames.with_ids([f"{name}-step-0000" for name in pairs.ids])
    assert float((ends.energy[:3] - first.energy).abs().max()) < 1e-9
