"""The command line where the cell moves: relax, verify, tune and evaluate know it, and what does not fit is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write
from typer.testing import CliRunner

from tests.training import problems
from thalweg.cli import app
from thalweg.errors import SettingsError, StructureError
from thalweg.evaluation import evaluate
from thalweg.relaxation import Positions, PositionsAndCell
from thalweg.structures.extended_xyz import write_pairs
from thalweg.testbeds.crystals import Crystals
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


def test_a_rule_and_a_path_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    pairs = problems.pairs(1, 5)
    write_pairs(tmp_path / "pairs.extxyz", pairs)
    told = (SURFACE, str(tmp_path / "pairs.extxyz"), "alpha=0.03")
    with pytest.raises(
        SettingsError, match="rule 'quench' cannot judge a path on which the cell moves: use rule 'crystal'"
    ):
        call("evaluate", *told, "cell=free", "--rule", "quench", "--reference", SURFACE)
    with pytest.raises(SettingsError, match="rule 'crystal' cannot judge a path on which the cell does not move"):
        call("evaluate", *told, "--rule", "crystal", "--reference", SURFACE)


def test_pairs_whose_cells_differ_are_refused_where_the_path_keeps_the_cell(tmp_path: Path) -> None:
    pairs = problems.pairs(2, 5)
    strained = replace(pairs, minima=pairs.minima.with_cell(1.01 * pairs.minima.cell))
    with pytest.raises(StructureError, match="where the path keeps the cell: relax it too"):
        evaluate(problems.base(), strained, RelaxationSettings().path(0.03), rule="distance")
    told = problems.settings(tmp_path / "run", "optimiser={batch: 1, warmup: 0}")
    with pytest.raises(StructureError, match="where the path keeps the cell: relax it too"):
        tune(told, problems.base(), strained)


@pytest.mark.parametrize("cell", ["fixed", "free"])
def test_the_watch_on_alpha_measures_what_moves(cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The curvature that chooses α, the check and the penalty are those of the joint rows where the cell moves."""
    import thalweg.training.stability as module

    seen: list[object] = []
    for name in ("safe_alpha", "check_alpha", "measure_stiffness"):
        original = getattr(module, name)

        def spy(*arguments, original=original, **told):
            seen.append(told["coordinates"])
            return original(*arguments, **told)

        monkeypatch.setattr(module, name, spy)
    pairs = Crystals(elements=("Si",), most=4).make(2, seed=0)
    told = problems.settings(
        tmp_path / cell,
        f"relaxation={{cell: {cell}, steps: 2, max_steps: 1}}",
        "route={kind: split, horizon: 1}",
        "optimiser={batch: 1, warmup: 0, updates: 1}",
        "stability.penalty=1",
    )
    start = pairs if cell == "free" else replace(pairs, starts=pairs.starts.with_cell(pairs.minima.cell))
    tune(told, Crystals(elements=("Si",)).reference(), start)
    assert len(seen) >= 3
    assert set(seen) == {PositionsAndCell() if cell == "free" else Positions()}
