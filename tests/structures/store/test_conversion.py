"""A conversion is whole or not there; killed, torn or damaged, it goes on to the same bytes or says why not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from tests.structures.store.ragged import frames, same

from thalweg.errors import OutputError, SettingsError, StructureError
from thalweg.structures.extended_xyz import read_frames, write_frames
from thalweg.structures.pairs import Frames
from thalweg.structures.readers import import_frames
from thalweg.structures.store import convert, open_store
from thalweg.structures.store.sources import read_parts
from thalweg.structures.store.writing import StoreWriter


class StoppedError(Exception):
    """Stands for a kill after a part."""


@pytest.fixture(scope="module")
def some() -> Frames:
    return frames([3, 1, 8, 2, 5, 1, 1, 4, 9, 2, 6, 1], 5, stress=True, fixed=True)


@pytest.fixture
def source(tmp_path: Path, some: Frames) -> Path:
    write_frames(tmp_path / "frames.extxyz", some)
    return tmp_path / "frames.extxyz"


def stop_after(parts: int, told: list[tuple[float, int]]):
    def progress(share: float, done: int) -> None:
        told.append((share, done))
        if len(told) == parts:
            raise StoppedError

    return progress


def cut(source: Path, target: Path, parts: int = 2) -> Path:
    """Leave a conversion unfinished and return its staging folder."""
    with pytest.raises(StoppedError):
        convert(source, target, part=2, progress=stop_after(parts, []))
    return target.with_name(f"{target.name}.part")


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_progress_ascends_to_the_end_and_nothing_else_is_left(source: Path, tmp_path: Path) -> None:
    told: list[tuple[float, int]] = []
    index = convert(source, tmp_path / "store", part=5, progress=stop_after(9, told)).index
    assert [done for _, done in told] == [5, 10, 12]
    assert sorted(share for share, _ in told) == [share for share, _ in told]
    assert told[-1][0] == 1.0
    assert index == open_store(tmp_path / "store").index
    assert {path.name for path in tmp_path.iterdir()} == {"frames.extxyz", "store"}
    assert "journal.jsonl" not in content(tmp_path / "store")


@pytest.mark.parametrize("parts", [1, 3, 6])
def test_a_conversion_goes_on_to_the_same_bytes(source: Path, tmp_path: Path, parts: int) -> None:
    convert(source, tmp_path / "whole", part=2)
    cut(source, tmp_path / "cut", parts)
    told: list[tuple[float, int]] = []
    convert(source, tmp_path / "cut", part=2, progress=stop_after(9, told))
    assert len(told) == 6 - parts
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_what_was_half_written_at_the_kill_is_written_again(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "whole", part=2)
    staging = cut(source, tmp_path / "cut")
    for file, torn in (("forces.bin", b"half a part"), ("ids.bin", b"x"), ("journal.jsonl", b'{"frames": 6, "at')):
        with (staging / file).open("ab") as handle:
            handle.write(torn)
    convert(source, tmp_path / "cut", part=2)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_a_kill_between_index_and_name_is_made_good(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "whole", part=2)

    def stop(writer: StoreWriter) -> None:
        raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoreWriter, "_take_name", stop)
        with pytest.raises(StoppedError):
            convert(source, tmp_path / "cut", part=2)
    assert not (tmp_path / "cut").exists()
    convert(source, tmp_path / "cut", part=2)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_sigkill_never_leaves_a_half_store_and_the_end_is_the_same(tmp_path: Path) -> None:
    plain = frames([1 + k % 4 for k in range(45)], 6)
    write_frames(tmp_path / "frames.extxyz", plain)
    convert(tmp_path / "frames.extxyz", tmp_path / "whole", part=3)
    driver = Path(__file__).with_name("kill_driver.py")
    command = [sys.executable, str(driver), str(tmp_path / "frames.extxyz"), str(tmp_path), "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(done.stdout)
    assert [trial["killed"] for trial in found["trials"]] == [True] * 4
    assert [trial["opens"] for trial in found["trials"]] == [False] * 4
    parts = [trial["parts"] for trial in found["trials"]]
    assert parts == sorted(set(parts))  # each took up where the one before was killed
    assert parts[-1] < 15
    assert (found["status"], found["opens"]) == (0, True)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_another_source_or_type_does_not_take_up_a_conversion(source: Path, tmp_path: Path, some: Frames) -> None:
    staging = cut(source, tmp_path / "store")
    with pytest.raises(OutputError, match=r"unfinished conversion whose dtype was 'float32' and is now 'float64'"):
        convert(source, tmp_path / "store", dtype="float64")
    write_frames(source, some.select([0, 1]), overwrite=True)
    with pytest.raises(OutputError, match=r"whose state of the source was .*: remove that folder to begin anew"):
        convert(source, tmp_path / "store")
    assert staging.exists()


def test_a_staging_folder_that_is_damaged_is_refused(source: Path, tmp_path: Path) -> None:
    staging = cut(source, tmp_path / "store")
    journal = (staging / "journal.jsonl").read_bytes()
    (staging / "journal.jsonl").write_bytes(b"?" + journal)
    with pytest.raises(StructureError, match=r"journal\.jsonl: damaged: remove the folder"):
        convert(source, tmp_path / "store", part=2)
    (staging / "journal.jsonl").write_bytes(journal)
    forces = (staging / "forces.bin").read_bytes()
    (staging / "forces.bin").write_bytes(forces[:-1])
    with pytest.raises(StructureError, match=r"forces\.bin: \d+ bytes where the journal says \d+"):
        convert(source, tmp_path / "store", part=2)
    (staging / "forces.bin").write_bytes(bytes([forces[0] ^ 1]) + forces[1:])
    with pytest.raises(StructureError, match=r"forces\.bin: does not hold what was written"):
        convert(source, tmp_path / "store", part=2)
    assert not (tmp_path / "store").exists()
    assert not staging.exists()


def test_two_conversions_at_once_do_not_mix(source: Path, tmp_path: Path) -> None:
    first = StoreWriter(tmp_path / "store", "float32", {})
    with pytest.raises(OutputError, match="another conversion is writing here"):
        StoreWriter(tmp_path / "store", "float32", {})
    assert first.state.frames == 0


def test_a_store_that_is_there_is_kept_until_the_new_one_is_whole(source: Path, tmp_path: Path, some: Frames) -> None:
    convert(source, tmp_path / "store")
    old = content(tmp_path / "store")
    with pytest.raises(OutputError, match="exists: choose another name or give --overwrite"):
        convert(source, tmp_path / "store")
    write_frames(source, some.select([3]), overwrite=True)
    with pytest.raises(StoppedError):
        convert(source, tmp_path / "store", overwrite=True, progress=stop_after(1, []))
    assert content(tmp_path / "store") == old
    convert(source, tmp_path / "store", overwrite=True)
    assert open_store(tmp_path / "store").select([0]).ids == some.select([3]).ids
    assert {path.name for path in tmp_path.iterdir()} == {"frames.extxyz", "store"}


def test_places_that_cannot_be_written_are_one_line(source: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"there is no folder .*: create it first"):
        convert(source, tmp_path / "none" / "store")
    (tmp_path / "store.part").mkdir()
    with pytest.raises(OutputError, match=r"store\.part is in the way"):
        convert(source, tmp_path / "store")
    with pytest.raises(StructureError, match="there is no such file or folder"):
        convert(tmp_path / "nothing", tmp_path / "a")
    with pytest.raises(SettingsError, match="part is 0: allowed is 1 or more"):
        convert(source, tmp_path / "a", part=0)


BLOCK = '1\nProperties=species:S:1:pos:R:3:forces:R:3 pbc="F F F" id={} energy=-1.0\nSi 0.0 0.0 0.0 0.0 0.0 0.1\n'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (BLOCK.format("a") + "\n\n" + BLOCK.format("b") + BLOCK.format("a"), "frame id 'a' occurs twice"),
        (BLOCK.format("a") + BLOCK.format("b").replace(" energy=-1.0", ""), r"frame 1 \(line 4\): no energy"),
        (BLOCK.format("a") + BLOCK.format("b").replace("-1.0", "nan"), "frame 1 .*energy is not finite"),
        (BLOCK.format("a") + "x" + BLOCK.format("b"), r"frame 1 \(line 4\): expected the number of atoms"),
        (BLOCK.format("a") + BLOCK.format("b")[:40], r"frame 1 \(line 4\): 1 atoms announced but 0 lines follow"),
        (BLOCK.format("a") + "0\n\n", "a structure without atoms"),
        (BLOCK.format("a") + BLOCK.format("\0"), "line 5: this is not text"),
    ],
)
def test_a_fault_of_the_source_is_one_line_and_no_store(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "bad.extxyz").write_text(text)
    with pytest.raises(StructureError, match=line) as told:
        convert(tmp_path / "bad.extxyz", tmp_path / "store", part=1)
    assert "\n" not in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.extxyz"]


def test_a_file_without_frames_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello\n")
    with pytest.raises(StructureError, match="no reader recognises this; known: extended XYZ file"):
        convert(tmp_path / "text", tmp_path / "store")
    with pytest.raises(StructureError, match="empty: no frames in it"):
        StoreWriter(tmp_path / "store", "float32", {}).finish("empty")


def test_labels_that_are_not_finite_are_refused(tmp_path: Path, some: Frames) -> None:
    writer = StoreWriter(tmp_path / "store", "float32", {})
    energy, forces = some.energy.clone(), some.forces.clone()
    energy[4], forces[5, 1] = torch.inf, torch.nan
    with pytest.raises(StructureError, match=r"frame '5/Å 4': its energy is inf"):
        writer.append(replace(some, energy=energy), {})
    with pytest.raises(StructureError, match=r"frame '5/Å 2': the force of atom 1 is .*not finite"):
        writer.append(replace(some, forces=forces), {})
    writer.append(some, {})
    assert writer.state.frames == 12


@pytest.mark.parametrize("size", [1, 5, 100])
def test_the_stream_of_a_file_is_what_reading_it_whole_gives(source: Path, size: int) -> None:
    text = source.read_text() + "\n  \n" + BLOCK.format("last")
    source.write_text(text.replace("\n", "\r\n"), newline="")
    parts = list(read_parts(source, {}, size))
    whole = read_frames(source)
    assert same(Frames.concatenate([part.frames for part in parts]), whole)
    after = list(read_parts(source, parts[0].mark, size))
    assert [part.mark for part in after] == [part.mark for part in parts[1:]]


def test_what_any_reader_reads_becomes_a_store(tmp_path: Path) -> None:
    """The rows of an ASE database; one without forces is named, not lost in silence."""
    with connect(tmp_path / "rows.db") as rows:
        for k, x in enumerate((0.1, 0.2, 0.3)):
            atoms = Atoms("SiO", positions=[[0, 0, x], [1.5, 0, 0]], cell=[9, 9, 9], pbc=True)
            atoms.calc = SinglePointCalculator(
                atoms, energy=-float(k), **({} if k == 1 else {"forces": [[0, 0, x]] * 2})
            )
            rows.write(atoms)
    whole = import_frames(tmp_path / "rows.db")
    done = convert(tmp_path / "rows.db", tmp_path / "store", dtype="float64", part=1)
    assert same(open_store(tmp_path / "store").select([0, 1]), whole.frames)
    assert done.skipped == whole.skipped != ()
    cut(tmp_path / "rows.db", tmp_path / "cut", 1)
    assert convert(tmp_path / "rows.db", tmp_path / "cut", part=2).index.frames == 2
