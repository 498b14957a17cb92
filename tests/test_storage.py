import errno
import os
from pathlib import Path

import pytest

from thalweg.errors import OutputError
from thalweg.storage import append_line, atomic_write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("content", "expected"), [("Å\n", "Å\n".encode()), (b"\x00\xff", b"\x00\xff"), ("", b"")])
def test_a_file_holds_what_was_written_and_nothing_is_left_beside_it(tmp_path, content, expected):
    atomic_write(tmp_path / "a.txt", content)
    assert (tmp_path / "a.txt").read_bytes() == expected
    assert names(tmp_path) == ["a.txt"]


def test_a_file_that_exists_is_kept_unless_overwriting_is_allowed(tmp_path):
    target = tmp_path / "a.txt"
    atomic_write(target, "first")
    with pytest.raises(OutputError, match=r"a\.txt exists and is not overwritten"):
        atomic_write(target, "second")
    assert target.read_text() == "first"
    atomic_write(target, "second", overwrite=True)
    assert target.read_text() == "second"
    assert names(tmp_path) == ["a.txt"]


def test_a_file_that_appears_while_another_is_written_is_kept(tmp_path, monkeypatch):
    target = tmp_path / "a.txt"
    plain = os.fsync

    def meanwhile(handle):
        target.write_text("theirs")
        plain(handle)

    monkeypatch.setattr(os, "fsync", meanwhile)
    with pytest.raises(OutputError, match="exists"):
        atomic_write(target, "ours")
    assert target.read_text() == "theirs"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(("number", "advice"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only")])
def test_a_failed_write_leaves_the_earlier_file_and_nothing_else(tmp_path, monkeypatch, number, advice, overwrite):
    target = tmp_path / "a.txt"
    if overwrite:
        target.write_text("earlier")

    def fail(handle):
        raise OSError(number, os.strerror(number))

    before = names(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OutputError, match=advice) as caught:
            atomic_write(target, "later", overwrite=overwrite)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == before
    assert not overwrite or target.read_text() == "earlier"


def test_without_hard_links_an_existing_file_is_still_kept(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    atomic_write(tmp_path / "a.txt", "first")
    with pytest.raises(OutputError, match="exists"):
        atomic_write(tmp_path / "a.txt", "second")
    assert (tmp_path / "a.txt").read_text() == "first"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write into a read-only folder")
def test_a_read_only_folder_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="not writable"):
            atomic_write(tmp_path / "a.txt", "x")
    finally:
        tmp_path.chmod(0o700)


def test_a_missing_folder_a_folder_and_a_file_in_place_of_a_folder_are_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    for path, advice in (
        (tmp_path / "none" / "a.txt", "does not exist"),
        (tmp_path, "it is a folder"),
        (tmp_path / "file" / "a.txt", "is a file"),
    ):
        with pytest.raises(OutputError, match=advice):
            atomic_write(path, "x", overwrite=True)


def test_a_symbolic_link_is_followed(tmp_path):
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    atomic_write(tmp_path / "link", "y", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "y"


def test_a_file_has_the_usual_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("x")
    atomic_write(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").stat().st_mode == plain.stat().st_mode


def test_lines_are_appended_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for line in ("one", "zwei Å", ""):
        append_line(path, line)
    assert path.read_text(encoding="utf-8") == "one\nzwei Å\n\n"


def test_a_line_after_a_torn_one_starts_afresh(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st')
    append_line(path, '{"step": 2}')
    assert path.read_text().splitlines() == ['{"step": 1}', '{"st', '{"step": 2}']


def test_a_line_with_a_line_break_is_refused(tmp_path):
    with pytest.raises(OutputError, match="line break"):
        append_line(tmp_path / "a", "one\ntwo")
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_appending_to_a_full_disk_is_one_line():
    with pytest.raises(OutputError, match="disk is full"):
        append_line("/dev/full", "x")


def test_appending_in_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        append_line(tmp_path / "none" / "a", "x")
