"""Exported metatomic files: what they declare, and that a process without this package gets our numbers from them."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from numpy.typing import NDArray
from tests.contracts.broken_potentials import Numbered, Wrapping
from tests.contracts.test_potentials import fresh
from tests.potentials.exports.exported import WRITE, needs_metatomic, run

from thalweg.errors import PotentialError
from thalweg.potentials.contract import Potential
from thalweg.potentials.exports.metatomic_model import check_file, write_metatomic
from thalweg.potentials.exports.metatomic_trace import interaction_range, require_usable
from thalweg.potentials.files import save_potential
from thalweg.potentials.opening import open_potential
from thalweg.potentials.second_moment import SecondMoment
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # metatomic is made of it
THREE = [14, 48, 52]
MAKERS: dict[str, Callable[[], Potential]] = {
    "painn": lambda: fresh("painn", species=THREE),
    "schnet": lambda: fresh("schnet", species=THREE),
    "equivariant": lambda: fresh("equivariant", species=THREE),
    "telluride": lambda: StillingerWeber.from_published("CdTe-2013"),
    "torch": lambda: fresh("torch", species=THREE),
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
CASES = [f"{name}.float64" for name in MAKERS]
CASES += [f"{name}.float32" for name in ("painn", "telluride")]
AGREEMENT = {"float64": 1e-12, "float32": 60 * 2.0**-23}
"""How far what other programs get may be off, relative to the largest component. In float32: its spacing, for each
of the about 60 neighbours over which sums run in another order there."""

_ASK = """
import json, os, sys, torch, numpy as np
from ase.io import read
from metatomic_ase import MetatomicCalculator

child = os.fork()  # which imports this package and writes the files; both share the imports above
if child == 0:
    status = 1
    try:
        exec(sys.argv[3])
        sys.stdout.flush()
        status = 0
    finally:
        os._exit(status)
assert os.waitpid(child, 0)[1] == 0
folder, answers = sys.argv[1], {}
for case in json.loads(sys.argv[2]):
    calculator = MetatomicCalculator(f"{folder}/{case}.pt", device="cpu", check_consistency=True)
    with torch.jit.optimized_execution(case == "painn.float64"):  # which takes seconds, so of one
        for k, frame in enumerate(read(f"{folder}/{case}.extxyz", ":")):
            frame.calc = calculator
            answers[f"{case} energy {k}"] = frame.get_potential_energy()
            answers[f"{case} forces {k}"] = frame.get_forces()
            if frame.pbc.all():
                answers[f"{case} stress {k}"] = frame.get_stress()
assert "thalweg" not in sys.modules
np.savez(f"{folder}/answers.npz", **answers)
"""


def frames(case: str) -> list[Atoms]:
    """Cells and clusters of one, two, eight, ten and sixteen atoms in several orders; not those of the trace."""
    first, second = bulk("CdTe", "zincblende", a=6.48, cubic=True), bulk("CdTe", "zincblende", a=6.3)
    whole = first * (1, 2, 1)
    ends = Atoms(first.numbers[::-1].copy(), first.positions)
    mixed = Atoms([52, 14, 48, 48, 14, 52, 14, 14, 48, 52], numpy_stream(1, "mixed").uniform(0, 6, (10, 3)))
    found = [first, second, whole, ends, Atoms(first.numbers[:1], [[9.0, 1.0, 2.0]], cell=12 * np.eye(3), pbc=True)]
    if not case.startswith("telluride"):
        found.append(mixed)
    for k, frame in enumerate(found):
        frame.positions += 0.1 * numpy_stream(2, "metatomic frames", k).standard_normal((len(frame), 3))
    return found


def potential_of(case: str) -> Potential:
    name, dtype = case.split(".")
    return MAKERS[name]().to(DTYPES[dtype])


_COUNTED = """
import torch

class Counted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.strength = torch.nn.Parameter(torch.tensor(0.1))

    def forward(self, vectors, centre, owner, pbc):
        each = self.strength * torch.exp(-vectors.square().sum(dim=1)) / len(owner)
        return each.new_zeros(pbc.shape[0]).index_add(0, owner[centre], each)

def make():
    return Counted()
"""
"""A module that divides by the number of atoms in the batch, which a trace keeps as it was."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files of all cases are, and what a process that does not import this package got from them."""
    folder = tmp_path_factory.mktemp("exports")
    (folder / "counted.py").write_text(_COUNTED)
    counted = open_potential(f"torch:{folder}/counted.py:make?species=Si&cutoff=4.2")
    for name, potential in {**{case: potential_of(case) for case in CASES}, "counted": counted}.items():
        save_potential(folder / f"{name}.safetensors", potential)
    for case in CASES:
        write(folder / f"{case}.extxyz", frames(case), format="extxyz", columns=["symbols", "positions"])
    (folder / "refused.txt").write_text(run(_ASK, folder, json.dumps(CASES), WRITE))
    return folder


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[str, Any]:
    """What that process got."""
    return dict(np.load(folder / "answers.npz"))


def expected(potential: Potential, structures: Structures) -> dict[str, NDArray[np.float64]]:
    """What ASE is to get of a structure."""
    found = potential(structures, stress=bool(structures.pbc.all()))
    values = {"energy": found.energy[0].double().numpy(), "forces": found.forces.double().numpy()}
    if found.stress is not None:
        full = found.stress[0].double().numpy()
        values["stress"] = np.array([full[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))])
    return values


@needs_metatomic
@pytest.mark.parametrize("case", CASES)
def test_a_fresh_process_gets_our_numbers(case: str, answers: dict[str, Any], folder: Path) -> None:
    potential, dtype, compared = potential_of(case), case.split(".")[1], set()
    for k, frame in enumerate(read(folder / f"{case}.extxyz", ":")):
        structures = Structures.from_atoms(frame, dtype=DTYPES[dtype])
        for what, ours in expected(potential, structures).items():
            off = np.abs(answers[f"{case} {what} {k}"] - ours).max()
            assert off <= max(AGREEMENT[dtype] * np.abs(ours).max(), 1e-12), (what, k, ours)
            compared.add(what)
    assert compared == {"energy", "forces", "stress"}


@needs_metatomic
def test_what_a_file_declares_is_true(folder: Path) -> None:
    from metatomic.torch import load_atomistic_model

    model = load_atomistic_model(str(folder / "painn.float64.pt"))
    told = model.capabilities()
    assert (told.length_unit, told.dtype, told.supported_devices) == ("Angstrom", "float64", ["cpu"])
    assert told.atomic_types == THREE
    assert told.interaction_range == pytest.approx(8.4)
    assert told.outputs["energy"].unit == "eV"
    assert told.outputs["energy"].sample_kind == "atom"
    (wanted,) = model.requested_neighbor_lists()
    assert (wanted.cutoff, wanted.full_list, wanted.strict) == (4.2, True, True)
    whole = load_atomistic_model(str(folder / "torch.float64.pt")).capabilities()
    assert whole.interaction_range == math.inf
    assert whole.outputs["energy"].sample_kind == "system"


@pytest.mark.parametrize(
    ("potential", "reach"),
    [
        (fresh("painn", species=[14], layers=3), 12.6),
        (fresh("schnet", species=[14]), 8.4),
        (fresh("equivariant", species=[14], layers=1), 4.2),
        (StillingerWeber.from_published("Si"), 3.77118),
        (SecondMoment.from_set("Ti"), 6.4922),
        (fresh("torch", species=[14]), math.inf),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_interaction_range_is_how_far_an_atoms_energy_reaches(potential: Potential, reach: float) -> None:
    assert interaction_range(potential) == pytest.approx(reach)


def energies_of_a_chain(
    folder: Path, kind: str, selected: list[int] | None = None, sample_kind: str = "atom"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return energies of a chain of atoms 3 Å apart, per atom or in all, and its positions, to differentiate by."""
    from metatensor.torch import Labels
    from metatomic.torch import ModelEvaluationOptions, ModelOutput, load_atomistic_model

    from thalweg.potentials.adapters.metatomic_systems import systems_of
    from thalweg.structures.neighbours import find_edges

    model = load_atomistic_model(str(folder / f"{kind}.float64.pt"))
    chain = Structures.from_atoms(Atoms([14, 48, 52] * 3, [[3.0 * k, 0.1 * (k % 2), 0.0] for k in range(9)]))
    x = chain.positions.clone().requires_grad_()
    edges = find_edges(chain, 4.2)
    chosen = None if selected is None else Labels(["system", "atom"], torch.tensor([[0, k] for k in selected]))
    options = ModelEvaluationOptions(
        length_unit="Angstrom",
        outputs={"energy": ModelOutput(unit="eV", sample_kind=sample_kind)},
        selected_atoms=chosen,
    )
    found = model(systems_of(model, chain.with_positions(x), edges), options, check_consistency=True)
    return found["energy"].block().values[:, 0], x


@needs_metatomic
@pytest.mark.parametrize("kind", ["painn", "schnet", "equivariant"])
def test_energies_of_atoms_reach_as_far_as_declared_and_no_farther(folder: Path, kind: str) -> None:
    energies, x = energies_of_a_chain(folder, kind)
    total = MAKERS[kind]().to(torch.float64)(Structures.from_atoms(Atoms([14, 48, 52] * 3, x.detach().numpy())))
    assert float(energies.detach().sum()) == pytest.approx(float(total.energy), rel=1e-9)
    slope = torch.autograd.grad(energies[0], x)[0].abs().amax(dim=1)
    assert bool((slope[:3] > 0).all())  # 0, 3 and 6 Å away; two layers of 4.2 Å
    assert bool((slope[3:] == 0).all())


@needs_metatomic
def test_selected_atoms_have_their_own_energies_and_no_others(folder: Path) -> None:
    everything, _ = energies_of_a_chain(folder, "painn")
    some, x = energies_of_a_chain(folder, "painn", [1, 4, 5])
    torch.testing.assert_close(some, everything[[1, 4, 5]], rtol=1e-12, atol=0)
    assert bool((torch.autograd.grad(some.sum(), x)[0][8:] == 0).all())
    with pytest.raises(ValueError, match="only globally"):
        energies_of_a_chain(folder, "torch", [1])


@needs_metatomic
def test_without_energies_of_atoms_all_may_be_selected_and_no_fewer(folder: Path) -> None:
    """LAMMPS in one process selects every atom."""
    wanted, _ = energies_of_a_chain(folder, "torch", None, "system")
    found, _ = energies_of_a_chain(folder, "torch", [8, 1, 2, 3, 4, 5, 6, 7, 0], "system")
    assert float(found.detach()) == float(wanted.detach())
    with pytest.raises(torch.jit.Error, match="no energies per atom"):
        energies_of_a_chain(folder, "torch", [0, 1, 2, 3, 4, 5, 6, 7], "system")


@pytest.mark.parametrize(
    ("potential", "reason"),
    [
        (fresh("transformer", species=[14]), "no gradient of its energy"),
        (fresh("transformer", species=[14], coordinates="fractional"), "no gradient of its energy"),
        (fresh("fully_connected", species=[14]), "order or the periodic images"),
    ],
    ids=["transformer", "transformer, fractional", "fully connected"],
)
def test_what_other_programs_cannot_use_is_refused(potential: Potential, reason: str) -> None:
    with pytest.raises(PotentialError, match=reason):
        require_usable(potential, torch.float64)


def test_wrapping_and_renumbering_alone_are_each_seen() -> None:
    require_usable(fresh("painn", species=[14]), torch.float64)
    for broken in (Wrapping, Numbered):
        with pytest.raises(PotentialError, match="order or the periodic images"):
            require_usable(broken(), torch.float64)


@needs_metatomic
def test_a_file_that_answers_otherwise_is_rejected(folder: Path) -> None:
    check_file(folder / "painn.float64.pt", fresh("painn", species=THREE))
    with pytest.raises(PotentialError, match="energy of a lone atom differ"):
        check_file(folder / "painn.float64.pt", fresh("painn", species=THREE, seed=1))
    turned = fresh("painn", species=THREE)
    turned.messages[1].mix.data[2] *= 1.01  # type: ignore[index, union-attr]
    with pytest.raises(PotentialError, match="differ from it"):
        check_file(folder / "painn.float64.pt", turned)


def test_absence_of_the_package_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metatomic", None)
    monkeypatch.setitem(sys.modules, "metatomic.torch", None)
    with pytest.raises(PotentialError, match=r"pip install 'thalweg\[metatomic\]'"):
        write_metatomic(tmp_path / "model.pt", fresh("painn", species=[14]))
    assert list(tmp_path.iterdir()) == []


@needs_metatomic
def test_what_cannot_be_traced_is_refused_and_leaves_nothing(folder: Path) -> None:
    (refused,) = (folder / "refused.txt").read_text().splitlines()
    assert re.match("counted: a torch potential cannot be exported to metatomic: .* differ from it", refused)
    assert not (folder / "counted.pt").exists()
    assert (folder / "painn.float64.pt").exists()


@needs_metatomic
def test_half_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PotentialError, match=r"torch\.float16"):
        write_metatomic(tmp_path / "model.pt", fresh("painn", species=[14]).half())
    assert list(tmp_path.iterdir()) == []
