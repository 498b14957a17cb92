"""MatGL against the package itself, and the whole way of a user."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from tests.contracts.package_models import M3GNET, SMALL_OF_PACKAGES
from tests.potentials.adapters.package_way import few_pairs, is_certified, relaxes, sheared, tunes

from thalweg.errors import PotentialError
from thalweg.potentials import build_potential
from thalweg.potentials.adapters.matgl import MatGL
from thalweg.potentials.contract import Potential
from thalweg.potentials.opening import open_potential
from thalweg.structures.batch import Structures

pytest.importorskip("matgl", reason="pip install 'thalweg[matgl]'", exc_type=ImportError)

SMALL: dict[str, dict[str, Any]] = {"TensorNet": SMALL_OF_PACKAGES["matgl"]["options"], "M3GNet": M3GNET}


def small(architecture: str, **settings: Any) -> Potential:
    """A fresh small MatGL potential in float64."""
    told = {"species": [14, 48, 52], "architecture": architecture, "options": SMALL[architecture], **settings}
    return build_potential("matgl", told).double()


@pytest.mark.parametrize(
    ("architecture", "repulsion"), [("M3GNet", "none"), ("TensorNet", "none"), ("TensorNet", "fixed")]
)
def test_saved_folder_says_what_the_package_says(architecture: str, repulsion: str, tmp_path: Path) -> None:
    """With repulsion only opening is compared: the package's asks the graph for lengths that it was not given."""
    from matgl.ext.ase import Atoms2Graph

    potential = small(architecture, references=True, order=["Te", "Si", "Cd"], repulsion=repulsion).float()
    assert isinstance(potential, MatGL)
    module: Any = potential.module
    module.element_refs.property_offset.copy_(torch.tensor([-3.0, -5.0, -1.0]))
    module.data_std.fill_(1.7)
    module.save(tmp_path)
    opened = open_potential(f"matgl:{tmp_path}")
    frames = [bulk("CdTe", "zincblende", a=6.48), bulk("Si", cubic=True)]
    for k, frame in enumerate(frames):
        frame.positions += 0.1 * np.random.default_rng(k).standard_normal(frame.positions.shape)
    x = Structures.from_atoms(frames, dtype=torch.float32)
    found = opened(x, stress=True)
    assert torch.equal(found.forces, potential(x).forces)
    assert found.stress is not None
    for k, frame in enumerate(frames if repulsion == "none" else []):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package's own
            graph, lattice, state = Atoms2Graph(module.model.element_types, module.model.cutoff).get_graph(frame)
        energy, forces, stress, _ = module(graph, lattice, torch.tensor(state))
        close: dict[str, float] = {"rtol": 0, "atol": 2e-5}
        torch.testing.assert_close(found.energy[k], energy.detach().reshape(()), **close)
        torch.testing.assert_close(found.forces[x.owner == k], forces.detach(), **close)
        torch.testing.assert_close(found.stress[k], stress.detach() / 160.21766208, **close)


def test_repulsion_is_that_of_the_package() -> None:
    with_it, without = small("TensorNet", repulsion="fixed"), small("TensorNet")
    without.load_state_dict({k: v for k, v in with_it.state_dict().items() if "repuls" not in k})
    near = Structures.from_atoms(Atoms("Si2", [[0, 0, 0], [0, 0, 1.0]]))
    assert float((with_it(near).energy - without(near).energy)[0]) > 1.0


def test_bad_folders_and_settings_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(PotentialError, match=r"model\.pt and state\.pt"):
        open_potential(f"matgl:{tmp_path}")
    torch.save({"model": {"@class": "QET"}}, tmp_path / "model.pt")
    torch.save({}, tmp_path / "state.pt")
    with pytest.raises(PotentialError, match="holds 'QET': adapted are"):
        open_potential(f"matgl:{tmp_path}")
    for settings, says in (
        ({"options": {"dtype": "float16"}}, "sets itself"),
        ({"order": ["Si"]}, "all of the species"),
        ({"architecture": "CHGNet"}, "architecture"),
        ({"options": {"activation_type": "relu"}}, "matgl cannot build"),
    ):
        with pytest.raises(PotentialError, match=says):
            build_potential("matgl", {"species": [14, 52], **settings})


def test_the_whole_way_of_a_user(tmp_path: Path) -> None:
    """No shell of silicon is near this cutoff, where curvatures jump; the scale makes them those of a solid."""
    module: Any = small("TensorNet", options={**SMALL["TensorNet"], "cutoff": 4.2}).float().module
    module.data_std.fill_(1000.0)
    module.save(tmp_path / "model")
    words, pairs = f"matgl:{tmp_path / 'model'}", few_pairs(sheared(), tmp_path)
    tunes(words, pairs, tmp_path)
    relaxes(words, pairs, tmp_path)
    is_certified(words, pairs)
