"""The command line as a test calls it: in this process, or in one of its own where the process is the point."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thalweg import cli

HERE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    """What a command left behind on the terminal."""

    status: int
    out: str
    err: str


def thalweg(*words: object) -> Done:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["thalweg", *map(str, words)]
    status = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("default")  # a user's terminal does not turn warnings into errors
            cli.main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.argv = argv
    return Done(status, out.getvalue(), err.getvalue())


def started(*words: object, **options: object) -> subprocess.Popen[str]:
    """Start a command in a process of its own, which an interrupt reaches even if the tests run where it is ignored.

    A shell starts what stands in its background with interrupts ignored, and processes inherit that.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "thalweg.cli", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(HERE / "src"), "OMP_NUM_THREADS": "1"},
        stdout=options.pop("stdout", subprocess.PIPE),  # type: ignore[call-overload]
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **options,
    )


def alone(*words: object, **options: object) -> Done:
    """Run a command in a process of its own, to its end."""
    process = started(*words, **options)
    out, err = process.communicate(timeout=300)
    return Done(process.returncode, out or "", err)


def listing(folder: Path) -> dict[str, bytes | None]:
    """Return the bytes of every file below a folder, None for folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@contextlib.contextmanager
def untouched(*folders: Path) -> Iterator[None]:
    """Require that nothing below the folders is written, changed or removed."""
    before = [listing(folder) for folder in folders]
    yield
    for folder, then in zip(folders, before, strict=True):
        now = listing(folder)
        assert sorted(now) == sorted(then), f"{folder}: files came or went"
        assert [name for name in now if now[name] != then[name]] == [], f"{folder}: bytes changed"


def complaint(done: Done, *fragments: str, status: int = 2) -> str:
    """Require one clear line on standard error with these words, and no traceback; return it."""
    lines = done.err.splitlines()
    assert done.status == status, done
    assert len(lines) == 1, done.err
    assert lines[0].startswith("thalweg: ")
    assert "Traceback" not in done.out + done.err
    for fragment in fragments:
        assert fragment in lines[0], (fragment, lines[0])
    return lines[0]
