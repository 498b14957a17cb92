"""What a user sees on standard error: each error and each warning is one line, and never a line of source.

Installed by the command line and by the processes that the package starts; importing the library changes nothing.
"""

from __future__ import annotations

import sys
import warnings
from typing import TextIO


def one_line(message: object) -> str:
    """Return a text with every run of blanks and line breaks made one blank."""
    return " ".join(str(message).split())


def complain(message: object) -> None:
    """Print one line on standard error that says whose it is."""
    print(f"thalweg: {one_line(message)}", file=sys.stderr, flush=True)


def show_plain_warnings() -> None:
    """Show warnings of this process as one line each, without file, line number and source."""
    warnings.showwarning = _show


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"thalweg: warning: {one_line(message)}", file=file or sys.stderr, flush=True)
