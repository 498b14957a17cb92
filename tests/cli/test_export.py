"""`thalweg export`: lines that open the model elsewhere, a metatomic file, and refusals that leave nothing behind."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from ase.build import bulk

from tests.cli.terminal import started, thalweg
from tests.potentials.exports.exported import needs_metatomic
from thalweg.potentials import build_potential
from thalweg.potentials.files import save_potential
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.structures.batch import Structures


def test_the_lines_for_ase_open_the_model(tmp_path: Path) -> None:
    potential = StillingerWeber.from_published("Si")
    save_potential(tmp_path / "model.safetensors", potential)
    done = thalweg("export", tmp_path / "model.safetensors", "--to", "ase")
    assert (done.status, done.err) == (0, "")
    atoms = bulk("Si", cubic=True)
    exec(done.out, {"atoms": atoms})
    assert len(done.out.splitlines()) == 2
    assert atoms.get_potential_energy() == float(potential(Structures.from_atoms(bulk("Si", cubic=True))).energy)


def test_the_lines_for_torch_sim_ask_no_stress_of_a_direct_potential(tmp_path: Path) -> None:
    done = thalweg("export", "stillinger-weber:Si", "--to", "torch-sim")
    assert done.out.splitlines() == [
        "from thalweg.potentials.exports.torch_sim_model import torch_sim_model",
        "model = torch_sim_model('stillinger-weber:Si')",
    ]
    direct = build_potential("transformer", {"species": [14], "width": 8, "heads": 2, "layers": 1})
    save_potential(tmp_path / "direct.safetensors", direct)
    assert (
        "direct.safetensors', stress=False)"
        in thalweg("export", tmp_path / "direct.safetensors", "--to", "torch-sim").out
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stillinger-weber:Si", "--to", "metatomc"], "'metatomc'.*metatomic"),
        (["stillinger-weber:Si", "--to", "metatomic"], "say which with --out"),
        (["stillinger-weber:Si", "--to", "ase", "--out", "model.py"], "leave out --out"),
        (["stillinger-weber:Si", "--to", "metatomic", "--out", "nowhere/model.pt"], "folder nowhere does not exist"),
        (["stillinger-weber:Si", "--to", "metatomic", "--out", "there.pt"], "there.pt exists"),
        (["missing.safetensors", "--to", "ase"], "no such model file"),
        (["missing.safetensors", "--to", "metatomic", "--out", "model.pt"], "no such model file"),
        (["ase:ase.calculators.emt:EMT", "--to", "torch-sim"], "reference only"),
        (["metatomic:none.pt", "--to", "ase"], "no such metatomic model"),
        (
            ["blind.safetensors", "--to", "metatomic", "--out", "model.pt"],
            "no gradient of its energy|'thalweg.metatomic.'",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THALWEG_ALLOW_CODE", "")
    (tmp_path / "there.pt").write_text("kept")
    save_potential("blind.safetensors", build_potential("transformer", {"species": [14], "width": 8, "layers": 1}))
    done = thalweg("export", *words)
    assert done.status == 2
    assert len(done.err.splitlines()) == 1
    assert re.search(message, done.err)
    assert done.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blind.safetensors", "there.pt"]
    assert (tmp_path / "there.pt").read_text() == "kept"


@pytest.mark.skipif(importlib.util.find_spec("metatomic") is not None, reason="metatomic is installed")
def test_without_metatomic_it_says_what_to_install(tmp_path: Path) -> None:
    done = thalweg("export", "stillinger-weber:Si", "--to", "metatomic", "--out", tmp_path / "model.pt")
    assert done.status == 2
    assert len(done.err.splitlines()) == 1
    assert "pip install 'thalweg[metatomic]'" in done.err
    assert list(tmp_path.iterdir()) == []


@needs_metatomic
def test_a_metatomic_file_is_written_and_goes_out_again(tmp_path: Path) -> None:
    file, again = tmp_path / "model.pt", tmp_path / "again.pt"
    for model, out in (("second-moment:Ti", file), (f"metatomic:{file}", again)):
        written = started("export", model, "--to", "metatomic", "--out", out)
        told, complaints = written.communicate()
        assert (written.returncode, complaints) == (0, "")
        assert told.splitlines()[:3] == [
            f"wrote {out}",
            f"LAMMPS: pair_style metatomic {out} device cpu",
            "        pair_coeff * * 22  (the atomic number of each atom type)",
        ]
        assert f"template: start.extxyz, model: {out} " in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.pt", "model.pt"]
