"""Commands where the cell moves: relax and verify work, tune and evaluate refuse in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write
from typer.testing import CliRunner

from tests.training import problems
from thalweg.cli import app
from thalweg.errors import SettingsError
from thalweg.evaluation import evaluate
from thalweg.relaxation import Positions, PositionsAndCell
from thalweg.structures.extended_xyz import write_pairs
from thalweg.training.settings import RelaxationSettings
from thalweg.training.tuning import tune

SURFACE = "stillinger-weber:Si"


def call(*arguments: str) -> str:
    """Return what a command printed, or raise what it raised."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None:
        raise result.exception
    return result.output


def test_the_setting_chooses_the_coordinates() -> None:
    assert RelaxationSettings().path(0.03).coordinates == Positions()
    assert RelaxationSettings(cell="free").path(0.03).coordinates == PositionsAndCell()


def test_relax_moves_the_cell_where_told_and_only_there(tmp_path: Path) -> None:
    atoms = bulk("Si", cubic=True)
    atoms.set_cell(atoms.cell.array * 1.04, scale_atoms=True)
    atoms.positions += 0.05 * np.sin(atoms.positions + 1.0)
    write(tmp_path / "start.extxyz", atoms)
    start = str(tmp_path / "start.extxyz")
    for cell, length in (("free", 5.431), ("fixed", 1.04 * 5.43)):
        out = tmp_path / f"{cell}.extxyz"
        said = call("relax", SURFACE, start, "--out", str(out), f"cell={cell}", "fmax=1e-4")
        assert "1 converged" in said
        np.testing.assert_allclose(read(out).cell.lengths(), length, rtol=0, atol=1e-3)


def test_relax_refuses_another_word(tmp_path: Path) -> None:
    write(tmp_path / "start.extxyz", bulk("Si"))
    with pytest.raises(SettingsError, match="cell is 'loose'"):
        call("relax", SURFACE, str(tmp_path / "start.extxyz"), "--out", str(tmp_path / "end.extxyz"), "cell=loose")


def test_verify_certifies_every_route_with_a_free_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def certify(potential, starts, **told):
        found.append(told["coordinates"])
        return []

    monkeypatch.setattr("thalweg.evaluation.certify.certify", certify)
    call("verify", SURFACE)
    call("verify", SURFACE, "--cell", "free")
    assert found == [Positions(), PositionsAndCell()]
    with pytest.raises(SettingsError, match="cell is 'loose'"):
        call("verify", SURFACE, "--cell", "loose")


def test_evaluation_and_tuning_refuse_a_free_cell(tmp_path: Path) -> None:
    pairs = problems.pairs(1, 5)
    write_pairs(tmp_path / "pairs.extxyz", pairs)
    with pytest.raises(SettingsError, match="basins are told apart by positions"):
        call("evaluate", SURFACE, str(tmp_path / "pairs.extxyz"), "cell=free", "alpha=0.03")
    with pytest.raises(SettingsError, match="the path relaxes the cell"):
        evaluate(problems.base(), pairs, RelaxationSettings(cell="free").path(0.03), rule="distance")
    told = problems.settings(tmp_path / "run", "relaxation.cell=free", "optimiser={batch: 1, warmup: 0}")
    with pytest.raises(SettingsError, match="tuning compares positions within one cell"):
        tune(told, problems.base(), pairs)
