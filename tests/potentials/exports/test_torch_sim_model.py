"""A potential in torch-sim: conventions on a stand-in state everywhere, torch-sim's own validator where installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from thalweg.errors import PotentialError
from thalweg.potentials import build_potential
from thalweg.potentials.contract import Potential
from thalweg.potentials.exports.torch_sim_model import answer, torch_sim_model
from thalweg.potentials.files import save_potential
from thalweg.structures.batch import Structures

installed = pytest.mark.skipif(
    importlib.util.find_spec("torch_sim") is None,
    reason="torch-sim is not installed: pip install 'thalweg[torch-sim]' runs this test",
)


def painn(*species: int) -> Potential:
    return build_potential("painn", {"species": species, "channels": 4, "layers": 1}).double()


def state_of(structures: Structures, pbc: object = True) -> SimpleNamespace:
    """What a `SimState` holds: lattice vectors as columns."""
    columns = structures.cell.mT.clone()
    return SimpleNamespace(
        positions=structures.positions.clone(),
        cell=columns,
        row_vector_cell=columns.mT,
        pbc=pbc,
        system_idx=structures.owner,
        atomic_numbers=structures.numbers.int(),
    )


@pytest.mark.parametrize("pbc", [True, torch.tensor([True, True, True])])
def test_answers_are_our_own(pbc: object, ragged: Structures) -> None:
    potential = painn(14, 48, 52)
    found = answer(potential, state_of(ragged, pbc), forces=True, stress=True, graph=False)
    wanted = potential(ragged, stress=True)
    assert wanted.stress is not None
    assert found.keys() == {"energy", "forces", "stress"}
    assert torch.equal(found["energy"], wanted.energy)
    assert torch.equal(found["forces"], wanted.forces)
    assert torch.equal(found["stress"], wanted.stress)
    assert not any(t.requires_grad for t in found.values())
    assert answer(potential, state_of(ragged), forces=False, stress=False, graph=False).keys() == {"energy"}


def test_graph_reaches_parameters_and_positions(silicon8: Structures) -> None:
    potential, state = painn(14), state_of(silicon8)
    state.positions.requires_grad_()
    found = answer(potential, state, forces=True, stress=True, graph=True)
    assert all(t.requires_grad for t in found.values())
    found["forces"].square().sum().backward()
    assert float(state.positions.grad.abs().max()) > 0
    assert any(p.grad is not None and bool((p.grad != 0).any()) for p in potential.parameters())


def test_system_without_volume_has_no_stress_and_its_neighbour_keeps_its_own(silicon8: Structures) -> None:
    potential = painn(14)
    cluster = silicon8.with_cell(torch.zeros_like(silicon8.cell))
    alone = potential(silicon8, stress=True).stress
    both = Structures.concatenate([silicon8, cluster])
    state = state_of(both)
    state.pbc = both.pbc.new_tensor([[True] * 3, [False] * 3])
    found = answer(potential, state, forces=True, stress=True, graph=False)
    assert bool(found["stress"][1].isnan().all())
    torch.testing.assert_close(found["stress"][:1], alone, rtol=0, atol=1e-12)
    assert bool(found["forces"].isfinite().all())


def test_absence_of_the_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_sim", None)
    monkeypatch.setitem(sys.modules, "torch_sim.models", None)
    monkeypatch.setitem(sys.modules, "torch_sim.models.interface", None)
    with pytest.raises(PotentialError, match=r"pip install 'thalweg\[torch-sim\]'"):
        torch_sim_model(painn(14))


@installed
@pytest.mark.filterwarnings("ignore")
def test_torch_sim_accepts_and_relaxes_with_it() -> None:
    from ase.build import bulk
    from torch_sim.io import atoms_to_state
    from torch_sim.models.interface import ModelInterface, validate_model_outputs

    potential = painn(1, 6, 12, 14, 26)
    model = torch_sim_model(potential)
    assert isinstance(model, ModelInterface)
    validate_model_outputs(model, torch.device("cpu"), torch.float64)
    frame = bulk("Si", cubic=True)
    frame.rattle(0.05, seed=1)
    frame.set_cell(frame.cell.array @ [[1, 0.05, 0], [0, 1, 0.02], [0, 0, 1]], scale_atoms=True)
    found = model(atoms_to_state([frame], torch.device("cpu"), torch.float64))
    wanted = potential(Structures.from_atoms(frame), stress=True)
    torch.testing.assert_close(found["forces"], wanted.forces, rtol=0, atol=1e-12)
    torch.testing.assert_close(found["stress"], wanted.stress, rtol=0, atol=1e-12)


@installed
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_saved_potential_answers_there_as_here(dtype: torch.dtype, ragged: Structures, tmp_path: Path) -> None:
    """To 1e-12 of the largest; in float32 to its spacing for each of about 60 neighbours in another order."""
    from torch_sim.io import atoms_to_state

    potential = painn(14, 48, 52).to(dtype)
    save_potential(tmp_path / "model.safetensors", potential)
    model = torch_sim_model(str(tmp_path / "model.safetensors"), retain_graph=True)
    periodic = ragged.select([k for k in range(len(ragged)) if bool(ragged.pbc[k].all())]).to(dtype=dtype)
    frames = periodic.to_atoms()
    for frame in frames:
        frame.set_constraint()
    found = model(atoms_to_state(frames, torch.device("cpu"), dtype))
    wanted = potential(periodic, stress=True)
    bound = 1e-12 if dtype == torch.float64 else 60 * 2.0**-23
    for name in ("energy", "forces", "stress"):
        there, here = found[name], getattr(wanted, name)
        assert there.requires_grad
        assert there.dtype == dtype
        assert float((there.detach() - here).abs().max()) <= bound * float(here.abs().max())
    gradient = torch.autograd.grad(found["forces"].square().sum(), list(model.parameters()), allow_unused=True)
    assert any(g is not None and bool((g != 0).any()) for g in gradient)


@installed
@pytest.mark.filterwarnings("ignore")
def test_a_direct_potential_is_asked_for_no_stress() -> None:
    direct = build_potential("transformer", {"species": [14], "width": 8, "heads": 2, "layers": 1}).double()
    with pytest.raises(PotentialError, match="give stress=False"):
        torch_sim_model(direct)
    model = torch_sim_model(direct, stress=False)
    with pytest.raises(NotImplementedError, match="compute_stress"):  # what torch-sim looks for
        model.compute_stress = True  # type: ignore[assignment]
    assert model.compute_stress is False
