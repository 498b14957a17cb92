"""fairchem's eSEN: its checkpoints against the package itself, what is refused, and the whole way of a user."""

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
from tests.potentials.adapters.fairchem_files import backbone, head, task, write_checkpoint
from tests.potentials.adapters.package_way import few_pairs, is_certified, relaxes, sheared, tunes

from thalweg.errors import PotentialError
from thalweg.potentials import build_potential
from thalweg.potentials.adapters.apart import apart
from thalweg.potentials.contract import Potential
from thalweg.potentials.opening import open_potential
from thalweg.structures.batch import Structures

pytest.importorskip("fairchem.core.models.uma.escn_md", reason="pip install 'thalweg[fairchem]'", exc_type=ImportError)

SHAPES = {
    "plain": ("plain", "plain", ["omat"]),
    "no experts, one data set": ("no experts", "wrapped", ["omat"]),
    "no experts, linear maps": ("no experts", "linear", ["oc20", "omat", "omol"]),
}
"""Backbone, head, and the data sets with tasks."""


def small() -> Potential:
    """A fresh small eSEN in float64."""
    return build_potential("fairchem", {"species": [14, 48, 52], **SMALL_OF_PACKAGES["fairchem"]}).double()


def written(folder: Path, shape: str, rmsd: float = 1.5) -> Path:
    """Return a checkpoint that fairchem wrote."""
    model, heads, names = SHAPES[shape]
    prefixes = ["" if heads == "plain" else f"{name}_" for name in names]
    tasks = [task(n, p, q, rmsd) for n, p in zip(names, prefixes, strict=True) for q in ("energy", "forces")]
    return write_checkpoint(folder, backbone(model), {"energyandforcehead": head(heads)}, tasks)


def rattled() -> list[Atoms]:
    frames = [bulk("CdTe", "zincblende", a=6.48), bulk("Si", cubic=True)]
    for k, frame in enumerate(frames):
        frame.positions += 0.1 * np.random.default_rng(k).standard_normal(frame.positions.shape)
    return frames


def calculator(path: Path, dataset: str) -> Any:
    """Return fairchem's own calculator, in float64."""
    from fairchem.core import FAIRChemCalculator
    from fairchem.core.units.mlip_unit import InferenceSettings, MLIPPredictUnit

    exact = InferenceSettings(base_precision_dtype=torch.float64)
    unit = MLIPPredictUnit(str(path), device="cpu", inference_settings=exact)
    return FAIRChemCalculator(unit, task_name=dataset)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_checkpoint_opens_and_the_packages_calculator_agrees(shape: str, tmp_path: Path) -> None:
    path = written(tmp_path, shape)
    for dataset in SHAPES[shape][2]:
        opened = open_potential(f"fairchem:{path}?dataset={dataset}")
        assert opened.settings["dataset"] == dataset
        assert opened.settings["spin"] == (1 if dataset == "omol" else 0)
        assert next(opened.parameters()).dtype == torch.float32
        frames = rattled()
        x = Structures.from_atoms(frames)
        found = opened.double()(x, stress=True)
        assert found.stress is not None
        with apart(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = calculator(path, dataset)
            for k, frame in enumerate(frames):
                frame.calc = theirs
                energy, forces = frame.get_potential_energy(), frame.get_forces()
                stress = frame.get_stress(voigt=False)
                assert energy == pytest.approx(float(found.energy[k]), abs=1e-5)
                np.testing.assert_allclose(forces, found.forces[x.owner == k].numpy(), rtol=0, atol=1e-6)
                np.testing.assert_allclose(stress, found.stress[k].numpy(), rtol=0, atol=1e-6)


def test_calls_leave_the_global_stream_alone() -> None:
    potential, before = small(), torch.get_rng_state()
    potential(compounds())
    assert torch.equal(torch.get_rng_state(), before)


def test_refused_settings_and_files_are_one_line() -> None:
    for settings, says in (
        ({"species": [100]}, "knows the elements 1 to 99"),
        ({"options": {"otf_graph": True}}, "sets itself"),
        ({"options": {"widths": 3}}, "fairchem cannot build"),
    ):
        with pytest.raises(PotentialError, match=says):
            build_potential("fairchem", settings)
    with pytest.raises(PotentialError, match="no such file"):
        open_potential("fairchem:absent.pt")
    with pytest.raises(PotentialError, match="has no option 'task'"):
        open_potential("fairchem:absent.pt?task=omat")


def test_checkpoints_of_other_models_are_one_line(tmp_path: Path) -> None:
    energies = [task("omat"), task("oc20", "oc20_")]
    for number, (model, heads, says) in enumerate(
        (
            (backbone("no experts", num_experts=4), head("wrapped"), "mixture of 4 experts"),
            (backbone("plain", direct_forces=True), head("plain"), "conserving model"),
            (backbone("plain"), {**head("plain"), "reduce": "mean"}, "averages over atoms"),
            (backbone("plain"), head("plain"), r"write \?dataset=NAME .* it has oc20, omat"),
        )
    ):
        folder = tmp_path / str(number)
        tasks = energies if number == 3 else energies[:1]
        path = write_checkpoint(folder, model, {"energyandforcehead": heads}, tasks)
        with pytest.raises(PotentialError, match=says) as refusal:
            open_potential(f"fairchem:{path}")
        assert "\n" not in str(refusal.value)
    with pytest.raises(PotentialError, match="did you mean 'omat'"):
        open_potential(f"fairchem:{path}?dataset=omt")


def test_more_neighbours_than_the_model_was_made_for_are_refused(tmp_path: Path) -> None:
    tasks, heads = [task("omat")], {"energyandforcehead": head("plain")}
    potential = open_potential(
        f"fairchem:{write_checkpoint(tmp_path, backbone('plain', max_neighbors=10), heads, tasks)}"
    )
    frames = rattled()
    with pytest.raises(PotentialError, match=r"16 neighbours within 4\.2 Å, .* the nearest 10 "):
        potential(Structures.from_atoms(bulk("Si", cubic=True), dtype=torch.float32))
    sparse = frames[0].copy()
    sparse.set_cell(1.5 * sparse.cell.array, scale_atoms=True)
    potential(Structures.from_atoms(sparse, dtype=torch.float32))


def test_the_whole_way_of_a_user(tmp_path: Path) -> None:
    path = written(tmp_path, "no experts, one data set", rmsd=200.0)  # stiff as a solid
    words, pairs = f"fairchem:{path}", few_pairs(sheared(), tmp_path)
    tunes(words, pairs, tmp_path)
    relaxes(words, pairs, tmp_path)
    is_certified(words, pairs)
