"""Bad input: one clear line on standard error, exit status 2, no traceback, and nothing written or overwritten."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.cli.conftest import SHORT, SMALL, Inputs
from tests.cli.terminal import alone, complaint, listing, thalweg, untouched
from thalweg import errors, storage

Text = Callable[[list[str]], list[str]]

# files of structures: seven atoms a block, so nine lines; the start of the first pair and its minimum


def row(number: int, change: Callable[[list[str]], list[str]]) -> Text:
    """Return what changes the words of one line."""
    return lambda lines: [" ".join(change(x.split())) if k == number else x for k, x in enumerate(lines)]


def lattice(cell: str) -> Text:
    return lambda lines: [lines[0], re.sub('Lattice="[^"]*"', f'Lattice="{cell}"', lines[1]), *lines[2:]]


def germanium(*rows: int) -> Text:
    return lambda lines: [x.replace("Si", "Ge", 1) if k in rows else x for k, x in enumerate(lines)]


BROKEN: dict[str, tuple[Text, str]] = {
    "empty": (lambda lines: [], "the file is empty: give at least one structure"),
    "cut between lines": (lambda lines: lines[:-3], "7 atoms announced but 4 lines follow: the file is cut short"),
    "cut inside a line": (
        lambda lines: [*lines[:-1], lines[-1][: len(lines[-1]) // 3]],
        "line 72 has 2 entries and the atom before it 4: the file is damaged or cut short",
    ),
    "NaN": (row(3, lambda w: [w[0], "nan", *w[2:]]), "frame 0 (line 1): structure 'small-1-0': position of atom 1 is"),
    "no volume": (lattice("5 0 0 0 5 0 0 0 0"), "the cell has no volume"),
    "no cell": (lattice("0 0 0 0 0 0 0 0 0"), "the cell has no volume"),
    "overlap": (lambda lines: [*lines[:3], lines[2], *lines[4:]], "atoms 0 and 1 are 0.000 Å apart"),
    "other number of atoms": (
        lambda lines: [*lines[:9], "6", *lines[10:17], *lines[18:]],
        "frame 1 (line 10): pair 'small-1-0': the start has 7 atoms and the minimum 6",
    ),
    "other order of species": (germanium(2, 12), "atom 0 has atomic number 32 in the start and 14 in the minimum"),
    "no role": (lambda lines: [x.replace("role=start", "") for x in lines], "no role= on the comment line"),
    "twice": (lambda lines: [*lines[:9], *lines[:9]], "pair 'small-1-0' has a second start; the first is frame 0"),
    "not extended XYZ": (lambda lines: ["hello", "world"], "expected the number of atoms, found 'hello'"),
}


@pytest.fixture
def broken(inputs: Inputs, tmp_path: Path) -> Callable[[str], Path]:
    """Write pairs with one fault and return the file."""

    def write(fault: str) -> Path:
        lines = BROKEN[fault][0](inputs.pairs.read_text().splitlines())
        file = tmp_path / f"{fault.replace(' ', '-')}.extxyz"
        file.write_text("".join(f"{line}\n" for line in lines))
        return file

    return write


def test_the_files_that_are_broken_below_were_whole(inputs: Inputs, tmp_path: Path) -> None:
    """The faults are in the changes: the file they start from is read."""
    assert thalweg("data", "describe", inputs.pairs).status == 0


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_of_pairs_is_refused(
    fault: str, broken: Callable[[str], Path], inputs: Inputs, tmp_path: Path
) -> None:
    file, reason = broken(fault), BROKEN[fault][1]
    for command in (
        ("tune", inputs.model, file, f"out={tmp_path / 'run'}", *SHORT),
        ("evaluate", inputs.model, file, "--out", tmp_path / "record.json"),
        ("verify", inputs.model, file),
        ("data", "describe", file),
        ("data", "split", file, "--train", tmp_path / "a.extxyz", "--held-out", tmp_path / "b.extxyz"),
    ):
        with untouched(tmp_path, inputs.folder):
            complaint(thalweg(*command), file.name, reason)


@pytest.mark.parametrize("fault", ["empty", "cut between lines", "NaN", "no volume", "overlap", "not extended XYZ"])
def test_a_broken_file_of_structures_is_refused(
    fault: str, broken: Callable[[str], Path], inputs: Inputs, tmp_path: Path
) -> None:
    file = broken(fault)
    with untouched(tmp_path, inputs.folder):
        complaint(thalweg("relax", inputs.model, file, "--out", tmp_path / "out.extxyz"), file.name)
    with untouched(tmp_path):
        complaint(thalweg("data", "import", file, "--out", tmp_path / "out.extxyz"), file.name)


@pytest.mark.parametrize("command", ["train", "tune", "relax", "evaluate", "verify", "describe", "split", "import"])
def test_a_missing_file_is_refused(command: str, inputs: Inputs, tmp_path: Path) -> None:
    gone = tmp_path / "gone.extxyz"
    words = {
        "train": ("train", gone, f"out={tmp_path / 'run'}"),
        "tune": ("tune", inputs.model, gone, f"out={tmp_path / 'run'}"),
        "relax": ("relax", inputs.model, gone, "--out", tmp_path / "x"),
        "evaluate": ("evaluate", inputs.model, gone),
        "verify": ("verify", inputs.model, gone),
        "describe": ("data", "describe", gone),
        "split": ("data", "split", gone, "--train", tmp_path / "a", "--held-out", tmp_path / "b"),
        "import": ("data", "import", gone, "--out", tmp_path / "x"),
    }[command]
    with untouched(tmp_path):
        complaint(thalweg(*words), "gone.extxyz: there is no such file")


@pytest.mark.parametrize("command", ["tune", "relax", "evaluate", "verify"])
def test_an_element_the_model_never_saw_is_refused(command: str, inputs: Inputs, tmp_path: Path) -> None:
    file = tmp_path / "germanium.extxyz"
    file.write_text(inputs.pairs.read_text().replace("\nSi ", "\nGe "))
    words = {"tune": [f"out={tmp_path / 'run'}", *SHORT], "relax": ["--out", tmp_path / "x"]}.get(command, [])
    with untouched(tmp_path, inputs.folder):
        complaint(
            thalweg(command, inputs.model, file, *words), "contains Ge, which this painn potential", "it knows Si"
        )


def test_frames_without_forces_or_of_another_element_are_refused(inputs: Inputs, tmp_path: Path) -> None:
    frames = inputs.frames.read_text()
    with untouched(tmp_path):
        complaint(thalweg("train", inputs.pairs, f"out={tmp_path / 'run'}"), "no energy: force matching needs")
    file = tmp_path / "germanium.extxyz"
    file.write_text(frames.replace("\nSi ", "\nGe "))
    told = ("optimiser.batch=1", "optimiser.updates=1", "optimiser.warmup=0")
    with untouched(tmp_path):
        complaint(thalweg("train", file, f"out={tmp_path / 'run'}", "potential.species=[14]", *told), "contains Ge")


def test_a_parent_on_both_sides_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    with untouched(tmp_path):
        done = thalweg(
            "tune", inputs.model, inputs.pairs, f"out={tmp_path / 'r'}", "--validation", inputs.pairs, *SHORT
        )
        complaint(done, "parent 'small-1-0' is in training and in validation pairs", "thalweg data split")


# settings


SETTINGS = {
    "relaxation.steps=-1": "relaxation.steps is -1: allowed is 1 or more",
    "relaxation.alpha=-1": "relaxation.alpha is -1: allowed is above 0",
    "relaxation.steps=abc": "relaxation.steps is 'abc': it should be a whole number",
    "optimiser.learning_rate=-1": "optimiser.learning_rate is -1: allowed is above 0",
    "optimiser.final=2": "optimiser.final is 2: allowed is 1 or less",
    "optimiser.batch=5": "optimiser.batch is 5, but there are 4 training pairs: allowed is 1 to 4",
    "route.horizon=7": "route.horizon is 7, but the relaxation makes 6 updates: allowed is 1 to 6",
    "route.kind=splt": "route 'splt' is not known; did you mean 'split'?",
    "route=split": "route: allowed is a mapping with a kind; known: implicit, phantom, split, unrolled",
    "relaxation.finish=lbgfs": "finisher 'lbgfs' is not known; did you mean 'lbfgs'?",
    "relaxation.finish=x": "finisher 'x' is not known; known: ",
    "optimizer.updates=3": "optimizer is not a setting; did you mean 'optimiser'?",
    "relaxation.fmx=1": "relaxation.fmx is not a setting; did you mean 'fmax'?",
    "route.horizn=1": "route.horizn is not a setting; did you mean 'horizon'?",
    "relaxation": "override 'relaxation' is not of the form key=value",
    "=3": "override '=3' is not of the form key=value",
    "optimiser.updates=[": "override 'optimiser.updates=[': not valid YAML at line 1, column 2",
    "optimiser.clip.a=1": "optimiser.clip",
    "seed=-1": "seed is -1: allowed is 0 or more",
}


@pytest.mark.parametrize("word", SETTINGS)
def test_a_wrong_setting_is_refused_with_its_full_name(word: str, inputs: Inputs, tmp_path: Path) -> None:
    with untouched(tmp_path, inputs.folder):
        done = thalweg("tune", inputs.model, inputs.pairs, f"out={tmp_path / 'run'}", *SHORT, word)
        complaint(done, SETTINGS[word])


FILES = {
    "optimiser: [1\nseed: 2\n": "not valid YAML at line 2, column 5",
    "- 1\n": "settings are a mapping of keys to values, not a list",
    "seed: 1\nseed: 2\n": "not valid YAML at line 2, column 1: the key 'seed' occurs twice",
    "optimiser:\n  update: 3\n": "optimiser.update is not a setting; did you mean 'updates'?",
}


@pytest.mark.parametrize("text", FILES)
def test_a_wrong_settings_file_is_refused(text: str, inputs: Inputs, tmp_path: Path) -> None:
    file = tmp_path / "told.yaml"
    file.write_text(text)
    with untouched(tmp_path):
        done = thalweg("tune", inputs.model, inputs.pairs, "--settings", file, f"out={tmp_path / 'run'}")
        complaint(done, f"{file}: {FILES[text]}")
        gone = thalweg("tune", inputs.model, inputs.pairs, "--settings", tmp_path / "gone.yaml")
        complaint(gone, "there is no such settings file; check the path")


@pytest.mark.parametrize("command", ["relax", "evaluate"])
def test_a_negative_step_or_unknown_setting_of_a_path_is_refused(command: str, inputs: Inputs, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "x")
    for word, reason in {"alpha=-1": "allowed is above 0", "steps=-1": "1 or more", "stps=1": "mean 'steps'"}.items():
        with untouched(tmp_path):
            complaint(thalweg(command, inputs.model, inputs.held_out, *out, word), reason)


def test_wrong_words_to_data_are_refused(inputs: Inputs, tmp_path: Path) -> None:
    out, ends = tmp_path / "x", ("--train", tmp_path / "a", "--held-out", tmp_path / "b")
    cases = {
        ("make", "silikon", out): "testbed 'silikon' is not known; did you mean 'silicon'?",
        ("make", "gold", out): "testbed 'gold' is not known; known: ",
        ("make", "silicon", out, "atoms=65"): "silicon atoms is 65: allowed is 8 m³",
        ("make", "silicon", out, "atom=64"): "silicon has no setting 'atom'; did you mean 'atoms'?",
        ("make", "silicon", out, "--count", 0): "0 structures were asked for: allowed is 1 or more",
        ("split", inputs.pairs, *ends, "--by", "atom"): "--by is 'atom': allowed are parent and pair",
        ("split", inputs.pairs, *ends, "--share", 1.5): "held_out is 1.5: allowed is a fraction between 0 and 1",
        ("split", inputs.pairs, "--train", out, "--held-out", out): "give two files",
    }
    for words, reason in cases.items():
        with untouched(tmp_path):
            complaint(thalweg("data", *words), reason)


def test_one_parent_cannot_be_split_by_parent_and_one_pair_not_at_all(inputs: Inputs, tmp_path: Path) -> None:
    ends = ("--train", tmp_path / "a", "--held-out", tmp_path / "b")
    lines = inputs.pairs.read_text().splitlines(keepends=True)
    (tmp_path / "one.extxyz").write_text("".join(lines[:18]))
    alike = re.sub(r"parent=\S+", "parent=p", inputs.pairs.read_text())
    (tmp_path / "alike.extxyz").write_text(alike)
    with untouched(tmp_path):
        complaint(thalweg("data", "split", tmp_path / "one.extxyz", *ends), "only one entry")
        complaint(thalweg("data", "split", tmp_path / "alike.extxyz", *ends), "one parent, 'p'", "split by pair")


def test_wrong_words_to_evaluate_and_verify_are_refused(inputs: Inputs, tmp_path: Path) -> None:
    pairs, out = inputs.held_out, ("--out", tmp_path / "x")
    cases = {
        ("evaluate", inputs.model, pairs, *out, "--rule", "quench"): "rule 'quench' relaxes on the reference surface",
        ("evaluate", inputs.model, pairs, *out, "--rule", "quenc"): "there is no basin rule 'quenc'; did you mean",
        (
            *("evaluate", inputs.model, pairs, *out, "--rule", "quench"),
            *("--reference", "stillinger-weber:CdTe-2013"),
        ): "contains Si, which this stillinger-weber potential never saw; it knows Cd, Te",
        ("evaluate", inputs.model, pairs, *out, "--base", tmp_path / "gone"): "there is no such model file",
        ("evaluate", inputs.model, pairs, *out, "--base", "stillinger-weber:CdTe-2013"): "contains Si",
        ("verify", inputs.model, "--count", 0): "count is 0: allowed is 1 or more starts",
        ("verify", inputs.model, "--steps", 1): "steps is 1: allowed is 2 or more updates",
    }
    for words, reason in cases.items():
        with untouched(tmp_path):
            done = thalweg(*words)
            complaint(done, reason)
            assert done.out == ""  # refused before any work


DEMO = {
    "testbed=silicium": "testbed 'silicium' is not known; did you mean 'silicon'?",
    "workers=0": "workers is 0: allowed is 1 or more",
    "pairs=7": "pairs is 7: allowed is 8 or more",
    "tune.relaxation.steps=10": "route.horizon is 20, but the relaxation makes 10 updates: allowed is 1 to 10",
    "tune.relaxation.alpha=null": "tune.relaxation.alpha is null: every arm relaxes by the same one",
    "tune.optimiser.batch=161": "tune.optimiser.batch is 161: allowed is 1 to pairs (160)",
    "base.optimiser.batch=201": "base.optimiser.batch is 201: allowed is 1 to frames (200)",
    "tune.route.kind=implicit": "tune.route is the arm's own: leave it out",
}


@pytest.mark.parametrize("word", DEMO)
def test_a_wrong_setting_of_the_demo_is_refused_before_any_work(word: str, tmp_path: Path) -> None:
    with untouched(tmp_path):
        complaint(thalweg("demo", f"out={tmp_path / 'demo'}", word), DEMO[word])


# models and checkpoints


def rewritten(model: Path, to: Path, *, values: float | None = None, **header: object) -> Path:
    """Write a copy of a model file or checkpoint with other entries in its header or other numbers."""
    with safe_open(model, framework="pt") as file:
        old = json.loads(file.metadata()["header"])
    tensors = load_file(model)
    if values is not None:
        tensors = {k: torch.full_like(t, values) if t.is_floating_point() else t for k, t in tensors.items()}
    save_file(tensors, to, {"header": json.dumps({**old, **header})})
    return to


def test_a_model_file_that_cannot_be_used_is_refused_by_every_command(inputs: Inputs, tmp_path: Path) -> None:
    half = inputs.model.read_bytes()[: inputs.model.stat().st_size // 2]
    (tmp_path / "half").write_bytes(half)
    (tmp_path / "noise").write_bytes(bytes(range(256)))
    (tmp_path / "empty").write_bytes(b"")
    save_file(load_file(inputs.model), tmp_path / "bare")
    cases = {
        rewritten(inputs.model, tmp_path / "later", version=2): "format version 2 cannot be read, this release reads 1",
        rewritten(inputs.model, tmp_path / "other", format="x"): "the header does not say 'thalweg potential'",
        rewritten(inputs.model, tmp_path / "nan", values=float("nan")): "has values that are not finite",
        tmp_path / "half": "this is not a model file or it is damaged",
        tmp_path / "noise": "this is not a model file or it is damaged",
        tmp_path / "empty": "this is not a model file or it is damaged",
        tmp_path / "bare": "(it has no header)",
        tmp_path / "gone": "there is no such model file",
        inputs.folder / "base": "this is a folder; give the model file in it",
        Path("stillinger-weber:Sj"): "no published Stillinger–Weber set 'Sj'",
        tmp_path / "gone.sw": "No such file or directory; check the path",
    }
    for model, reason in cases.items():
        for command in (
            ("tune", model, inputs.pairs, f"out={tmp_path / 'run'}", *SHORT),
            ("relax", model, inputs.pairs, "--out", tmp_path / "x"),
            ("evaluate", model, inputs.held_out),
            ("verify", model),
        ):
            with untouched(tmp_path, inputs.folder):
                complaint(thalweg(*command), reason)


@pytest.mark.parametrize("fault", ["later", "half", "noise", "other run", "no header"])
def test_a_checkpoint_that_cannot_be_resumed_from_is_refused(fault: str, inputs: Inputs, tmp_path: Path) -> None:
    command = ("tune", inputs.model, inputs.pairs, f"out={tmp_path / 'run'}", *SHORT)
    assert thalweg(*command).status == 0
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    (tmp_path / "run" / "results.json").unlink()
    if fault == "later":
        rewritten(checkpoint, checkpoint, version=2)
    elif fault == "other run":
        rewritten(checkpoint, checkpoint, identity={"settings": "0", "data": "0", "start": "0"})
    elif fault == "no header":
        save_file(load_file(checkpoint), checkpoint)
    else:
        whole = checkpoint.read_bytes()
        checkpoint.write_bytes(whole[: len(whole) // 2] if fault == "half" else bytes(range(256)))
    reason = {"later": "checkpoint version 2 cannot be read", "other run": "it belongs to other settings"}
    with untouched(tmp_path, inputs.folder):
        complaint(thalweg(*command), reason.get(fault, "the checkpoint is damaged"), "overwrite=true")
    assert thalweg(*command, "overwrite=true").status == 0  # the advice works


# places to write


def test_a_file_that_exists_is_not_overwritten_unless_told(inputs: Inputs, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("mine")
    fresh = tmp_path / "fresh"
    for command in (
        ("data", "make", "silicon", there, "--count", 1),
        ("data", "import", inputs.pairs, "--out", there),
        ("data", "split", inputs.pairs, "--train", fresh, "--held-out", there),
        ("relax", inputs.model, inputs.pairs, "--out", there),
        ("evaluate", inputs.model, inputs.held_out, "--out", there),
    ):
        with untouched(tmp_path):
            done = thalweg(*command)
            complaint(done, "there exists: choose another name or give --overwrite")
            assert done.out == ""  # refused before any work
    assert thalweg("data", "import", inputs.pairs, "--out", there, "--overwrite").status == 0
    assert there.read_bytes() == inputs.pairs.read_bytes()


def test_places_that_cannot_be_written_are_refused(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    cases = {
        tmp_path / "file" / "x": "is a file, not a folder: choose another place",
        tmp_path / "absent" / "x": "does not exist: create it first",
        tmp_path / "folder": "it is a folder: give the path of a file",
    }
    for out, reason in cases.items():
        for command in (
            ("data", "make", "silicon", out, "--count", 1, "--overwrite"),
            ("data", "import", inputs.pairs, "--out", out, "--overwrite"),
            ("relax", inputs.model, inputs.pairs, "--out", out, "--overwrite"),
            ("evaluate", inputs.model, inputs.held_out, "--out", out, "--overwrite"),
        ):
            with untouched(tmp_path):
                complaint(thalweg(*command), reason)
    for run in (tmp_path / "file", tmp_path / "file" / "run"):
        for command in (("train", inputs.frames), ("tune", inputs.model, inputs.pairs, *SHORT), ("demo",)):
            words = (*command, f"out={run}", *(("optimiser.batch=2",) if command[0] == "train" else ()))
            with untouched(tmp_path):
                complaint(thalweg(*words), "a part of the path is a file, not a folder; choose another with out=")


def test_a_name_too_long_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    with untouched(tmp_path):
        complaint(thalweg("relax", inputs.model, inputs.pairs, "--out", tmp_path / ("x" * 300)), "File name too long")
        complaint(thalweg("data", "describe", tmp_path / ("x" * 300)), "File name too long")


def test_a_folder_with_another_run_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert thalweg("tune", inputs.model, inputs.pairs, f"out={run}", *SHORT).status == 0
    other = ("tune", inputs.model, inputs.pairs, f"out={run}", *SHORT, "optimiser.learning_rate=0.5")
    for words, reason in (
        (other, "holds a run with other settings (optimiser.learning_rate is 0.001 there and 0.5 here)"),
        (("tune", inputs.model, inputs.held_out, f"out={run}", *SHORT), "holds a run with other structures"),
        (("tune", "stillinger-weber:Si", inputs.pairs, f"out={run}", *SHORT), "holds a run with other start potential"),
        (("train", inputs.frames, f"out={run}", *SMALL, "optimiser.batch=2"), "holds a run with other settings"),
        (("demo", f"out={run}"), "holds a run with other settings"),
    ):
        with untouched(tmp_path):
            complaint(thalweg(*words), reason, "choose another folder with out=... or begin anew with overwrite=true")
    (run / "settings.yaml").unlink()
    with untouched(tmp_path):
        complaint(thalweg(*other), "holds results.json, checkpoint.safetensors", "but no settings.yaml")


def test_the_demo_does_not_take_files_for_its_own(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "pairs.extxyz").write_bytes(inputs.pairs.read_bytes())
    for word in ("seed=0", "overwrite=true"):
        with untouched(tmp_path):
            complaint(thalweg("demo", f"out={tmp_path}", word), "holds pairs.extxyz but no settings.yaml")


FULL = {
    errno.ENOSPC: "the disk is full: free some space and run again",
    errno.EROFS: "the file system is read-only: choose another place",
}


@pytest.mark.parametrize("code", FULL)
def test_a_disk_that_cannot_be_written_leaves_no_file(
    code: int, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk shows at the flush, a read-only one at the opening of the file; the old file stays."""

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    def refuse_writing(path: object, flags: int, *rest: int) -> int:
        return refuse() if flags & (os.O_WRONLY | os.O_RDWR) else opened(path, flags, *rest)

    opened = os.open
    (tmp_path / "old").write_text("mine")
    if code == errno.ENOSPC:
        monkeypatch.setattr(storage.os, "fsync", refuse)
    else:
        monkeypatch.setattr(storage.os, "open", refuse_writing)
    for command in (
        ("data", "make", "silicon", tmp_path / "x", "--count", 1),
        ("data", "import", inputs.pairs, "--out", tmp_path / "old", "--overwrite"),
        ("data", "split", inputs.pairs, "--train", tmp_path / "x", "--held-out", tmp_path / "y"),
        ("relax", inputs.model, inputs.pairs, "--out", tmp_path / "x"),
        ("evaluate", inputs.model, inputs.held_out, "--out", tmp_path / "old", "--overwrite"),
    ):
        with untouched(tmp_path, inputs.folder):
            complaint(thalweg(*command), FULL[code])
    done = thalweg("tune", inputs.model, inputs.pairs, f"out={tmp_path / 'run'}", *SHORT)
    complaint(done, f"cannot write {tmp_path / 'run' / 'settings.yaml'}", FULL[code])
    assert listing(tmp_path / "run") == {}


def test_a_disk_that_fills_while_training_costs_nothing_but_the_last_updates(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("tune", inputs.model, inputs.pairs, *SHORT)
    assert thalweg(*command, f"out={tmp_path / 'whole'}").status == 0
    flushes = iter(range(1000))
    flush = os.fsync

    def fill(handle: int) -> None:
        if next(flushes) >= 6:
            raise OSError(errno.ENOSPC, "full")
        flush(handle)

    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "fsync", fill)
        complaint(thalweg(*command, f"out={tmp_path / 'filled'}"), "the disk is full")
    assert "settings.yaml" in listing(tmp_path / "filled")
    assert not [name for name in listing(tmp_path / "filled") if name.endswith(".part")]
    assert thalweg(*command, f"out={tmp_path / 'filled'}").status == 0
    ends = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "filled")]
    assert ends[0] == ends[1]


def test_a_terminal_that_cannot_be_written_is_one_line(inputs: Inputs) -> None:
    with Path("/dev/full").open("w") as full:
        done = alone("data", "describe", inputs.pairs, stdout=full)
    complaint(done, "No space left on device")


# a process of its own: what main() does is what a user gets


@pytest.mark.parametrize("words", [("describe", "gone.extxyz"), ("make", "silikon", "x.extxyz")])
def test_the_program_itself_ends_in_one_line(words: tuple[str, ...], tmp_path: Path) -> None:
    with untouched(tmp_path):
        done = alone("data", *words, cwd=tmp_path)
        complaint(done)
        assert done.out == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tune", "model"), "Missing argument"),
        (("tune", "model", "pairs", "--nope"), "No such option: --nope"),
        (("relax", "model", "pairs"), "Missing option"),
        (("nonsense",), "No such command 'nonsense'"),
        (("data", "make", "silicon", "x", "--count", "many"), "Invalid value for '--count'"),
        (("data", "make", "silicon", "x", "--seed", "-1"), "Invalid value for '--seed'"),
        ((), "Usage: thalweg"),
    ],
)
def test_wrong_use_shows_the_usage_and_ends_with_2(words: tuple[str, ...], said: str) -> None:
    done = thalweg(*words)
    assert done.status == 2
    assert said in done.err
    assert done.err.startswith("Usage: thalweg")
    assert "Traceback" not in done.err


def test_a_fault_of_our_own_is_not_passed_off_as_the_users(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: only the errors meant for users become one line, a bug keeps its traceback."""

    def fail(_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("thalweg.structures.describe.describe", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        thalweg("data", "describe", inputs.pairs)


def test_the_checks_of_these_tests_can_fail(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    with pytest.raises(AssertionError, match="bytes changed"), untouched(tmp_path):
        (tmp_path / "a").write_text("2")
    with pytest.raises(AssertionError, match="came or went"), untouched(tmp_path):
        (tmp_path / "b").write_text("2")
    fine = thalweg("data", "describe", tmp_path / "gone")
    for wrong in (("here is no such folder",), ()):
        with pytest.raises(AssertionError):
            complaint(fine, *wrong, status=1 if not wrong else 2)
    assert issubclass(errors.StructureError, errors.ThalwegError)
