"""Models of other packages: their files are opened, tuned tensors written back, and their own calculators agree."""

from __future__ import annotations

import copy
import os
import random
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import e3nn
import numpy as np
import pytest
import torch
from ase import Atoms
from tests.contracts.package_models import MODULES, SMALL_OF_PACKAGES
from tests.potentials.adapters.package_way import few_pairs, is_certified, relaxes, sheared, tunes

from thalweg.errors import CheckpointError, PotentialError
from thalweg.potentials import build_potential
from thalweg.potentials.adapters import apart as aparting
from thalweg.potentials.adapters import mace
from thalweg.potentials.adapters.apart import apart, imported
from thalweg.potentials.adapters.packages import PackageModel, elements, places
from thalweg.potentials.files import load_potential, save_potential
from thalweg.potentials.opening import open_potential
from thalweg.potentials.reference import Reference
from thalweg.potentials.spherical import coupling
from thalweg.structures.batch import Structures

SMALL: dict[str, dict[str, Any]] = {
    "mace": SMALL_OF_PACKAGES["mace"],
    "nequip": {
        "order": [52, 14, 48],
        "config": {**SMALL_OF_PACKAGES["nequip"]["config"], "per_type_energy_scales": 20.0},  # stiff as a solid
    },
    "sevennet": {"order": [52, 14, 48], **SMALL_OF_PACKAGES["sevennet"]},
}
"""Small models of silicon, cadmium and tellurium; the order of types differs from ours where a package has one."""
ENDINGS = {"mace": "model", "nequip": "ckpt", "sevennet": "pth"}


@pytest.fixture(params=sorted(SMALL))
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of an adapter whose package is here."""
    name = str(request.param)
    if find_spec(MODULES[name]) is None:
        pytest.skip(f"{MODULES[name]} is not here: make adapters-{name}")
    return name


@pytest.fixture
def quiet() -> Iterator[None]:
    """Let packages' own calculators warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def small(kind: str, dtype: torch.dtype = torch.float64) -> PackageModel:
    """Return a fresh small model."""
    potential = build_potential(kind, {"species": [14, 48, 52], "cutoff": 4.2, **SMALL[kind]})
    assert isinstance(potential, PackageModel)
    return potential.to(dtype)


def calculator(kind: str, path: Path) -> Any:
    """Return the package's own calculator of a file."""
    if kind == "mace":
        from mace.calculators import MACECalculator

        return MACECalculator(model_paths=str(path), device="cpu", default_dtype="float64")
    if kind == "nequip":
        from nequip.integrations.ase import NequIPCalculator

        return NequIPCalculator._from_saved_model(str(path), device="cpu")
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator(str(path), device="cpu")


@pytest.mark.usefixtures("quiet")
def test_own_file_opens_and_the_packages_calculator_agrees(
    kind: str, tmp_path: Path, cdte8: Structures, silicon8: Structures
) -> None:
    """SevenNet itself computes in float32 alone."""
    dtype, bound = (torch.float32, 2e-6) if kind == "sevennet" else (torch.float64, 1e-10)
    path, written = tmp_path / f"own.{ENDINGS[kind]}", small(kind, dtype)
    written.write(path)
    opened = open_potential(f"{kind}:{path}")
    assert isinstance(opened, PackageModel)
    assert opened.scale.dtype == dtype
    assert opened.species == (14, 48, 52)
    frames = Structures.concatenate([cdte8, silicon8]).to(dtype=dtype)
    found, same = opened(frames, stress=True), written(frames, stress=True)
    assert torch.equal(found.energy, same.energy)
    assert torch.equal(found.forces, same.forces)
    assert found.stress is not None
    with apart():
        torch.set_default_dtype(dtype)
        theirs = calculator(kind, path)
        for k, frame in enumerate(frames.to_atoms()):
            plain = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=True, calculator=theirs)
            mine = frames.owner == k
            assert plain.get_potential_energy() == pytest.approx(float(found.energy[k]), abs=10 * bound)
            np.testing.assert_allclose(plain.get_forces(), found.forces[mine].numpy(), rtol=0, atol=bound)
            np.testing.assert_allclose(plain.get_stress(voigt=False), found.stress[k].numpy(), rtol=0, atol=bound)


def test_model_file_holds_no_pickle_and_needs_no_consent(kind: str, tmp_path: Path, cdte8: Structures) -> None:
    potential = small(kind)
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.mul_(1.01)
    save_potential(tmp_path / "tuned.safetensors", potential)
    unpickled: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *given, **options: unpickled.append(given))
        again = load_potential(tmp_path / "tuned.safetensors")
    assert unpickled == []
    assert torch.equal(again(cdte8).forces, potential(cdte8).forces)


def test_the_whole_way_of_a_user(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"own.{ENDINGS[kind]}"
    small(kind).write(path)
    words, pairs = f"{kind}:{path}", few_pairs(sheared(), tmp_path)
    tunes(words, pairs, tmp_path)
    relaxes(words, pairs, tmp_path)
    said = is_certified(words, None)  # fresh models hold two atoms in place by symmetry
    assert all(route in said for route in ("unrolled", "implicit", "phantom", "split"))


def test_reference_has_no_place_in_a_packages_file(kind: str, tmp_path: Path) -> None:
    potential = small(kind)
    potential.set_reference(Reference({14: -1.0, 48: 0.0, 52: 0.0}, scale=1.0))
    with pytest.raises(PotentialError, match="has a reference"):
        potential.write(tmp_path / "own")
    assert list(tmp_path.iterdir()) == []


def test_every_parameter_learns_and_a_copy_is_whole(kind: str, cdte8: Structures) -> None:
    potential = small(kind)
    assert all(p.requires_grad for p in potential.parameters())
    first = next(iter(potential.parameters()))
    first.requires_grad_(False)
    again = copy.deepcopy(potential)
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in potential.parameters()]
    assert torch.equal(again(cdte8).forces, potential(cdte8).forces)
    next(iter(again.parameters())).data.add_(1.0)
    assert not torch.equal(first, next(iter(again.parameters())))


def test_building_leaves_the_process_alone(kind: str) -> None:
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), dict(os.environ))  # noqa: NPY002
    compiled, floats = e3nn.get_optimization_defaults(), torch.get_default_dtype()
    small(kind)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert dict(os.environ) == before[2]
    assert torch.get_default_dtype() == floats
    assert e3nn.get_optimization_defaults() == compiled


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("absent", r"absent: there is no such file; give a .* \(nothing is ever downloaded\)"),
        ("{file}?colour=red", "has no option 'colour'"),
        ("{file}", "cannot open this file"),
    ],
)
def test_bad_words_are_one_line(kind: str, tmp_path: Path, words: str, says: str) -> None:
    file = tmp_path / "bad.bin"
    file.write_bytes(b"no model\n")
    with pytest.raises(PotentialError, match=says) as refusal:
        open_potential(f"{kind}:{words.format(file=file)}")
    assert "\n" not in str(refusal.value)


def test_strange_settings_are_one_line(kind: str) -> None:
    strange = {"max_elll": 2} if kind == "mace" else {"config": {**SMALL[kind]["config"], "chanel": 4}}
    with pytest.raises(PotentialError) as refusal:
        build_potential(kind, {"species": [14], "cutoff": 4.2, **strange})
    assert "\n" not in str(refusal.value)


def test_heads_of_mace_are_chosen_by_name(tmp_path: Path, silicon8: Structures) -> None:
    if find_spec("mace") is None:
        pytest.skip("mace is not here: make adapters-mace")
    told = {"species": [14], **SMALL["mace"], "heads": ["pbe", "r2scan"]}
    with pytest.raises(PotentialError, match=r"no head None: name one of \['pbe', 'r2scan'\]"):
        build_potential("mace", told)
    with pytest.raises(PotentialError, match="no head 'scan'"):
        build_potential("mace", {**told, "head": "scan"})
    first = build_potential("mace", {**told, "head": "pbe", "per_head": True})
    assert isinstance(first, mace.Mace)
    first.write(tmp_path / "two.model")
    energies = []
    for head in ("pbe", "r2scan"):
        opened = open_potential(f"mace:{tmp_path / 'two.model'}?head={head}")
        assert opened.settings["head"] == head
        energies.append(opened(silicon8).energy)
    assert torch.equal(energies[0], first(silicon8).energy)
    assert not torch.equal(energies[0], energies[1])


def test_mace_that_is_built_anew_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("mace") is None:
        pytest.skip("mace is not here: make adapters-mace")
    small("mace").write(tmp_path / "own.model")
    read = mace._settings
    monkeypatch.setattr(
        mace,
        "_settings",
        lambda *given: read(*given).model_copy(update={"num_polynomial_cutoff": 6, "apply_cutoff": False}),
    )
    with pytest.raises(PotentialError, match=r"eV off on a probe of 7 atoms|do not fit"):
        open_potential(f"mace:{tmp_path / 'own.model'}")


def test_packaged_nequip_is_refused_before_it_is_run(tmp_path: Path) -> None:
    if find_spec("nequip") is None:
        pytest.skip("nequip is not here: make adapters-nequip")
    (tmp_path / "model.nequip.zip").write_bytes(b"")
    with pytest.raises(PotentialError, match="packaged model carries its code"):
        open_potential(f"nequip:{tmp_path / 'model.nequip.zip'}")


@pytest.mark.parametrize("pair", [{"_target_": "os.system"}, {"_target_": "nequip.nn.pair_potentials.X"}, "ZBL"])
def test_nequip_settings_run_no_other_code(pair: object) -> None:
    from thalweg.potentials.adapters.nequip import _check

    with pytest.raises(PotentialError, match=r"pair_potential .* allowed is one with _target_"):
        _check({"pair_potential": pair})
    _check({"pair_potential": {"_target_": "nequip.nn.pair_potential.ZBL", "units": "metal"}})


# without any of the packages


def test_package_that_is_missing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PotentialError, match=r"needs the package nowhere_at_all \(Module.*thalweg\[mace\]") as refusal:
        imported("nowhere_at_all.modules", "mace")
    assert "\n" not in str(refusal.value)


def test_model_file_of_a_missing_package_is_one_line(
    tmp_path: Path, silicon8: Structures, monkeypatch: pytest.MonkeyPatch
) -> None:
    painn = build_potential("painn", {"species": [14], "channels": 4})
    monkeypatch.setattr(type(painn), "kind", "mace")
    monkeypatch.setattr(type(painn), "settings", property(lambda self: {"species": [14]}))
    save_potential(tmp_path / "model.safetensors", painn)
    monkeypatch.undo()
    monkeypatch.setattr(aparting.importlib, "import_module", lambda name: __import__("nowhere_at_all"))
    with pytest.raises(CheckpointError, match="needs the package mace") as refusal:
        load_potential(tmp_path / "model.safetensors")
    assert "\n" not in str(refusal.value)


def test_apart_puts_everything_back_when_it_fails() -> None:
    python, drawn = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    with pytest.raises(KeyError), apart(3):  # noqa: PT012 (what is put back is the point)
        random.random()
        np.random.rand()  # noqa: NPY002
        torch.set_default_dtype(torch.float16)
        os.environ["THALWEG_TEST_APART"] = "1"
        raise KeyError
    assert "THALWEG_TEST_APART" not in os.environ
    assert random.getstate() == python
    assert np.array_equal(np.random.get_state()[1], drawn)  # noqa: NPY002
    assert torch.get_default_dtype() == torch.float32


def test_types_are_found_in_a_packages_order() -> None:
    assert places(torch.tensor([14, 52, 48]), [52, 14, 48]).tolist() == [1, 0, 2]
    assert elements(["Te", "Si"], "file") == [52, 14]
    with pytest.raises(PotentialError, match="'Si1'"):
        elements(["Te", "Si1"], "file")


def test_older_e3nn_is_refused_for_its_other_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thalweg.potentials.spherical.version", lambda name: "0.4.4")
    with pytest.raises(PotentialError, match=r"e3nn 0\.4\.4: .* pip install 'thalweg\[equivariant\]'"):
        coupling(1, 1, 1)


def test_file_fake_is_no_mace(tmp_path: Path) -> None:
    if find_spec("mace") is None:
        pytest.skip("mace is not here: make adapters-mace")
    torch.save(SimpleNamespace(), tmp_path / "other.model")
    with pytest.raises(PotentialError, match="this holds a SimpleNamespace: only a ScaleShiftMACE"):
        open_potential(f"mace:{tmp_path / 'other.model'}")
