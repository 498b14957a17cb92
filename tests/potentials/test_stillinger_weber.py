import math
from itertools import combinations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms import stillinger_weber as reference
from torch.func import functional_call

from thalweg.errors import PotentialError
from thalweg.potentials.stillinger_weber import StillingerWeber, vanishing
from thalweg.potentials.stillinger_weber_entries import PUBLISHED, published_entries
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges
from thalweg.units import GPA_PER_EV_PER_A3


@pytest.fixture(scope="module")
def silicon() -> StillingerWeber:
    return StillingerWeber.from_published("Si")


def rattled_silicon(amplitude: float, seed: int) -> Atoms:
    atoms = bulk("Si", "diamond", 5.431, cubic=True) * (2, 2, 2)
    atoms.rattle(amplitude, seed=seed)
    return atoms


def mixed_crystal(seed: int, amplitude: float = 0.3) -> Atoms:
    """Zincblende with antisites, so that every kind of triplet occurs, and a cell without right angles."""
    atoms = bulk("CdTe", "zincblende", 6.3, cubic=True)
    generator = np.random.default_rng(seed)
    atoms.numbers = generator.permutation(atoms.numbers)
    atoms.set_cell(atoms.cell.array + 0.1 * generator.standard_normal((3, 3)), scale_atoms=True)
    atoms.rattle(amplitude, seed=seed)
    return atoms


def summed_by_hand(atoms: Atoms, name: str) -> float:
    """The defining double and triple sums, over periodic images laid out explicitly."""
    entries, symbols = published_entries(name), atoms.get_chemical_symbols()
    grid = np.array([(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)])
    images = (atoms.positions[:, None] + grid @ atoms.cell.array).reshape(-1, 3)
    kinds = [s for s in symbols for _ in grid]
    energy = 0.0
    for i, centre in enumerate(atoms.positions):
        near = []
        for j, place in enumerate(images):
            e, vector = entries.pair(symbols[i], kinds[j]), place - centre
            r = float(np.linalg.norm(vector))
            if 1e-9 < r < e.a * e.sigma:
                ratio, decay = e.sigma / r, math.exp(e.sigma / (r - e.a * e.sigma))
                energy += 0.5 * e.A * e.epsilon * (e.B * ratio**e.p - ratio**e.q) * decay
                near.append((kinds[j], vector / r, math.exp(e.gamma * e.sigma / (r - e.a * e.sigma))))
        for (s, n, h), (t, m, g) in combinations(near, 2):
            e = entries.by_triplet[symbols[i], s, t]
            energy += e.lambda_ * e.epsilon * (float(n @ m) - e.cos_theta0) ** 2 * h * g
    return energy


def energy_of(potential: StillingerWeber, atoms: Atoms) -> float:
    return float(potential(Structures.from_atoms(atoms)).energy)


@pytest.mark.parametrize("amplitude", [0.02, 0.2, 0.4])
def test_energy_forces_and_stress_are_those_of_matscipy(silicon: StillingerWeber, amplitude: float) -> None:
    frames = [rattled_silicon(amplitude, seed) for seed in (1, 2)]
    ours = silicon(Structures.from_atoms(frames), stress=True)
    for k, atoms in enumerate(frames):
        atoms.calc = Manybody(**reference.StillingerWeber(reference.Stillinger_Weber_PRB_31_5262_Si))
        forces, stress = atoms.get_forces(), atoms.get_stress(voigt=False)
        assert ours.energy[k].item() == pytest.approx(atoms.get_potential_energy(), rel=1e-11)
        assert ours.forces[64 * k : 64 * (k + 1)].numpy() == pytest.approx(
            forces, abs=1e-9 * abs(forces).max()
        )
        assert ours.stress is not None
        assert ours.stress[k].numpy() == pytest.approx(stress, abs=1e-9 * abs(stress).max())


@pytest.mark.parametrize("name", ["CdTe-1989", "CdTe-2013"])
def test_energy_of_two_elements_is_the_explicit_sum_over_triplets(name: str) -> None:
    potential, atoms = StillingerWeber.from_published(name), mixed_crystal(seed=4)
    # λ ε of mirrored triplets is a mean here and the first one there: 2e-7 apart in the 2013 set as printed
    assert energy_of(potential, atoms) == pytest.approx(
        summed_by_hand(atoms, name), rel=1e-6 if "2013" in name else 1e-12
    )


def test_the_explicit_sum_sees_a_wrong_angle() -> None:
    potential, atoms = StillingerWeber.from_published("CdTe-1989"), mixed_crystal(seed=4)
    with torch.no_grad():
        potential.cosine.raw += 1e-4
    assert energy_of(potential, atoms) != pytest.approx(summed_by_hand(atoms, "CdTe-1989"), rel=1e-6)


def test_silicon_has_its_lattice_constant_and_cohesive_energy(silicon: StillingerWeber) -> None:
    lattice = torch.linspace(5.40, 5.46, 61, dtype=torch.float64)
    cells = Structures.from_atoms([bulk("Si", "diamond", float(a)) for a in lattice])
    energy = silicon(cells).energy / 2
    fit = np.polynomial.Polynomial.fit(lattice.numpy(), energy.numpy(), 6)
    minimum = next(r.real for r in fit.deriv().roots() if abs(r.imag) < 1e-12 and 5.40 < r.real < 5.46)
    assert minimum == pytest.approx(5.431, abs=5e-4)
    assert fit(minimum) == pytest.approx(-4.3366, abs=5e-4)  # 2 ε per atom


def strained_stress(silicon: StillingerWeber, strain: torch.Tensor, relaxed: bool) -> torch.Tensor:
    """Stress in GPa of the two-atom cell, its atoms relaxed by Newton steps if asked."""
    start = Structures.from_atoms(bulk("Si", "diamond", 5.43095))
    deform = torch.eye(3, dtype=torch.float64) + strain
    cell = start.with_cell(start.cell @ deform).with_positions(start.positions @ deform)
    edges, second = silicon.edges(cell), torch.zeros(3, dtype=torch.float64)
    first = cell.positions.clone()

    def energy(shift: torch.Tensor) -> torch.Tensor:
        moved = cell.with_positions(torch.stack([first[0], first[1] + shift]))
        return silicon.energy(moved, edges).sum()

    for _ in range(6 if relaxed else 0):
        gradient = torch.func.grad(energy)(second)
        second = (
            second - torch.linalg.solve(torch.func.jacrev(torch.func.grad(energy))(second), gradient)
        ).detach()
    moved = cell.with_positions(torch.stack([first[0], first[1] + second]))
    stress = silicon(moved, edges=edges, stress=True).stress
    assert stress is not None
    return stress[0] * GPA_PER_EV_PER_A3


# Cowley (Phys. Rev. Lett. 60, 2379 (1988)) has 117.2 GPa for the energy scale 2.315 eV; ours is 2.1683 eV
@pytest.mark.parametrize(("relaxed", "c44"), [(True, 56.4), (False, 117.2 * 2.1683 / 2.315)])
def test_silicon_has_its_published_elastic_constants(
    silicon: StillingerWeber, relaxed: bool, c44: float
) -> None:
    step = 1e-4
    stretch, shear = torch.zeros(2, 3, 3, dtype=torch.float64)
    stretch[0, 0], shear[1, 2], shear[2, 1] = step, step / 2, step / 2
    along = strained_stress(silicon, stretch, relaxed) - strained_stress(silicon, -stretch, relaxed)
    across = strained_stress(silicon, shear, relaxed) - strained_stress(silicon, -shear, relaxed)
    found = [along[0, 0] / (2 * step), along[1, 1] / (2 * step), across[1, 2] / (2 * step)]
    assert [float(c) for c in found] == pytest.approx([151.4, 76.4, c44], abs=0.1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_energy_is_twice_differentiable_to_positions_cell_and_parameters(name: str) -> None:
    atoms = mixed_crystal(seed=2, amplitude=0.1)
    atoms = atoms[:4] if name != "Si" else bulk("Si", "diamond", 5.431)
    atoms.rattle(0.1, seed=3)
    atoms.set_cell(atoms.cell.array + 0.1 * np.random.default_rng(0).standard_normal((3, 3)))
    potential, start = StillingerWeber.from_published(name), Structures.from_atoms(atoms)
    edges = potential.edges(start)
    names = [n for n, _ in potential.named_parameters()]

    def energy(positions: torch.Tensor, cell: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        moved = start.with_positions(positions).with_cell(cell)
        call = _Energy(potential)
        state = {f"potential.{n}": p for n, p in zip(names, parameters, strict=True)}
        return functional_call(call, state, (moved, edges))

    inputs = [start.positions, start.cell, *(p.detach() for p in potential.parameters())]
    inputs = [i.clone().requires_grad_() for i in inputs]
    assert torch.autograd.gradcheck(energy, inputs, atol=1e-6, rtol=1e-6)
    assert torch.autograd.gradgradcheck(energy, inputs, atol=1e-5, rtol=1e-6)


class _Energy(torch.nn.Module):
    def __init__(self, potential: StillingerWeber) -> None:
        super().__init__()
        self.potential = potential

    def forward(self, structures: Structures, edges: Edges) -> torch.Tensor:
        return self.potential.energy(structures, edges)


def test_energy_is_additive_over_copies_and_blind_to_names_of_atoms(silicon: StillingerWeber) -> None:
    atoms = rattled_silicon(0.2, 5)
    order = np.random.default_rng(1).permutation(len(atoms))
    shuffled, doubled = atoms[order], atoms * (2, 1, 1)
    one, two, twice = (silicon(Structures.from_atoms(a)) for a in (atoms, shuffled, doubled))
    assert two.energy.item() == pytest.approx(one.energy.item(), rel=1e-13)
    assert twice.energy.item() == pytest.approx(2 * one.energy.item(), rel=1e-13)
    assert torch.allclose(two.forces, one.forces[torch.as_tensor(order)], rtol=0, atol=1e-12)
    assert one.forces.sum(dim=0).abs().max() < 1e-11


def test_energy_follows_rotation_and_translation() -> None:
    potential, atoms = StillingerWeber.from_published("CdTe-2013"), mixed_crystal(seed=7)
    turned = atoms.copy()
    turned.rotate(37.0, (1, 2, 3), rotate_cell=True)
    turned.positions += (11.0, -3.0, 0.7)
    rotation = torch.as_tensor(np.linalg.solve(atoms.cell.array, turned.cell.array))
    one, two = potential(Structures.from_atoms(atoms)), potential(Structures.from_atoms(turned))
    assert two.energy.item() == pytest.approx(one.energy.item(), rel=1e-12)
    assert torch.allclose(two.forces, one.forces @ rotation, rtol=0, atol=1e-11)


def test_a_structure_has_the_same_energy_alone_and_in_a_batch(silicon: StillingerWeber) -> None:
    frames = [rattled_silicon(0.1, k) for k in range(3)]
    together = silicon(Structures.from_atoms(frames))
    alone = silicon(Structures.from_atoms(frames[1]))
    assert together.energy[1].item() == pytest.approx(alone.energy.item(), rel=1e-14)
    assert torch.equal(together.forces[64:128], alone.forces)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivatives_of_a_trimer_go_to_zero_at_the_cutoff_to_third_order(dtype: torch.dtype) -> None:
    potential = StillingerWeber.from_published("Si", dtype=dtype)
    rc = potential.cutoff
    cluster = Structures.from_atoms(
        Atoms("Si3", positions=[[0, 0, 0], [0, 2.4, 0], [2.4, 0, 0]]), dtype=dtype
    )
    edges = Edges(
        centre=torch.tensor([0, 0, 1, 2]),
        neighbour=torch.tensor([1, 2, 0, 0]),
        shift=torch.zeros(4, 3, dtype=dtype),
    )

    def derivatives(r: float) -> list[float]:
        at = torch.tensor(r, dtype=dtype, requires_grad=True)
        place = torch.stack([at, torch.zeros_like(at), torch.zeros_like(at)])
        moved = cluster.with_positions(torch.cat([cluster.positions[:2], place.unsqueeze(0)]))
        value = potential.energy(moved, edges).sum()
        found = []
        for _ in range(3):
            (value,) = torch.autograd.grad(value, at, create_graph=True)
            found.append(value.item())
        return found

    assert min(abs(d) for d in derivatives(rc - 0.4)) > 1e-3  # the probe does see the interaction
    gaps = [0.03, 0.02, 0.01, 1e-3, 1e-4, 1e-6, 1e-9, 0.0, -1e-9, -1e-3, -0.1]
    near = np.array([derivatives(rc - gap) for gap in gaps])
    assert np.isfinite(near).all()
    assert abs(near).max() < 1e-12
    ladder = np.array([derivatives(rc - gap) for gap in (0.1, 0.08, 0.06, 0.05, 0.04)])
    assert (np.diff(abs(ladder), axis=0) < 0).all()  # each order dies out, none jumps


def test_without_its_guard_the_decay_has_nan_derivatives() -> None:
    def third(function: object, gap: float) -> float:
        at = torch.tensor([gap], dtype=torch.float32, requires_grad=True)
        value = function(at).sum()  # type: ignore[operator]
        for _ in range(3):
            (value,) = torch.autograd.grad(value.sum(), at, create_graph=True)
        return value.item()

    length = torch.tensor(2.0951, dtype=torch.float32)
    assert third(lambda gap: vanishing(length, gap), -1e-12) == 0.0
    assert math.isnan(third(lambda gap: (length / gap).exp(), -1e-12))


def test_learned_parameters_are_those_that_terms_use() -> None:
    sizes = {
        name: {n.split(".")[0]: p.numel() for n, p in StillingerWeber.from_published(name).named_parameters()}
        for name in PUBLISHED
    }
    pairs = {"pair_strength": 3, "repulsion": 3, "length": 3, "decay": 4, "stiffness": 6, "cosine": 6}
    assert sizes == {"Si": dict.fromkeys(pairs, 1), "CdTe-1989": pairs, "CdTe-2013": pairs}


def test_every_parameter_moves_the_forces() -> None:
    potential = StillingerWeber.from_published("CdTe-2013")
    prediction = potential(Structures.from_atoms(mixed_crystal(seed=3)), graph=True)
    prediction.forces.square().sum().backward()
    for name, parameter in potential.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).all(), name


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_rebuild_the_same_surface(name: str) -> None:
    potential = StillingerWeber.from_published(name)
    atoms = rattled_silicon(0.1, 0) if name == "Si" else mixed_crystal(seed=1)
    again = StillingerWeber.from_settings(potential.settings)
    short = StillingerWeber.from_settings({"published": name})
    assert again.settings == potential.settings
    assert energy_of(again, atoms) == energy_of(potential, atoms) == energy_of(short, atoms)
    again.load_state_dict(potential.state_dict())


def test_an_unknown_element_is_refused(silicon: StillingerWeber) -> None:
    with pytest.raises(PotentialError, match=r"contains Ge.*knows Si"):
        energy_of(silicon, Atoms("SiGe", positions=[[0, 0, 0], [2.4, 0, 0]]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either 'entries' or 'published'"),
        ({"publishd": "Si"}, "did you mean 'published'"),
        ({"published": "CdTe-2012"}, "did you mean 'CdTe-2013'"),
        ({"entries": []}, "at least one triplet"),
        ({"entries": 3}, "list of mappings"),
    ],
)
def test_bad_settings_are_refused_with_advice(settings: dict[str, object], message: str) -> None:
    with pytest.raises(PotentialError, match=message):
        StillingerWeber.from_settings(settings)
