from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk
from jaxtyping import Float
from tests.training import problems
from torch import Tensor

from thalweg.errors import PotentialError, SettingsError
from thalweg.evaluation.arms import Arm, Contest, run_arm
from thalweg.evaluation.cost import cost_record, measure_cost, require_crystal
from thalweg.evaluation.crystal import CrystalProperties, measure_crystal
from thalweg.evaluation.label_errors import measure_label_errors
from thalweg.potentials import build_potential
from thalweg.potentials.contract import ConservativePotential
from thalweg.potentials.files import save_potential
from thalweg.potentials.painn import PaiNN
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.structures.batch import Structures
from thalweg.structures.extended_xyz import write_frames, write_pairs
from thalweg.structures.neighbours import Edges
from thalweg.structures.pairs import Frames
from thalweg.testbeds import TESTBEDS
from thalweg.testbeds.crystals import Crystals
from thalweg.testbeds.silicon import Silicon
from thalweg.testbeds.testbed import Testbed
from thalweg.training.settings import TuneSettings


def silicon() -> StillingerWeber:
    return StillingerWeber.from_published("Si")


def crystal() -> Structures:
    found = TESTBEDS["silicon"]().crystal()
    assert found is not None
    return found


class Altered(ConservativePotential):
    """Stillinger-Weber silicon whose energy is altered, to stand for potentials that tuning has broken."""

    kind = "altered"

    def __init__(self, how: str) -> None:
        super().__init__()
        self.inner, self.how = silicon(), how
        self.cutoff, self.species = self.inner.cutoff, self.inner.species

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Altered:
        return cls(settings["how"])

    def energy(self, structures: Structures, edges: Edges) -> Float[Tensor, " structures"]:
        energy = self.inner.energy(structures, edges)
        volume = torch.linalg.det(structures.cell)
        if self.how == "nan":
            return energy * torch.nan
        if self.how == "upside down":
            return -energy
        if self.how == "collapsing":
            return 10.0 * volume + 0.0 * energy
        if self.how == "shifted":
            return energy + 0.25 * structures.counts
        lengths = structures.cell.square().sum(dim=2)  # "soft": C11 - C12 falls, the cubic cell stays stationary
        return energy - 0.012 * (lengths - lengths.mean(dim=1, keepdim=True)).square().sum(dim=1)


def test_silicon_has_the_published_lattice_and_elastic_constants() -> None:
    """Stillinger-Weber silicon with ε = 2.1683 eV, σ = 2.0951 Å.

    C11 151.4, C12 76.4, C44 56.4 GPa: Balamane, Halicioglu and Tiller, Phys. Rev. B 46, 2250 (1992). Cowley, Phys. Rev.
    Lett. 60, 2379 (1988) gives 161.6, 81.6, 60.3 and 117.2 GPa without internal relaxation for ε = 2.315 eV; elastic
    constants are proportional to ε.
    """
    found = measure_crystal(silicon(), crystal())
    assert found.reason is None
    assert found.lattice_constant == pytest.approx(5.43095, abs=1e-5)
    assert found.cohesive_energy == pytest.approx(2 * 2.1683, abs=1e-6)
    assert [found.c11, found.c12, found.c44] == pytest.approx([151.4, 76.4, 56.4], abs=0.06)
    cowley = np.array([found.c11, found.c12, found.c44, found.c44_unrelaxed]) * 2.315 / 2.1683
    assert cowley == pytest.approx([161.6, 81.6, 60.3, 117.2], abs=0.1)


def test_elastic_constants_agree_with_differences_of_the_energy() -> None:
    """An independent way: second differences of the energy per volume, atoms in their ideal places."""
    potential, found = silicon(), measure_crystal(silicon(), crystal())
    cell, volume = crystal(), float(torch.linalg.det(crystal().cell[0]))

    def energy(stretch: Tensor) -> float:
        return float(potential(cell.with_positions(cell.positions @ stretch).with_cell(cell.cell @ stretch)).energy)

    def curvature(direction: Tensor, h: float) -> float:
        unit = torch.eye(3, dtype=torch.float64)
        three = [energy(unit + sign * h * direction) for sign in (1, 0, -1)]
        return 160.21766208 * (three[0] - 2 * three[1] + three[2]) / h**2 / volume

    shear = torch.zeros(3, 3, dtype=torch.float64)
    shear[1, 2] = shear[2, 1] = 0.5
    along = torch.diag(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    both = torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
    for h in (1e-3, 5e-4):
        c11 = curvature(along, h)
        assert c11 == pytest.approx(found.c11, rel=1e-4)
        assert 0.5 * curvature(both, h) - c11 == pytest.approx(found.c12, rel=1e-3)
        assert curvature(shear, h) == pytest.approx(found.c44_unrelaxed, rel=1e-4)


def test_the_figures_do_not_depend_on_the_strain_or_on_where_the_cell_begins() -> None:
    whole = measure_crystal(silicon(), crystal())
    far = Structures.from_atoms(bulk("Si", "diamond", 5.6, cubic=True))
    for other in (measure_crystal(silicon(), crystal(), strain=2e-4), measure_crystal(silicon(), far)):
        found = other.record()
        assert found.pop("reason") is None
        assert found == pytest.approx({key: getattr(whole, key) for key in found}, rel=2e-5)


@pytest.mark.parametrize(
    ("how", "reason", "relaxes"),
    [
        ("nan", "the crystal did not relax: exploded", False),
        ("upside down", "the strained crystal is unstable: an atom moved by", True),
        ("collapsing", "the crystal did not relax", False),
        ("soft", "the crystal is unstable: C11", True),
    ],
)
def test_a_broken_potential_has_no_figures_and_a_reason(how: str, reason: str, relaxes: bool) -> None:
    found = measure_crystal(Altered(how), crystal())
    assert found.reason is not None
    assert found.reason.startswith(reason)
    assert (found.lattice_constant is not None) == relaxes
    assert (found.c11, found.c12, found.c44, found.c44_unrelaxed) == (None, None, None, None)


def test_a_fresh_network_ends_in_figures_or_in_a_reason() -> None:
    for seed in range(3):
        network = PaiNN.from_settings({"species": [14], "channels": 4, "layers": 1, "seed": seed})
        found = measure_crystal(network, crystal())
        assert (found.c11 is None) == (found.reason is not None)


def test_a_potential_without_stress_says_so() -> None:
    direct = build_potential("transformer", {"species": [14], "width": 16, "heads": 2, "layers": 1})
    found = measure_crystal(direct, crystal())
    assert found.reason is not None
    assert "has no stress" in found.reason


def test_what_is_no_cubic_cell_is_refused() -> None:
    primitive = Structures.from_atoms(bulk("Si", "diamond", 5.43))
    with pytest.raises(SettingsError, match="allowed is a periodic cubic cell with its axes"):
        measure_crystal(silicon(), primitive)
    with pytest.raises(SettingsError, match="2 crystals were given"):
        measure_crystal(silicon(), Structures.concatenate([crystal(), crystal()]))
    with pytest.raises(SettingsError, match=r"strain is 0\.5: allowed is 1e-5 to 0\.02"):
        measure_crystal(silicon(), crystal(), strain=0.5)
    with pytest.raises(PotentialError, match="contains Ge"):
        measure_crystal(silicon(), Structures.from_atoms(bulk("Ge", "diamond", 5.43, cubic=True)))


def test_label_errors_are_the_formulas() -> None:
    frames, potential = problems.frames(5, 3), problems.base()
    found = measure_label_errors(potential, frames)
    energy, force, ours, theirs = [], [], [], []
    for k in range(5):
        one = frames.select([k])
        told = potential(one.structures)
        energy.append(1000 * float(told.energy - one.energy) / 7)
        force.append(1000 * (told.forces - one.forces).detach().numpy().ravel())
        ours.append(told.forces.detach().numpy().ravel())
        theirs.append(one.forces.numpy().ravel())
    shift = np.mean(energy)
    a, b = np.concatenate(ours), np.concatenate(theirs)
    wanted = {
        "energy_rmse": np.sqrt(np.mean(np.square(energy))),
        "energy_mae": np.mean(np.abs(energy)),
        "energy_shift": shift,
        "energy_shifted_rmse": np.std(energy),
        "energy_shifted_mae": np.mean(np.abs(energy - shift)),
        "force_rmse": np.sqrt(np.mean(np.square(np.concatenate(force)))),
        "force_mae": np.mean(np.abs(np.concatenate(force))),
        "force_cosine": a @ b / np.linalg.norm(a) / np.linalg.norm(b),
    }
    for key, value in wanted.items():
        assert getattr(found, key) == pytest.approx(float(value), rel=1e-9)
    assert (found.frames, found.atoms, found.reason) == (5, 35, None)


def test_the_surface_itself_has_no_errors_and_a_shift_is_told_apart() -> None:
    frames = problems.frames(4, 3)
    own = measure_label_errors(silicon(), frames)
    assert max(own.energy_rmse or 0, own.force_rmse or 0) < 1e-9
    assert own.force_cosine == pytest.approx(1.0, abs=1e-12)
    shifted = measure_label_errors(Altered("shifted"), frames)
    assert shifted.energy_shift == pytest.approx(250.0)
    assert shifted.energy_mae == pytest.approx(250.0)
    assert shifted.energy_shifted_rmse == pytest.approx(0.0, abs=1e-9)
    turned = measure_label_errors(Altered("upside down"), frames)
    assert turned.force_cosine == pytest.approx(-1.0)


def test_errors_that_are_not_finite_are_a_reason_not_a_mean_over_the_rest() -> None:
    found = measure_label_errors(Altered("nan"), problems.frames(4, 3))
    assert found.reason == "energy or forces are not finite in 4 of 4 frames, first 'small-3-0'"
    assert {v for k, v in found.record().items() if k not in ("frames", "atoms", "reason")} == {None}
    with pytest.raises(SettingsError, match="there are no frames to measure errors on"):
        measure_label_errors(silicon(), problems.frames(4, 3).select([]))


def test_many_frames_are_compared_in_parts_with_the_same_result() -> None:
    frames, potential = problems.frames(40, 3), problems.base()
    whole = measure_label_errors(potential, frames)
    halves = [measure_label_errors(potential, frames.select(range(s, s + 20))) for s in (0, 20)]
    squares = [h.force_rmse**2 for h in halves if h.force_rmse is not None]
    assert whole.force_rmse == pytest.approx(float(np.sqrt(np.mean(squares))), rel=1e-10)


def test_a_potential_stays_as_it_is_and_in_its_floating_type() -> None:
    network = PaiNN.from_settings({"species": [14], "channels": 4, "layers": 1}).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    measure_cost(network, problems.frames(2, 1), crystal=crystal(), reference=silicon())
    assert network.training
    assert all(v.dtype == before[k].dtype and torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_a_record_holds_the_parts_that_were_measured_and_null_for_the_others() -> None:
    frames = problems.frames(2, 1)
    found = measure_cost(problems.base(), frames, crystal=crystal(), reference=silicon())
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert CrystalProperties(**record["crystal"]) == found.crystal
    assert record["reference"]["c11"] == pytest.approx(151.42, abs=0.01)
    assert cost_record(problems.base(), frames, Silicon()) == found.record()
    assert cost_record(problems.base(), None, None) is None
    only = cost_record(problems.base(), frames, None)
    assert only is not None
    assert (only["crystal"], only["reference"]) == (None, None)
    with pytest.raises(SettingsError, match="nothing to measure on"):
        measure_cost(silicon())


def test_the_crystal_measured_is_that_of_the_settings_of_the_testbed() -> None:
    """By default crystals are of cadmium and tellurium; a potential of silicon is measured on silicon."""
    found = cost_record(silicon(), None, Crystals(elements=("Si",)))
    assert found is not None
    assert found["crystal"]["c11"] == pytest.approx(151.42, abs=0.01)
    with pytest.raises(PotentialError, match="Cd"):
        cost_record(silicon(), None, Crystals())


def test_a_testbed_without_a_crystal_is_measured_on_frames_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TESTBEDS["silicon"], "crystal", Testbed.crystal)
    found = cost_record(silicon(), problems.frames(2, 1), Silicon())
    assert found is not None
    assert (found["crystal"], found["reference"]) == (None, None)
    assert cost_record(silicon(), None, Silicon()) is None


def test_an_arm_records_its_cost_where_the_contest_asks_for_it(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.extxyz", problems.pairs(3, 1))
    frames: Frames = problems.frames(4, 2)
    write_frames(tmp_path / "frames.extxyz", frames)
    save_potential(tmp_path / "base.safetensors", problems.base())
    told: TuneSettings = problems.settings(
        tmp_path,
        "relaxation.alpha=0.02",
        "optimiser={updates: 2, batch: 2, warmup: 0}",
        "replay={share: 0.5, batch: 2}",
    )

    def record(arm: Arm, folder: str, *, asked: bool) -> dict[str, Any]:
        pairs, labelled = tmp_path / "pairs.extxyz", tmp_path / "frames.extxyz" if asked else None
        contest = Contest(
            tmp_path / folder,
            tmp_path / "base.safetensors",
            pairs,
            pairs,
            told,
            "distance",
            None,
            frames_held_out=labelled,
            testbed=Silicon() if asked else None,
            replay=tmp_path / "frames.extxyz",
        )
        return run_arm(contest, arm)

    base = record(Arm("base", None), "asked", asked=True)
    assert base["cost"] == cost_record(problems.base(), frames, Silicon())
    tuned = record(Arm("split", told.route), "asked", asked=True)
    assert tuned["training"]["replay_frames"] == 4
    assert tuned["cost"]["errors"]["force_rmse"] != base["cost"]["errors"]["force_rmse"]
    assert record(Arm("split", told.route), "asked", asked=True) == json.loads(json.dumps(tuned))
    assert record(Arm("base", None), "not asked", asked=False)["cost"] is None


def test_a_testbed_without_a_cubic_crystal_is_refused_where_one_is_asked_for() -> None:
    require_crystal("silicon")
    with pytest.raises(
        SettingsError, match=r"'titanium' has no cubic crystal to measure: name one that has \(.*silicon"
    ):
        require_crystal("titanium")
    with pytest.raises(SettingsError, match="did you mean 'silicon'"):
        require_crystal("silicn")
