"""Every command on the smallest inputs: what it writes, what it says, its exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import warnings
from pathlib import Path

import pytest

from tests.cli.conftest import SHORT, SMALL, Inputs
from tests.cli.terminal import alone, complaint, listing, started, thalweg, untouched
from thalweg import console
from thalweg.gradients.unrolled import Unrolled
from thalweg.structures.extended_xyz import read_frames, read_pairs

CDTE = Path(__file__).resolve().parents[1] / "data" / "cdte_vacancy"


def works(*words: object) -> str:
    """Run a command that must succeed without a word on standard error; return what it printed."""
    done = thalweg(*words)
    assert (done.status, done.err) == (0, ""), done
    return done.out


# data


def test_make_writes_pairs_and_frames_that_depend_on_the_seed_alone(tmp_path: Path) -> None:
    assert works("data", "make", "silicon", tmp_path / "a", "--count", 1) == f"wrote 1 pairs to {tmp_path / 'a'}\n"
    works("data", "make", "silicon", tmp_path / "b", "--count", 1)
    works("data", "make", "silicon", tmp_path / "c", "--count", 1, "--seed", 1, 'defects={"vacancy": 1}')
    assert works("data", "make", "silicon", tmp_path / "f", "--count", 2, "--frames").startswith("wrote 2 frames to ")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert [int(read_pairs(tmp_path / name).starts.counts[0]) for name in "abc"] == [65, 65, 63]
    assert len(read_frames(tmp_path / "f")) == 2


@pytest.fixture(scope="session")
def cdte(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The relaxations of a Cd vacancy, imported."""
    file = tmp_path_factory.mktemp("cdte") / "cdte.extxyz"
    assert works("data", "import", CDTE, "--out", file) == f"wrote 26 pairs to {file}; skipped none\n"
    return file


def test_describe_finds_the_basins_of_the_vacancy_by_energy(cdte: Path) -> None:
    said = works("data", "describe", cdte)
    assert said.startswith("26 pairs of 1 parent\nenergies known: 26 of 26 minima\n")
    by_energy = said.partition("basins by energy")[2].partition("basins by geometry")[0]
    assert re.findall(r"(\d+) pairs  (-[\d.]+) eV", by_energy) == [("14", "-206.4780"), ("12", "-205.7266")]


def test_split_by_pair_and_by_parent_share_nothing(cdte: Path, inputs: Inputs, tmp_path: Path) -> None:
    for source, by in ((cdte, "pair"), (inputs.pairs, "parent")):
        train, held = tmp_path / f"train-{by}", tmp_path / f"held-{by}"
        said = works("data", "split", source, "--train", train, "--held-out", held, "--by", by)
        parts = [set(read_pairs(file).ids) for file in (train, held)]
        assert said == f"wrote {len(parts[0])} pairs to {train}\nwrote {len(parts[1])} pairs to {held}\n"
        assert min(map(len, parts)) > 0
        assert parts[0] & parts[1] == set()
        assert parts[0] | parts[1] == set(read_pairs(source).ids)
    complaint(thalweg("data", "split", cdte, "--train", tmp_path / "x", "--held-out", tmp_path / "y"), "one parent")


# training


def test_train_writes_a_run_and_skips_it_when_asked_again(inputs: Inputs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ("train", inputs.frames, f"out={run}", *SMALL, "optimiser.updates=2", "optimiser.warmup=1")
    assert works(*command).endswith(f"wrote: {run / 'model.safetensors'}\n")
    results = json.loads((run / "results.json").read_text())
    assert (results["command"], results["updates"], results["skipped_updates"]) == ("train", 2, 0)
    with untouched(tmp_path):
        assert works(*command) == f"already finished: {run / 'model.safetensors'}\n"


@pytest.mark.parametrize("kind", ["split", "implicit", "unrolled", "phantom"])
def test_tune_trains_by_every_route(kind: str, inputs: Inputs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [word for word in SHORT if kind == "split" or not word.startswith("route.")]
    command = ("tune", "stillinger-weber:Si", inputs.pairs, f"out={run}", *words, f"route.kind={kind}")
    said = works(*command, "relaxation.alpha=0.02", "--validation", inputs.held_out)
    assert re.search(r"update 2 of 2, loss \S+, gradient_norm \S+, 2 of 2 took part, validation \d of 2 right", said)
    results = json.loads((run / "results.json").read_text())
    assert (results["route"], results["updates"], results["skipped_updates"]) == (kind, 2, 0)
    assert results["saved_bytes"] > 0
    assert results["peak_bytes"] > 0


def test_tune_replays_frames(inputs: Inputs, tmp_path: Path) -> None:
    command = ("tune", inputs.model, inputs.pairs, f"out={tmp_path / 'run'}", *SHORT)
    works(*command, "--replay", inputs.frames, "replay={share: 0.5, batch: 2}")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["replay_frames"], results["replay_weight"] > 0) == (4, True)
    works("data", "convert", inputs.frames, tmp_path / "store")
    stored = ("tune", inputs.model, inputs.pairs, f"out={tmp_path / 'stored'}", *SHORT)
    works(*stored, "--replay", tmp_path / "store", "replay={share: 0.5, batch: 2}")
    assert json.loads((tmp_path / "stored" / "results.json").read_text())["replay_frames"] == 4
    complaint(thalweg(*stored, "--replay", tmp_path, "replay.share=0.5"), "no index.json, so this is no store")
    none = "replay.share is 0.5, but there are no frames to replay: give labelled frames (--replay FILE)"
    complaint(thalweg(*command, "replay.share=0.5"), none)
    complaint(thalweg(*command, "--replay", inputs.frames), "replay.share is 0 and replay.weight null")
    complaint(thalweg(*command, "--replay", inputs.pairs, "replay.share=0.5"), "pairs.extxyz")


def test_tune_says_why_an_update_learnt_nothing(inputs: Inputs, tmp_path: Path) -> None:
    words = ("tune", inputs.model, inputs.pairs, f"out={tmp_path / 'run'}", *SHORT, "relaxation.max_steps=0")
    said = works(*(w for w in words if w != "route.horizon=3"), "route.kind=implicit")
    assert "0 of 2 took part (2 out_of_steps), skipped: no structure took part" in said
    assert f"2 of 2 updates changed nothing: see 'skipped' and 'reasons' in {tmp_path / 'run'}/metrics.jsonl" in said


def test_tune_interrupted_resumes_to_the_same_model(inputs: Inputs, tmp_path: Path) -> None:
    """A real process, interrupted from the keyboard after some updates: one line, status 130, and it goes on."""
    command = ("tune", inputs.model, inputs.pairs, *SHORT, "optimiser.updates=40", "checkpoint_every=1")
    with started(*command, f"out={tmp_path / 'stopped'}") as process:
        for line in process.stdout or ():
            if line.startswith("update 3 "):
                process.send_signal(signal.SIGINT)
                break
        _, err = process.communicate(timeout=240)
    assert process.returncode == 130
    assert err.splitlines() == [
        "thalweg: interrupted; the same command again takes train, tune, demo and study on from where they were, "
        "other commands have written nothing"
    ]
    assert "results.json" not in listing(tmp_path / "stopped")
    began = works(*command, f"out={tmp_path / 'stopped'}").splitlines()[0]
    assert int(began.split()[1]) >= 3
    works(*command, f"out={tmp_path / 'whole'}")
    ends = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("stopped", "whole")]
    assert ends[0] == ends[1]


def test_an_interrupt_before_any_command_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("thalweg.cli.app", interrupt)
    complaint(thalweg("demo"), "interrupted", status=130)


def test_an_alpha_grown_too_large_is_one_plain_line(inputs: Inputs, tmp_path: Path) -> None:
    done = thalweg("tune", "stillinger-weber:Si", inputs.pairs, f"out={tmp_path / 'run'}", *SHORT, "relaxation.alpha=9")
    complaint(done, "thalweg: warning: after update 1: alpha is 9.0 Å²/eV and λ_max", "use alpha", status=0)
    assert "RuntimeWarning" not in done.err
    assert "tuning.py" not in done.err


def test_python_itself_would_show_a_source_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The negative control of the line above."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert "source.py:7" in warnings.formatwarning("first", RuntimeWarning, "source.py", 7)
        console.show_plain_warnings()
        warnings.warn("first\n  second", RuntimeWarning, stacklevel=1)
        assert capsys.readouterr().err == "thalweg: warning: first second\n"


# relaxing and judging


def test_relax_writes_every_structure_with_its_outcome(inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "relaxed.extxyz"
    said = works("relax", "stillinger-weber:Si", inputs.pairs, "--out", out, "alpha=0.03", "fmax=1e-3")
    assert said == f"8 converged: every force is below fmax at the returned positions\nwrote 8 structures to {out}\n"
    assert out.read_text().count("outcome=converged") == 8
    said = works("relax", inputs.model, inputs.pairs, "--out", out, "steps=1", "max_steps=0", "--overwrite")
    assert re.match(r"alpha = \S+ Å²/eV, measured on 4 structures\n", said)
    assert re.search(r"^8 out of steps: .*raise max_steps or fmax$", said, re.MULTILINE)


def test_evaluate_counts_right_basins_by_both_rules(inputs: Inputs, tmp_path: Path) -> None:
    surface, pairs = "stillinger-weber:Si", inputs.held_out
    by_distance = works("evaluate", surface, pairs, "alpha=0.03")
    assert by_distance.startswith("model: 2 of 2 in the right basin by the distance rule (95 % interval 34 to 100 %)\n")
    out = tmp_path / "record.json"
    told = ("alpha=0.03", "--rule", "quench", "--reference", surface, "--base", inputs.model, "--out", out)
    by_quench = works("evaluate", surface, pairs, *told)
    assert re.search(r"^base: \d of 2 in the right basin by the quench rule", by_quench, re.MULTILINE)
    assert re.search(r"^model: 2 of 2 in the right basin by the quench rule", by_quench, re.MULTILINE)
    assert re.search(r"^model against base: \d right basins gained, 0 lost \(McNemar p = ", by_quench, re.MULTILINE)
    record = json.loads(out.read_text())
    assert (record["rule"], record["basins_right"], record["basins_total"]) == ("quench", 2, 2)
    assert record["against_base"]["basins_lost"] == 0


def test_evaluate_says_what_tuning_cost(inputs: Inputs, tmp_path: Path) -> None:
    words = ("evaluate", "stillinger-weber:Si", inputs.held_out, "alpha=0.02", "--base", inputs.model)
    said = works(*words, "--frames", inputs.frames, "--crystal", "silicon", "--out", tmp_path / "found.json")
    assert "model, 4 labelled frames: energy RMSE 0.0, MAE 0.0 meV/atom (without the mean of" in said
    crystal = "a 5.4309 Å, cohesive energy 4.337 eV, C11 151.4, C12 76.4, C44 56.4 (unrelaxed 109.8) GPa"
    assert f"model, crystal: {crystal}\nreference, crystal: {crystal}\n" in said
    assert "base, 4 labelled frames: energy RMSE " in said
    assert "base, crystal: " in said
    record = json.loads((tmp_path / "found.json").read_text())
    assert record["cost"]["crystal"]["c11"] == pytest.approx(151.42, abs=0.01)
    assert "labelled" not in works(*words)
    complaint(thalweg(*words, "--crystal", "silicn"), "testbed 'silicn' is not known; did you mean 'silicon'")


def test_verify_passes_a_sound_potential_and_fails_a_broken_gradient(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("verify", "stillinger-weber:Si", inputs.held_out, "--count", 1, "--steps", 2)
    said = works(*command)
    assert "\n9 of 9 passed: gradients against central differences in float64, bound 1e-6\n" in said
    assert said.splitlines()[-1].startswith("4 of 4 refused: ")
    assert "FAILED" not in said
    sound = Unrolled.differentiate

    def broken(self: Unrolled, *words: object) -> object:
        result = sound(self, *words)
        result.guided.positions.register_hook(lambda gradient: 1.001 * gradient)
        return result

    monkeypatch.setattr(Unrolled, "differentiate", broken)
    done = thalweg(*command)
    assert (done.status, done.err) == (1, "")
    failed = [line.split()[0] for line in done.out.splitlines() if "FAILED" in line]
    assert failed == ["unrolled"] * 3
    assert "\n6 of 9 passed" in done.out


def test_the_program_itself_runs(cdte: Path) -> None:
    done = alone("data", "describe", cdte)
    assert (done.status, done.err) == (0, "")
    assert done.out == works("data", "describe", cdte)


def test_a_closed_pipe_ends_quietly(cdte: Path) -> None:
    """As `thalweg data describe … | head -1` does."""
    read, write = os.pipe()
    os.close(read)
    try:
        assert alone("data", "describe", cdte, stdout=write).err == ""
    finally:
        os.close(write)


@pytest.mark.slow
def test_several_processes_end_in_the_same_one_line(inputs: Inputs, tmp_path: Path) -> None:
    """What fails in a process that shares the batch reaches the terminal like anything else."""
    run = tmp_path / "run"
    command = ("tune", inputs.model, inputs.pairs, f"out={run}", *SHORT)
    works(*command)
    (run / "results.json").unlink()
    (run / "checkpoint.safetensors").write_bytes(b"noise")
    done = alone(*command, "device.devices=2")
    complaint(done, "checkpoint.safetensors: the checkpoint is damaged", "begin anew with overwrite=true")
