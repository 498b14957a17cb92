"""Metatomic files of small potentials, written once in a process of its own, where the tests' type checks are not.

TorchScript compiles a module from its source, and the checks that tests weave into every function have none.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch

from thalweg.potentials.contract import Potential
from thalweg.potentials.files import save_potential

ROOT = Path(__file__).resolve().parents[3]

needs_metatomic = pytest.mark.skipif(
    importlib.util.find_spec("metatomic") is None,
    reason="metatomic is not installed: pip install 'thalweg[metatomic]' runs this test",
)

WRITE = """
import sys
from pathlib import Path
from thalweg.errors import ThalwegError
from thalweg.potentials.exports.metatomic_model import write_metatomic
from thalweg.potentials.files import load_potential

for path in sorted(Path(sys.argv[1]).glob("*.safetensors")):
    try:
        write_metatomic(path.with_suffix(".pt"), load_potential(path))
    except ThalwegError as error:
        print(f"{path.stem}: {error}")
"""


def run(code: str, *words: object) -> str:
    """Run Python in a fresh process and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def export(folder: Path, potentials: dict[str, Potential]) -> str:
    """Write every potential to `NAME.safetensors` and `NAME.pt` in a folder; return what was refused, a line each."""
    for name, potential in potentials.items():
        save_potential(folder / f"{name}.safetensors", potential)
    return run(WRITE, folder)


@cache
def exported_once(kind: str) -> Path:
    """Return a metatomic file of a fresh small network of a kind in float64, the same for the whole session."""
    from tests.contracts.test_potentials import fresh

    folder = Path(tempfile.mkdtemp(prefix="thalweg-metatomic-"))
    torch.manual_seed(0)
    assert export(folder, {kind: fresh(kind, species=[14, 48, 52])}) == ""
    return folder / f"{kind}.pt"
