"""The demonstration on the smallest sizes: what it writes, that it is skipped, killed and resumed, and how it fails."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.terminal import Done, alone, complaint, listing, started, thalweg, untouched
from thalweg import errors

pytestmark = pytest.mark.slow

TINY = (
    *("pairs=8", "held_out=2", "frames=8", "workers=2"),
    *("base.potential.channels=4", "base.potential.layers=1", "base.potential.cutoff=3.0"),
    *("base.optimiser.updates=3", "base.optimiser.warmup=1"),
    *("tune.optimiser.updates=3", "tune.optimiser.warmup=1", "tune.optimiser.batch=2"),
    *("tune.relaxation.steps=20", "tune.relaxation.max_steps=5"),
)
ARMS = ["base", "implicit", "bptt", "split-20"]
MEASURED = ("seconds", "peak_bytes")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A demonstration run to its end in a process of its own."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    return folder, alone("demo", f"out={folder}", *TINY)


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def test_the_demo_measures_every_arm_and_writes_the_report(finished: tuple[Path, Done]) -> None:
    folder, done = finished
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[-1] == f"wrote {folder / 'results.json'} and {folder / 'report.html'}"
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")
    arms = results(folder)["arms"]
    assert [arm["name"] for arm in arms] == ARMS
    for arm in arms:
        assert arm["basins_total"] == 2
        assert 0 <= arm["basins_right"] <= 2
        assert sum(arm["outcomes"].values()) == 2
        assert arm["dq_mean"] > 0
        assert arm["cost"]["errors"]["frames"] == 50
        assert arm["cost"]["errors"]["force_rmse"] > 0
        assert arm["cost"]["reference"]["c11"] == pytest.approx(151.42, abs=0.01)
        if arm["name"] == "base":  # not trained: not measured, which is not 0
            assert [arm[key] for key in ("saved_bytes", *MEASURED)] == [None] * 3
        else:
            assert all(arm[key] > 0 for key in ("saved_bytes", *MEASURED))


def test_the_demo_run_twice_is_skipped(finished: tuple[Path, Done]) -> None:
    folder, _ = finished
    before = listing(folder)
    done = thalweg("demo", f"out={folder}", *TINY)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"{folder} holds this demonstration, finished\n")
    assert listing(folder) == before


def test_the_demo_killed_in_the_middle_resumes_to_the_same_results(finished: tuple[Path, Done], tmp_path: Path) -> None:
    """SIGKILL hits the command alone: the processes it started must end too, before the next run takes their folder."""
    folder = tmp_path / "demo"
    process = started("demo", f"out={folder}", *TINY)
    metrics = folder / "arms" / "bptt" / "metrics.jsonl"
    while not metrics.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    children = children_of(process.pid)
    process.kill()
    process.communicate()
    assert len(children) >= 2
    wait_for_the_end_of(children)
    assert not (folder / "results.json").exists()

    again = alone("demo", f"out={folder}", *TINY)
    assert (again.status, again.err) == (0, "")
    assert comparable(folder) == comparable(finished[0])


def comparable(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in arm.items() if k not in MEASURED} for arm in results(folder)["arms"]]


def children_of(pid: int) -> list[int]:
    return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for_the_end_of(pids: list[int]) -> None:
    for _ in range(500):
        if not any(alive(pid) for pid in pids):
            return
        time.sleep(0.02)
    raise AssertionError(f"of {pids} some outlived the command that started them by 10 s")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture
def half(finished: tuple[Path, Done], tmp_path: Path) -> Path:
    """The finished demonstration without its results, as if it had been killed at the very end."""
    folder = tmp_path / "half"
    shutil.copytree(finished[0], folder)
    (folder / "results.json").unlink()
    return folder


def test_an_arm_that_fails_in_its_process_is_the_same_one_line(half: Path) -> None:
    (half / "arms" / "bptt" / "evaluation.json").write_text("{")
    for kept in ("arm.json", "evaluation.json"):
        assert (half / "arms" / "bptt" / kept).exists()
    done = alone("demo", f"out={half}", *TINY, "workers=1")
    complaint(done, "arms/bptt/evaluation.json: cannot be read", "remove it to have it made again")


def test_an_interrupted_demo_is_one_line_and_ends_its_processes(half: Path) -> None:
    """The terminal interrupts the whole group; only the command itself answers."""
    for arm in ("bptt", "split-20"):
        shutil.rmtree(half / "arms" / arm)
    process = started("demo", f"out={half}", *TINY, start_new_session=True)
    while not any((half / "arms" / arm / "settings.yaml").exists() for arm in ("bptt", "split-20")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    children = children_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=240)
    complaint(Done(process.returncode, out, err), "interrupted; the same command again", status=130)
    wait_for_the_end_of(children)


def test_the_process_of_an_arm_killed_is_one_line(half: Path, tmp_path: Path) -> None:
    shutil.rmtree(half / "arms" / "bptt")
    process = started("demo", f"out={half}", *TINY, "workers=1")
    while not (half / "arms" / "bptt" / "settings.yaml").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    for pid in children_of(process.pid):
        if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    complaint(Done(process.returncode, out, err), "was killed", "with fewer workers (now 1) it needs less memory")


def test_another_demo_is_refused_and_overwritten_when_told_with_new_data(half: Path) -> None:
    other = [word if word != "pairs=8" else "pairs=9" for word in TINY]
    with untouched(half):
        complaint(thalweg("demo", f"out={half}", *other), "(pairs is 8 there and 9 here)")
    before = (half / "pairs.extxyz").read_bytes()
    with started("demo", f"out={half}", *other, "overwrite=true") as process:
        while "training a weak base" not in (process.stdout.readline() if process.stdout else ""):
            assert process.poll() is None
        process.kill()
    assert not (half / "arms").exists()
    assert (half / "pairs.extxyz").read_bytes() != before
    assert (half / "pairs.extxyz").read_text().count("role=start") == 9


def test_errors_survive_the_way_between_processes() -> None:
    kinds = [x for x in vars(errors).values() if isinstance(x, type) and issubclass(x, errors.ThalwegError)]
    assert len(kinds) >= 7
    for kind in kinds:
        sent = pickle.loads(pickle.dumps(kind("what went wrong")))
        assert type(sent) is kind
        assert str(sent) == "what went wrong"
