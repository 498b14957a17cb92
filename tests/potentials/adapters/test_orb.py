"""ORB, conservative and direct, against the package itself, and the whole way of a user."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from tests.contracts.crystals import compounds
from tests.contracts.package_models import SMALL_OF_PACKAGES
from tests.potentials.adapters.package_way import few_pairs, is_certified, relaxes, sheared, tunes

from thalweg.errors import PotentialError
from thalweg.gradients import Unrolled
from thalweg.gradients.verification import verify
from thalweg.potentials import build_potential
from thalweg.potentials.adapters.orb import OrbConservative, OrbDirect
from thalweg.potentials.contract import Potential
from thalweg.potentials.opening import open_potential
from thalweg.relaxation import Descent
from thalweg.relaxation import Path as RelaxationPath
from thalweg.structures.batch import Structures
from thalweg.structures.extended_xyz import read_pairs

pytest.importorskip("orb_models", reason="pip install 'thalweg[orb]'", exc_type=ImportError)

SMALL: dict[str, Any] = SMALL_OF_PACKAGES["orb"]["options"]


def small(kind: str = "orb", **settings: Any) -> Potential:
    """A fresh small ORB in float64; its head's forces have a mean square, as trained ones have."""
    potential = build_potential(kind, {"species": [14, 48, 52], "options": SMALL, **settings}).double()
    if isinstance(potential, OrbDirect):
        potential.module.heads["forces"].normalizer.bn.running_var.fill_(0.5)  # type: ignore[union-attr, index]
    return potential


def rattled() -> list[Atoms]:
    frames = [bulk("CdTe", "zincblende", a=6.48), bulk("Si", cubic=True)]
    for k, frame in enumerate(frames):
        frame.positions += 0.1 * np.random.default_rng(k).standard_normal(frame.positions.shape)
    return frames


@pytest.mark.parametrize("most", [None, 20])
def test_modules_say_what_the_package_says(most: int | None) -> None:
    from orb_models.forcefield import atomic_system
    from orb_models.forcefield.base import batch_graphs

    frames = rattled()
    config = atomic_system.SystemConfig(radius=6.0, max_num_neighbors=most or 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package's own way to NumPy
        graphs = [
            atomic_system.ase_atoms_to_atom_graphs(f, system_config=config, device="cpu", output_dtype=torch.float64)
            for f in frames
        ]
    x = Structures.from_atoms(frames)
    conservative, direct = small("orb", neighbours=most), small("orb-direct", neighbours=most)
    assert isinstance(conservative, OrbConservative)
    assert isinstance(direct, OrbDirect)
    package = conservative.module.predict(batch_graphs(graphs))  # type: ignore[operator]
    found = conservative(x, stress=True)
    assert found.stress is not None
    voigt = found.stress.flatten(1)[:, [0, 4, 8, 5, 2, 1]]
    torch.testing.assert_close(found.energy, package["energy"].detach().reshape(-1), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.forces, package["grad_forces"], rtol=0, atol=1e-5)
    torch.testing.assert_close(voigt, package["grad_stress"].to(voigt), rtol=0, atol=1e-5)
    said = direct.module.predict(batch_graphs(graphs))  # type: ignore[operator]
    told = direct(x)
    torch.testing.assert_close(told.energy, said["energy"].detach().reshape(-1), rtol=0, atol=1e-5)
    torch.testing.assert_close(told.forces, said["forces"].detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["orb", "orb-direct"])
def test_file_of_weights_says_its_own_architecture(tmp_path: Path, kind: str) -> None:
    potential = small(kind).float()
    torch.save(potential.module.state_dict(), tmp_path / "orb-v3-inf.ckpt")  # type: ignore[attr-defined]
    opened = open_potential(f"orb:{tmp_path / 'orb-v3-inf.ckpt'}")
    assert opened.kind == kind
    x = compounds().to(dtype=torch.float32)
    assert torch.equal(opened(x).forces, potential(x).forces)


def test_number_of_neighbours_is_asked_for_where_the_name_has_one(tmp_path: Path) -> None:
    path = tmp_path / "orb-v3-conservative-20-omat.ckpt"
    torch.save(small().float().module.state_dict(), path)  # type: ignore[attr-defined]
    with pytest.raises(PotentialError, match=r"write \?neighbours=20"):
        open_potential(f"orb:{path}")
    assert open_potential(f"orb:{path}?neighbours=20").settings["neighbours"] == 20
    assert open_potential(f"orb:{path}?neighbours=null").settings["neighbours"] is None
    with pytest.raises(PotentialError, match="has no option 'neighbors'"):
        open_potential(f"orb:{path}?neighbors=20")


def test_bad_files_and_settings_are_one_line(tmp_path: Path) -> None:
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    torch.save({"model.atom_emb.embeddings.weight": torch.zeros(3, 3)}, tmp_path / "v2.ckpt")
    for words, says in (
        (f"orb:{tmp_path / 'other.ckpt'}", "no weights of ORB"),
        (f"orb:{tmp_path / 'v2.ckpt'}", "not of an ORB v3"),
        ("orb:absent.ckpt", "no such file"),
    ):
        with pytest.raises(PotentialError, match=says):
            open_potential(words)
    with pytest.raises(PotentialError, match="total charge and spin"):
        build_potential("orb", {"options": {"has_charge_spin_cond": True}})
    with pytest.raises(PotentialError, match="orb cannot build"):
        build_potential("orb", {"options": {"width": 3}})


def test_the_whole_way_of_a_user(tmp_path: Path) -> None:
    torch.save(small().float().module.state_dict(), tmp_path / "weights.ckpt")  # type: ignore[attr-defined]
    words, pairs = f"orb:{tmp_path / 'weights.ckpt'}", few_pairs(sheared(), tmp_path)
    tunes(words, pairs, tmp_path)
    relaxes(words, pairs, tmp_path)
    is_certified(words, pairs)


def test_the_way_of_a_direct_model(tmp_path: Path) -> None:
    """Random direct forces have no minimum, so of the routes only those that need none are verified."""
    torch.save(small("orb-direct").float().module.state_dict(), tmp_path / "weights.ckpt")  # type: ignore[attr-defined]
    words, pairs = f"orb:{tmp_path / 'weights.ckpt'}", few_pairs(sheared(), tmp_path)
    tunes(words, pairs, tmp_path)
    relaxes(words, pairs, tmp_path)
    starts, path = read_pairs(pairs).starts.select([0]), RelaxationPath(Descent(alpha=0.03), steps=6)
    verdicts = verify(open_potential(words), starts, path, [Unrolled(), Unrolled(horizon=3)], directions=1)
    assert [v.passed for v in verdicts] == [True, True]
    print([v.worst for v in verdicts])
