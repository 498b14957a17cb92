"""Writing files so that a reader never meets half of one: whole files by rename, records by appended lines.

Everything the package writes goes through here, so that a read-only folder or a full disk is one clear line
and never leaves a torn file behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

from thalweg.errors import OutputError

_ADVICE = {
    errno.EACCES: "the folder or file is not writable: choose another place or mend its permissions",
    errno.EPERM: "the folder or file is not writable: choose another place or mend its permissions",
    errno.EROFS: "the file system is read-only: choose another place",
    errno.ENOSPC: "the disk is full: free some space and run again",
    errno.EDQUOT: "the quota is used up: free some space and run again",
    errno.ENOENT: "the folder does not exist: create it first",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another place",
    errno.EISDIR: "it is a folder: give the path of a file",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
}


def atomic_write(path: str | os.PathLike[str], content: str | bytes, *, overwrite: bool = False) -> None:
    """Write a whole file or nothing.

    The content goes to a temporary file in the same folder, is flushed to the disk and then takes the name
    in one step; after any failure the temporary file is gone and an earlier file is as it was.

    Args:
        path: where to; the folder must exist. A symbolic link is followed.
        content: text (written as UTF-8) or bytes.
        overwrite: replace a file that is there; without it such a file is left alone.

    Raises:
        OutputError: the file exists and `overwrite` is False, or the operating system refused.
    """
    target = Path(os.path.realpath(path))
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        if not overwrite and target.exists():
            raise FileExistsError(errno.EEXIST, "exists")
        _write_through(temporary, data)
        if overwrite:
            os.replace(temporary, target)
        else:
            _take_name(temporary, target)
        _flush_folder(target.parent)
    except OSError as error:
        raise _output_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Append one line to a file, in one write, and flush it to the disk.

    If the file ends in the middle of a line (its writer was killed), the new line starts on a fresh one, so a
    torn record never swallows a whole one.

    Args:
        path: the file; created if it does not exist.
        line: the text without its line break.

    Raises:
        OutputError: the line holds a line break, or the operating system refused.
    """
    if "\n" in line or "\r" in line:
        raise OutputError(
            f"cannot append to {os.fspath(path)}: the record holds a line break: {line[:60]!r}; remove it"
        )
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            torn = _ends_inside_a_line(handle)
            data = (("\n" if torn else "") + line + "\n").encode("utf-8")
            if os.write(handle, data) != len(data):
                raise OSError(errno.ENOSPC, "short write")
            if os.path.isfile(path):
                os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise _output_error(path, error) from error


def _write_through(path: Path, data: bytes) -> None:
    # os.open rather than tempfile: the file gets the usual permissions, not 0600
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _take_name(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target)  # fails if the name was taken meanwhile; a rename would not
    except FileExistsError:
        raise
    except OSError:  # file systems without hard links
        if target.exists():
            raise FileExistsError(errno.EEXIST, "exists") from None
        os.replace(temporary, target)


def _flush_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems refuse it; the content is on the disk already
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _ends_inside_a_line(handle: int) -> bool:
    size = os.fstat(handle).st_size
    return size > 0 and os.pread(handle, 1, size - 1) != b"\n"


def _output_error(path: str | os.PathLike[str], error: OSError) -> OutputError:
    if isinstance(error, FileExistsError):
        return OutputError(
            f"{os.fspath(path)} exists and is not overwritten: choose another name or allow overwriting"
        )
    reason = _ADVICE.get(error.errno or 0, error.strerror or type(error).__name__)
    return OutputError(f"cannot write {os.fspath(path)}: {reason}")
