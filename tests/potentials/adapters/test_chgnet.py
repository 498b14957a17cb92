"""CHGNet against the package itself, its files, and the whole way of a user."""

from __future__ import annotations

import os
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from tests.contracts import potential_checks as checks
from tests.contracts.crystals import compounds
from tests.contracts.package_models import SMALL_OF_PACKAGES
from tests.potentials.adapters.package_way import few_pairs, is_certified, relaxes, sheared, tunes

from thalweg.errors import PotentialError
from thalweg.potentials import build_potential
from thalweg.potentials.adapters.chgnet import CHGNet
from thalweg.potentials.adapters.code import VARIABLE
from thalweg.potentials.contract import Potential
from thalweg.potentials.opening import open_potential
from thalweg.structures.batch import Structures

pytest.importorskip("chgnet", reason="pip install 'thalweg[chgnet]'", exc_type=ImportError)

SMALL: dict[str, Any] = SMALL_OF_PACKAGES["chgnet"]["options"]


def small(**options: Any) -> Potential:
    """A fresh small CHGNet in float64."""
    return build_potential("chgnet", {"species": [14, 48, 52], "options": {**SMALL, **options}}).double()


def test_bonds_that_leave_the_angles_do_so_smoothly() -> None:
    potential, cutoff = small(), 3.2
    base = [[0.0, 0.0, 0.0], [-1.7, 0.0, 0.0], [-0.7, 1.4, 0.0]]

    def energy(distance: float) -> float:
        return float(potential(Structures.from_atoms(Atoms("Si4", [*base, [distance, -0.1, 0.0]]))).energy)

    edge = (cutoff**2 - 0.1**2) ** 0.5
    # the pair itself goes on beyond, so compare with its own smooth course: fourth differences over the edge
    steps = (0.04, 0.02, 0.01)
    jumps = [
        abs(energy(edge + h) - 3 * energy(edge + h / 3) + 3 * energy(edge - h / 3) - energy(edge - h)) for h in steps
    ]
    for wide, narrow in pairwise(jumps):
        assert narrow <= wide / 2**2.5 + 1e-12, jumps


@pytest.mark.parametrize("name", ["0.3.0", "r2scan"])
def test_bundled_weights_say_what_the_package_says(name: str) -> None:
    from chgnet.model import CHGNet
    from pymatgen.io.ase import AseAtomsAdaptor

    salt, silicon8 = bulk("NaCl", "rocksalt", a=5.6) * (2, 1, 1), bulk("Si", cubic=True)
    frames = [salt, silicon8]
    for k, frame in enumerate(frames):
        frame.positions += 0.1 * np.random.default_rng(k).standard_normal(frame.positions.shape)
    found = open_potential(f"chgnet:{name}")(Structures.from_atoms(frames, dtype=torch.float32), stress=True)
    package = CHGNet.load(model_name=name, use_device="cpu", verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it turns volumes with a graph into numbers
        wanted = [package.predict_structure(AseAtomsAdaptor.get_structure(frame)) for frame in frames]
    energy = torch.tensor([w["e"] * len(f) for w, f in zip(wanted, frames, strict=True)])
    assert found.stress is not None
    torch.testing.assert_close(found.energy, energy.float(), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.forces, torch.tensor(np.concatenate([w["f"] for w in wanted])), rtol=0, atol=1e-4)
    stress = torch.tensor(np.stack([w["s"] for w in wanted])) / 160.21766208  # GPa
    torch.testing.assert_close(found.stress, stress, rtol=0, atol=1e-5)


def test_file_of_weights_opens_as_what_was_saved(tmp_path: Path) -> None:
    potential = small().float()
    assert isinstance(potential, CHGNet)
    model = {"state_dict": potential.module.state_dict(), "model_args": {"mlp_first": True, **SMALL}}
    for content in (model, {"model": model}):
        torch.save(content, tmp_path / "weights.pth.tar")
        opened = open_potential(f"chgnet:{tmp_path / 'weights.pth.tar'}")
        x = compounds().to(dtype=torch.float32)
        assert torch.equal(opened(x).forces, potential(x).forces)


def test_file_that_would_run_code_is_refused_until_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth.tar"
    torch.save({"state_dict": {}, "model_args": {}, "more": checks.plateau}, path)  # a function, by name
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(PotentialError, match=f"{VARIABLE}="):
        CHGNet.read(path, {})
    with pytest.raises(PotentialError, match="tensors do not fit"):
        open_potential(f"chgnet:{path}")  # typed
    assert os.environ[VARIABLE] == str(path)
    with pytest.raises(PotentialError, match="tensors do not fit"):
        CHGNet.read(path, {})


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("0.4.0", "no model of that name in the installed chgnet; "),
        ("0.2.0", "output bias"),
        ("absent.pth.tar", "there is no file 'absent.pth.tar'"),
    ],
)
def test_bad_words_are_one_line(words: str, says: str) -> None:
    with pytest.raises(PotentialError, match=says) as refusal:
        open_potential(f"chgnet:{words}")
    assert "\n" not in str(refusal.value)


def test_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("nothing")
    torch.save({"weights": 1}, tmp_path / "b.pt")
    with pytest.raises(PotentialError, match=r"a\.txt"):
        open_potential(f"chgnet:{tmp_path / 'a.txt'}")
    with pytest.raises(PotentialError, match="holds no CHGNet"):
        open_potential(f"chgnet:{tmp_path / 'b.pt'}")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"species": [95]}, "knows the elements 1 to 94"),
        ({"options": {"read_out": 3, "num_angular": 4}}, "must be an odd integer"),
        ({"cutoff": 5.0}, "no setting 'cutoff'"),
    ],
)
def test_refused_settings_are_one_line(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(PotentialError, match=says):
        build_potential("chgnet", settings)


def test_lone_atoms_and_pairs_have_energies() -> None:
    few = Structures.from_atoms([Atoms("Si"), Atoms("Si2", [[0, 0, 0], [0, 0, 4.0]]), Atoms("Si", [[0, 0, 1]])])
    found = small()(few)
    assert bool(found.energy.isfinite().all())
    assert torch.equal(found.energy[0], found.energy[2])
    assert bool((found.forces[0] == 0).all())


def test_the_whole_way_of_a_user(tmp_path: Path) -> None:
    """Verified is a small one: along random directions in 400,000 trained parameters differences have no plateau."""
    pairs = few_pairs(sheared(), tmp_path)
    relaxes("chgnet:0.3.0", pairs, tmp_path)
    tunes("chgnet:0.3.0", pairs, tmp_path)
    potential = small()
    assert isinstance(potential, CHGNet)
    state = potential.module.state_dict()
    state["mlp.layers.5.weight"] *= 100.0  # stiff as a solid: minima of softer ones are not found closely enough
    model = {"state_dict": state, "model_args": {"mlp_first": True, **SMALL}}
    torch.save(model, tmp_path / "small.pth.tar")
    is_certified(f"chgnet:{tmp_path / 'small.pth.tar'}", pairs)
