"""Metatomic model files as potentials: under the whole contract, and refused in words where they cannot be."""

from __future__ import annotations

import copy
import hashlib
import sys
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from tests.contracts import potential_checks as checks
from tests.contracts.crystals import compounds
from tests.contracts.test_potentials import fresh
from tests.potentials.exports.exported import exported_once, needs_metatomic

from thalweg.errors import CheckpointError, PotentialError
from thalweg.potentials.adapters.code import VARIABLE, allow_code
from thalweg.potentials.adapters.metatomic_energy import MetatomicEnergy
from thalweg.potentials.exports.metatomic_model import check_file, write_metatomic
from thalweg.potentials.files import load_potential, save_potential
from thalweg.potentials.opening import open_potential
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # metatomic is made of it
THREE = [14, 48, 52]


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Consent of this test alone."""
    monkeypatch.setenv(VARIABLE, "")


def small() -> Structures:
    """A primitive cell and a cluster of cadmium telluride, 2 and 4 atoms, rattled by 0.1 Å."""
    cell, whole = bulk("CdTe", "zincblende", a=6.48), bulk("CdTe", "zincblende", a=6.48, cubic=True)
    frames = [cell, Atoms(whole.numbers[:4], whole.positions[:4])]
    for k, frame in enumerate(frames):
        frame.positions += 0.1 * numpy_stream(5, "metatomic structures", k).standard_normal((len(frame), 3))
    return Structures.from_atoms(frames)


@pytest.fixture(scope="module")
def opened() -> MetatomicEnergy:
    """The model, opened once; a test that may change it takes a copy."""
    with pytest.MonkeyPatch.context() as here:
        here.setenv(VARIABLE, "")
        potential = open_potential(f"metatomic:{exported_once('painn')}")
    assert isinstance(potential, MetatomicEnergy)
    return potential


@needs_metatomic
@pytest.mark.parametrize("check", checks.EVERY, ids=lambda check: check.__name__)
def test_a_metatomic_model_keeps_the_contract(check: checks.Check, allowed: None, opened: MetatomicEnergy) -> None:
    allow_code(f"{exported_once('painn')}:metatomic")
    check(copy.deepcopy(opened), small())


@needs_metatomic
def test_what_went_out_comes_in_again(allowed: None) -> None:
    ours, found = fresh("painn", species=THREE), open_potential(f"metatomic:{exported_once('painn')}")
    assert (found.kind, found.species, found.cutoff, found.conservative) == ("metatomic", (14, 48, 52), 4.2, True)
    assert sum(p.numel() for p in found.parameters() if p.requires_grad) == sum(p.numel() for p in ours.parameters())
    checks.same_prediction(found(compounds(), graph=True), ours(compounds()), tolerance=1e-12)
    gradients = [
        torch.autograd.grad(p(compounds(), graph=True).forces.square().sum(), list(p.parameters()), allow_unused=True)
        for p in (ours, found)
    ]
    norms = [sum(float(g.square().sum()) for g in some if g is not None) for some in gradients]
    assert norms[0] == pytest.approx(norms[1], rel=1e-9)
    assert norms[0] > 0


@needs_metatomic
def test_a_model_file_runs_it_only_where_it_was_allowed_and_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "")
    file = tmp_path / "model.pt"
    file.write_bytes(exported_once("painn").read_bytes())
    potential = open_potential(f"metatomic:{file}")
    with torch.no_grad():
        next(p for p in potential.parameters() if p.requires_grad).mul_(1.1)
    save_potential(tmp_path / "tuned.safetensors", potential)
    again = load_potential(tmp_path / "tuned.safetensors")
    write_metatomic(tmp_path / "tuned.pt", again)  # compares with it
    with pytest.raises(PotentialError, match="differ from it"):
        check_file(file, again)
    checks.same_prediction(again(compounds()), potential(compounds()), tolerance=0.0)
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(CheckpointError, match=f"not allowed.*{VARIABLE}={file}:metatomic"):
        load_potential(tmp_path / "tuned.safetensors")
    monkeypatch.setenv(VARIABLE, f"{file}:metatomic")
    file.write_bytes((tmp_path / "tuned.pt").read_bytes())
    with pytest.raises(CheckpointError, match="has changed since it was named"):
        load_potential(tmp_path / "tuned.safetensors")


@needs_metatomic
def test_such_a_file_is_also_a_reference_by_the_calculator_of_metatomic(allowed: None) -> None:
    words = f"ase:metatomic_ase:MetatomicCalculator?model={exported_once('painn')}"
    found, wanted = (
        p(small(), stress=False) for p in (open_potential(words, reference=True), fresh("painn", species=THREE))
    )
    checks.same_prediction(found, wanted, tolerance=1e-10)


@needs_metatomic
def test_half_lists_hold_one_direction_of_every_pair(cdte8: Structures) -> None:
    from metatomic.torch import NeighborListOptions

    from thalweg.potentials.adapters.metatomic_systems import systems_of
    from thalweg.structures.neighbours import find_edges

    class Asks:
        def requested_neighbor_lists(self) -> list[object]:
            return [NeighborListOptions(cutoff=3.9, full_list=full, strict=True) for full in (True, False)]

    (system,) = systems_of(Asks(), cdte8, find_edges(cdte8, 6.5))  # wider than half the cell: images of the atom itself
    full, half = (system.get_neighbor_list(options) for options in Asks().requested_neighbor_lists())
    assert 2 * len(half.samples) == len(full.samples) > 0
    both = torch.cat([half.values[:, :, 0], -half.values[:, :, 0]]).detach()
    rounded = {tuple(row) for row in (1e6 * both).round().tolist()}
    assert rounded == {tuple(row) for row in (1e6 * full.values[:, :, 0].detach()).round().tolist()}
    assert float(full.values.square().sum(dim=1).max()) <= 3.9**2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs the setting 'file'"),
        ({"file": 3}, "setting 'file' is 3"),
        ({"path": "x"}, "no setting 'path'"),
        ({"file": "never-allowed.pt"}, "not allowed"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(PotentialError, match=message):
        MetatomicEnergy.from_settings(settings)


def test_no_file_and_no_package_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(PotentialError, match="there is no such metatomic model"):
        open_potential(f"metatomic:{tmp_path}/none.pt")
    (tmp_path / "some.pt").write_bytes(b"no model")
    monkeypatch.setitem(sys.modules, "metatomic", None)
    monkeypatch.setitem(sys.modules, "metatomic.torch", None)
    with pytest.raises(PotentialError, match=r"pip install 'thalweg\[metatomic\]'"):
        open_potential(f"metatomic:{tmp_path}/some.pt")


@needs_metatomic
def test_what_is_no_model_is_one_line(tmp_path: Path, allowed: None) -> None:
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no model at all")
    with pytest.raises(PotentialError, match="is no metatomic model that can be used here"):
        open_potential(f"metatomic:{broken}")
    cut = exported_once("painn").read_bytes()
    broken.write_bytes(cut[: len(cut) // 2])
    with pytest.raises(PotentialError, match="is no metatomic model that can be used here") as caught:
        open_potential(f"metatomic:{broken}")
    assert "\n" not in str(caught.value)
    assert hashlib.sha256(cut).hexdigest() == open_potential(f"metatomic:{exported_once('painn')}").settings["sha256"]
