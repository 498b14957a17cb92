"""Model files: bitwise round trips, whole or absent, and one clear line for every kind of damage."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import bulk
from safetensors.torch import save_file

from thalweg.errors import CheckpointError, OutputError, PotentialError
from thalweg.potentials import build_potential
from thalweg.potentials.contract import Potential
from thalweg.potentials.files import (
    load_potential,
    potential_from_header,
    potential_header,
    save_potential,
)
from thalweg.potentials.transformer import Transformer
from thalweg.structures.batch import Structures


def small(dtype: torch.dtype = torch.float32, seed: int = 0) -> Potential:
    return build_potential("painn", {"species": [14], "channels": 4, "seed": seed}).to(dtype)


def write(path: Path, header: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Write a file whose header may be wrong."""
    save_file(tensors, path, {"header": header if isinstance(header, str) else json.dumps(header)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_is_bitwise(tmp_path: Path, dtype: torch.dtype) -> None:
    potential = small(dtype, seed=5)
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.mul_(1.1)  # no longer what the seed draws
    save_potential(tmp_path / "model.safetensors", potential)
    again = load_potential(tmp_path / "model.safetensors")
    assert again.settings == potential.settings
    wanted, found = potential.state_dict(), again.state_dict()
    assert wanted.keys() == found.keys()
    assert all(wanted[n].dtype == found[n].dtype and torch.equal(wanted[n], found[n]) for n in wanted)
    assert potential_header(again) == potential_header(potential)


def test_header_is_json_and_rebuilds_from_text() -> None:
    potential = small()
    header = json.loads(json.dumps(potential_header(potential)))
    assert header["kind"] == "painn"
    assert header["dtype"] == "float32"
    again = potential_from_header(header, potential.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), potential.parameters(), strict=True))


def test_saving_twice_writes_the_same_bytes_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_potential(path, small())
    first = path.read_bytes()
    save_potential(path, small())
    assert path.read_bytes() == first
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_failed_write_keeps_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_potential(path, small())
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OutputError, match="the disk is full: free some space"):
        save_potential(path, small(seed=1))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_absent_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the folder does not exist: create it first"):
        save_potential(tmp_path / "absent" / "model.safetensors", small())


def test_mixed_floating_types_are_not_written(tmp_path: Path) -> None:
    potential = small()
    potential.get_buffer("scale").data = torch.ones((), dtype=torch.float64)
    with pytest.raises(CheckpointError, match=r"torch\.float32', 'torch\.float64"):
        save_potential(tmp_path / "model.safetensors", potential)
    assert os.listdir(tmp_path) == []


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.safetensors: there is no such model file"):
        load_potential(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.safetensors"
    save_potential(path, small())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="not a model file or it is damaged") as caught:
        load_potential(path)
    assert "\n" not in str(caught.value)


def test_pickle_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    torch.save(small().state_dict(), path)
    with pytest.raises(CheckpointError, match="not a model file"):
        load_potential(path)


def test_file_without_header_is_refused(tmp_path: Path) -> None:
    save_file(small().state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="it has no header"):
        load_potential(tmp_path / "model.safetensors")


Damage = Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda h, t: h.update(format="other"), "does not say 'thalweg potential'"),
        (lambda h, t: h.update(version=2), "version 2 cannot be read"),
        (lambda h, t: h.pop("version"), "version None cannot be read"),
        (lambda h, t: h.update(kind="pain"), "'pain' is not known to this release: did you mean 'painn'"),
        (lambda h, t: h.pop("kind"), "lacks the kind"),
        (lambda h, t: h.update(settings=None), "lacks the kind or the settings"),
        (lambda h, t: h.update(dtype="bfloat16"), "'bfloat16' is not one of float32, float64"),
        (lambda h, t: h["settings"].update(chanels=3), "no setting 'chanels'"),
        (lambda h, t: h["settings"].update(channels=5), "but its settings ask for"),
        (lambda h, t: h.update(dtype="float64"), "ask for torch.float64"),
        (lambda h, t: t.pop("embedding"), "tensor 'embedding' is missing"),
        (lambda h, t: t.update(extra=torch.zeros(2)), "'extra' does not belong"),
        (lambda h, t: t.update(embedding=torch.zeros(2, 4)), r"'embedding' is torch.float32 \(2, 4\)"),
    ],
)
def test_damage_is_named_in_one_line(tmp_path: Path, damage: Damage, message: str) -> None:
    potential = small()
    header, tensors = potential_header(potential), dict(potential.state_dict())
    damage(header, tensors)
    write(tmp_path / "model.safetensors", header, tensors)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_potential(tmp_path / "model.safetensors")
    assert "\n" not in str(caught.value)
    assert "model.safetensors" in str(caught.value)


@pytest.mark.parametrize("header", ["{", "[]", '"text"'])
def test_header_that_is_no_mapping_is_refused(tmp_path: Path, header: str) -> None:
    write(tmp_path / "model.safetensors", header, small().state_dict())
    with pytest.raises(CheckpointError):
        load_potential(tmp_path / "model.safetensors")


def test_unknown_kind_is_refused_with_the_nearest() -> None:
    with pytest.raises(PotentialError, match="'paiin' is not known: did you mean 'painn'"):
        build_potential("paiin", {})


def test_a_transformer_saved_before_it_could_see_the_cell_still_opens_and_says_the_same() -> None:
    """Its header has none of the settings that came later. File and numbers were made by the release of then."""
    old = Path(__file__).parents[1] / "data" / "model_files" / "transformer-before-cells.safetensors"
    potential = load_potential(old)
    assert (type(potential), potential.kind) == (Transformer, "transformer")
    assert {key: potential.settings[key] for key in ("coordinates", "distance_bias")} == {
        "coordinates": "absolute",
        "distance_bias": "none",
    }
    found = potential(Structures.from_atoms(bulk("Si")))
    assert float(found.energy) == pytest.approx(-7.408031307755224, abs=1e-12)
    wanted = [
        [1.5965505577547665, 0.5609129271209029, -0.4981505829177594],
        [1.616396322458499, 0.5666077609530534, -0.5316496063581734],
    ]
    torch.testing.assert_close(found.forces, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-12)
