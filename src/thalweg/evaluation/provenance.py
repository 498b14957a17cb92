"""Where a number comes from: which code made it and on what machine. Part of every record that is kept."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import thalweg


@dataclass(frozen=True)
class Code:
    """Which code is running."""

    version: str
    """Version of the package."""
    source: str
    """Digest of its source files."""
    commit: str | None
    """Commit of the repository it runs from, with `+` where files differ from it; None outside of one."""


def code_version() -> Code:
    """Return which code is running."""
    package = Path(thalweg.__file__).parent
    account = hashlib.blake2b(digest_size=8)
    for path in sorted(package.rglob("*.py")):
        account.update(f"{path.relative_to(package).as_posix()}\n".encode())
        account.update(path.read_bytes())
    commit = _git(package, "rev-parse", "--short=12", "HEAD")
    if commit is not None and _git(package, "status", "--porcelain", "--", "."):
        commit += "+"
    return Code(thalweg.__version__, account.hexdigest(), commit)


def machine() -> dict[str, Any]:
    """Return processor and versions, as plain values."""
    return {
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _git(folder: Path, *words: str) -> str | None:
    """Return what git says, None where there is no git or no repository."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
