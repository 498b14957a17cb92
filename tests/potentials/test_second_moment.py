import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from scipy.optimize import minimize
from torch.func import functional_call

from thalweg.errors import PotentialError
from thalweg.potentials.opening import open_potential
from thalweg.potentials.second_moment import SOFTENING, SecondMoment, smooth_step
from thalweg.potentials.second_moment_bonds import SETS, TITANIUM_LENGTH, Bond, bonds_of
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges
from thalweg.testbeds.slabs import bare
from thalweg.testbeds.titanium import HEIGHT_CONSTANT, LATTICE_CONSTANT
from thalweg.units import GPA_PER_EV_PER_A3

PUBLISHED = {  # a (Å), A, ξ (eV), p, q; measured c/a and cohesive energy (eV)
    "Ti": ((2.951, 0.1519, 1.8112, 8.620, 2.390), 1.588, 4.85),
    "Co": ((2.507, 0.0950, 1.4880, 11.604, 2.286), 1.623, 4.39),
    "Mg": ((3.209, 0.0290, 0.4992, 12.820, 2.257), 1.624, 1.51),
}


@pytest.fixture(scope="module")
def titanium() -> SecondMoment:
    return SecondMoment.from_set("Ti")


def energy_of(potential: SecondMoment, atoms: Atoms) -> float:
    return float(potential(Structures.from_atoms(atoms)).energy)


def crowd(seed: int) -> Atoms:
    """A skewed cell with every element of the set in it."""
    generator = np.random.default_rng(seed)
    atoms = bulk("Ti", "hcp", a=3.4, c=5.4) * (2, 2, 1)
    atoms.numbers[[1, 3, 4, 6]] = [1, 6, 7, 8]
    atoms.set_cell(atoms.cell.array + 0.2 * generator.standard_normal((3, 3)), scale_atoms=True)
    atoms.rattle(0.2, seed=seed)
    return atoms


def summed_by_hand(atoms: Atoms, name: str) -> float:
    """The defining sums in numpy, over periodic images laid out explicitly."""
    by_pair = {frozenset(b.elements): b for b in bonds_of(name)}
    symbols = atoms.get_chemical_symbols()
    grid = np.array([(i, j, k) for i in range(-2, 3) for j in range(-2, 3) for k in range(-2, 3)])
    energy = 0.0
    for i, centre in enumerate(atoms.positions):
        moment = 0.0
        for j, place in enumerate(atoms.positions):
            bond = by_pair.get(frozenset((symbols[i], symbols[j])))
            if bond is None:
                continue
            for r in np.linalg.norm(place + grid @ atoms.cell.array - centre, axis=1):
                if not 1e-9 < r < bond.reach:
                    continue
                u, x = r / bond.length - 1, max((r - bond.start) / (bond.reach - bond.start), 0.0)
                s = 1 - x**4 * (35 - 84 * x + 70 * x**2 - 20 * x**3)
                energy += s * (
                    bond.repulsion * math.exp(-bond.hardness * u) - bond.attraction * math.exp(-bond.decay * u)
                )
                moment += (s * bond.hopping * math.exp(-bond.decay * u)) ** 2
        energy -= math.sqrt(moment + SOFTENING**2) - SOFTENING
    return energy


def as_published(element: str, a: float, ratio: float) -> float:
    """Energy per atom of the crystal by the publication: sums that stop behind the fifth neighbours, eV."""
    (r0, strength, hopping, p, q), _, _ = PUBLISHED[element]
    grid = np.array([(i, j, k) for i in range(-3, 4) for j in range(-3, 4) for k in range(-2, 3)])
    places = np.concatenate([grid, grid + np.array([1 / 3, 2 / 3, 1 / 2])])
    ideal = np.linalg.norm(places @ _hexagonal(1.0, math.sqrt(8 / 3)), axis=1)
    r = np.linalg.norm(places @ _hexagonal(a, ratio * a), axis=1)[(ideal > 1e-6) & (ideal < 1.95)]
    assert len(r) == 12 + 6 + 2 + 18 + 12
    u = r / r0 - 1
    return float(strength * np.exp(-p * u).sum() - hopping * np.sqrt(np.exp(-2 * q * u).sum()))


def _hexagonal(a: float, c: float) -> np.ndarray:
    return np.array([[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, c]])


def lowest(function, start: list[float]) -> tuple[float, np.ndarray]:
    found = minimize(function, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10})
    return float(found.fun), found.x


@pytest.mark.parametrize("element", ["Co", "Mg"])
def test_parameters_are_read_as_published(element: str) -> None:
    # what r0 means and where the sums stop is told by metals of nearly ideal c/a: what they were fitted to comes back
    (r0, *_), ratio, cohesive = PUBLISHED[element]
    energy, (a, found) = lowest(lambda x: as_published(element, x[0], x[1]), [r0, 1.6])
    assert -energy == pytest.approx(cohesive, rel=2e-3)
    assert a == pytest.approx(r0, rel=2e-3)
    assert found == pytest.approx(ratio, abs=5e-3)


def test_another_reading_of_the_parameters_is_noticed() -> None:
    (r0, *_), _, _ = PUBLISHED["Mg"]
    _, (a, _) = lowest(lambda x: as_published("Mg", x[0] * 2**0.5, x[1]), [r0 / 2**0.5, 1.6])
    assert a != pytest.approx(r0, rel=2e-2)


def test_titanium_is_that_of_the_publication_but_for_its_smooth_end(titanium: SecondMoment) -> None:
    ours, (a, ratio) = lowest(lambda x: energy_of(titanium, bulk("Ti", "hcp", a=x[0], c=x[0] * x[1])) / 2, [2.95, 1.6])
    theirs, (a_sharp, ratio_sharp) = lowest(lambda x: as_published("Ti", x[0], x[1]), [2.95, 1.6])
    assert (a, ratio * a) == pytest.approx((LATTICE_CONSTANT, HEIGHT_CONSTANT), abs=1e-5)
    assert ours == pytest.approx(theirs, abs=0.015)
    assert (a, ratio) == pytest.approx((a_sharp, ratio_sharp), abs=0.015)
    assert -ours == pytest.approx(4.85, abs=0.01)  # measured; a 2.951 Å and c/a 1.588 are missed by 1.1 and 2.8 %
    assert a == pytest.approx(2.951, rel=0.012)
    assert ratio == pytest.approx(1.588, rel=0.03)


def test_the_hexagonal_crystal_lies_below_the_cubic_ones(titanium: SecondMoment) -> None:
    hexagonal = energy_of(titanium, bulk("Ti", "hcp", a=LATTICE_CONSTANT, c=HEIGHT_CONSTANT)) / 2
    for lattice, a, above in (("fcc", 4.13, 0.0043), ("bcc", 3.31, 0.0184)):
        cubic, _ = lowest(lambda x, lattice=lattice: energy_of(titanium, bulk("Ti", lattice, a=x[0])), [a])
        assert cubic - hexagonal == pytest.approx(above, abs=2e-4)


def elastic_constants(potential: SecondMoment) -> list[float]:
    """C11, C12, C13, C33, C44 of the hexagonal crystal in GPa, its second atom at rest."""
    start = Structures.from_atoms(bulk("Ti", "hcp", a=LATTICE_CONSTANT, c=HEIGHT_CONSTANT))
    edges, zero = potential.edges(start), torch.zeros(3, dtype=torch.float64)

    def energy(v: torch.Tensor) -> torch.Tensor:
        xx, yy, zz, yz, xz, xy = v[:6]
        strain = torch.stack([xx, xy / 2, xz / 2, xy / 2, yy, yz / 2, xz / 2, yz / 2, zz]).reshape(3, 3)
        deform = torch.eye(3, dtype=torch.float64) + strain
        moved = start.with_cell(start.cell @ deform).with_positions(
            start.positions @ deform + torch.stack([zero, v[6:]])
        )
        return potential.energy(moved, edges).sum()

    hessian = torch.autograd.functional.hessian(energy, torch.zeros(9, dtype=torch.float64))
    strains, mixed, shifts = hessian[:6, :6], hessian[:6, 6:], hessian[6:, 6:]
    relaxed = strains - mixed @ torch.linalg.solve(shifts, mixed.T)
    relaxed = relaxed * GPA_PER_EV_PER_A3 / torch.linalg.det(start.cell[0])
    assert float((relaxed[0, 0] - relaxed[0, 1]) / 2) == pytest.approx(float(relaxed[5, 5]), abs=1e-6)
    return [float(relaxed[i, j]) for i, j in ((0, 0), (0, 1), (0, 2), (2, 2), (3, 3))]


def test_elastic_constants_are_within_a_sixth_of_the_measured_but_one(titanium: SecondMoment) -> None:
    # Fisher and Renken, Phys. Rev. 135, A482 (1964), at 4 K; C44 comes out at half, as the form is known to do
    measured = [176.1, 86.9, 68.3, 190.5, 50.8]
    found = elastic_constants(titanium)
    assert found == pytest.approx([166.4, 99.6, 71.8, 170.9, 26.6], abs=0.2)
    assert found[:4] == pytest.approx(measured[:4], rel=0.16)


def test_the_close_packed_surface_costs_half_of_what_is_measured(titanium: SecondMoment) -> None:
    # not relaxed; titanium itself has about 2 J/m²: surfaces of this form are too cheap
    slab = bare("Ti", LATTICE_CONSTANT, HEIGHT_CONSTANT, layers=8, size=1, fixed=1)
    bulk_energy = energy_of(titanium, bulk("Ti", "hcp", a=LATTICE_CONSTANT, c=HEIGHT_CONSTANT)) / 2
    area = LATTICE_CONSTANT**2 * 3**0.5 / 2
    cost = (energy_of(titanium, slab.atoms) - 8 * bulk_energy) / (2 * area)
    assert cost * 16.0218 == pytest.approx(1.143, abs=2e-3)
    deeper = bare("Ti", LATTICE_CONSTANT, HEIGHT_CONSTANT, layers=12, size=1, fixed=1)
    same = (energy_of(titanium, deeper.atoms) - 12 * bulk_energy) / (2 * area)
    assert same == pytest.approx(cost, abs=1e-9)


@pytest.mark.parametrize("name", SETS)
def test_energy_is_the_explicit_sum(name: str) -> None:
    atoms = crowd(3)
    if name == "Ti":
        atoms.numbers[:] = 22
    assert energy_of(SecondMoment.from_set(name), atoms) == pytest.approx(summed_by_hand(atoms, name), rel=1e-12)


def test_the_explicit_sum_sees_a_wrong_decay() -> None:
    potential = SecondMoment.from_set("Ti-adsorbates")
    with torch.no_grad():
        potential.decay.raw[3] += 1e-5
    assert energy_of(potential, crowd(3)) != pytest.approx(summed_by_hand(crowd(3), "Ti-adsorbates"), rel=1e-8)


@pytest.mark.parametrize("r", [2.0, 2.951, 4.0])
def test_two_atoms_have_the_closed_form(titanium: SecondMoment, r: float) -> None:
    u = r / TITANIUM_LENGTH - 1
    expected = 2 * 0.1519 * math.exp(-8.62 * u) - 2 * 1.8112 * math.exp(-2.39 * u)
    found = energy_of(titanium, Atoms("Ti2", [[0, 0, 0], [r, 0, 0]]))
    assert found - 2 * SOFTENING == pytest.approx(expected, abs=1e-5)


def test_a_morse_bond_has_its_depth_length_and_stiffness() -> None:
    potential = SecondMoment([Bond.morse(("C", "O"), depth=5.0, length=1.2, width=1.3, reach=3.0)])
    pair = Structures.from_atoms(Atoms("CO", [[0, 0, 0], [1.2, 0, 0]]))
    found = potential(pair)
    assert float(found.energy) == pytest.approx(-5.0, abs=1e-12)
    assert float(found.forces.abs().max()) < 1e-12
    edges = potential.edges(pair)
    second = torch.autograd.functional.hessian(
        lambda x: potential.energy(pair.with_positions(x), edges).sum(), pair.positions
    )
    assert float(second[1, 0, 1, 0]) == pytest.approx(2 * 5.0 * 1.3**2, rel=1e-10)


def test_elements_without_a_bond_do_not_feel_each_other() -> None:
    potential = SecondMoment.from_set("Ti-adsorbates")
    found = potential(Structures.from_atoms(Atoms("NO", [[0, 0, 0], [0.9, 0, 0]])))
    assert float(found.energy) == 0.0
    assert not found.forces.any()


def test_an_atom_alone_has_no_energy_and_finite_derivatives(titanium: SecondMoment) -> None:
    alone = Structures.from_atoms(Atoms("Ti", [[0.0, 0.0, 0.0]]))
    assert energy_of(titanium, Atoms("Ti", [[0, 0, 0]])) == 0.0
    start = alone.positions.clone().requires_grad_()
    forces = titanium(alone.with_positions(start), graph=True).forces
    assert not forces.any()
    gradients = torch.autograd.grad(forces.sum(), list(titanium.parameters()), allow_unused=True)
    assert all(g is None or bool(g.isfinite().all()) for g in gradients)


def test_the_switch_joins_with_three_derivatives() -> None:
    assert smooth_step(torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.5])).tolist() == [1.0, 1.0, 0.5, 0.0, 0.0]
    x = torch.tensor([0.0, 1e-9, 0.5, 1 - 1e-9, 1.0], dtype=torch.float64, requires_grad=True)
    y = smooth_step(x)
    stated = 1 - x**4 * (35 - 84 * x + 70 * x**2 - 20 * x**3)
    assert torch.allclose(y, stated, rtol=0, atol=1e-12)
    for _ in range(3):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        assert y[[0, 1, 3, 4]].abs().max() < 1e-5
    (fourth,) = torch.autograd.grad(y.sum(), x)
    assert abs(float(fourth[1])) == pytest.approx(840, rel=1e-3)  # the fourth does jump


@pytest.mark.parametrize("bond", bonds_of("Ti-adsorbates"), ids=lambda b: b.label)
@pytest.mark.parametrize("end", ["start", "reach"])
def test_derivatives_of_a_pair_do_not_jump_up_to_the_third(bond: Bond, end: str) -> None:
    potential, at = SecondMoment([bond]), getattr(bond, end)
    pair = Structures.from_atoms(Atoms(bond.elements, np.zeros((2, 3))))
    edges = Edges(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.zeros(2, 3, dtype=torch.float64))

    def derivatives(r: float) -> np.ndarray:
        x = torch.tensor(r, dtype=torch.float64, requires_grad=True)
        value = potential.energy(
            pair.with_positions(torch.stack([x * 0, x * 0, x * 0, x, x * 0, x * 0]).view(2, 3)), edges
        )
        found = [value.item()]
        for _ in range(3):
            (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
            found.append(value.item())
        return np.array(found)

    jumps = [np.abs(derivatives(at + gap) - derivatives(at - gap)).max() for gap in (1e-3, 1e-4, 1e-5)]
    assert jumps[2] < 0.2 * jumps[1] < 0.04 * jumps[0] + 1e-12  # differences close as the gap does


class _Energy(torch.nn.Module):
    def __init__(self, potential: SecondMoment) -> None:
        super().__init__()
        self.potential = potential

    def forward(self, structures: Structures, edges: Edges) -> torch.Tensor:
        return self.potential.energy(structures, edges)


def test_energy_is_twice_differentiable_to_positions_cell_and_parameters() -> None:
    potential = SecondMoment.from_set("Ti-adsorbates")
    start = Structures.from_atoms(crowd(2)[[0, 2, 3, 6]])
    edges, names = potential.edges(start), [n for n, _ in potential.named_parameters()]

    def energy(positions: torch.Tensor, cell: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        state = {f"potential.{n}": p for n, p in zip(names, parameters, strict=True)}
        return functional_call(_Energy(potential), state, (start.with_positions(positions).with_cell(cell), edges))

    inputs = [start.positions, start.cell, *(p.detach() for p in potential.parameters())]
    inputs = [i.clone().requires_grad_() for i in inputs]
    assert torch.autograd.gradcheck(energy, inputs, atol=1e-6, rtol=1e-6)
    assert torch.autograd.gradgradcheck(energy, inputs, atol=1e-5, rtol=1e-6, fast_mode=True)


def test_learned_parameters_are_those_that_terms_use_and_each_moves_the_forces() -> None:
    sizes = {"repulsion": 6, "attraction": 1, "hopping": 5, "hardness": 6, "decay": 6}
    potential = SecondMoment.from_set("Ti-adsorbates")
    assert {n.split(".")[0]: p.numel() for n, p in potential.named_parameters()} == sizes
    atoms = crowd(1)
    atoms.positions[4] = atoms.positions[3] + [0.9, 0.9, 0.0]  # a carbon and
    atoms.numbers[4] = 8  # an oxygen within their bond
    atoms.numbers[7] = 7
    prediction = potential(Structures.from_atoms(atoms), graph=True)
    prediction.forces.square().sum().backward()
    for name, parameter in potential.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).all(), name


@pytest.mark.parametrize("name", SETS)
def test_settings_rebuild_the_same_surface(name: str) -> None:
    potential = SecondMoment.from_set(name)
    again, short = SecondMoment.from_settings(potential.settings), SecondMoment.from_settings({"set": name})
    atoms = bulk("Ti", "hcp", a=2.9, c=4.8)
    assert again.settings == potential.settings == short.settings
    assert energy_of(again, atoms) == energy_of(open_potential(f"second-moment:{name}"), atoms)
    assert energy_of(short, atoms) == energy_of(potential, atoms)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either 'bonds' or 'set'"),
        ({"bond": []}, "did you mean 'bonds'"),
        ({"set": "Ti-adsorbate"}, "did you mean 'Ti-adsorbates'"),
        ({"bonds": []}, "at least one pair"),
        ({"bonds": 3}, "list of mappings"),
        ({"bonds": [3]}, "give a mapping"),
        ({"bonds": 2 * [bonds_of("Ti")[0].plain()]}, "given twice"),
        ({"bonds": [bonds_of("Ti")[0].plain() | {"xi": 1.0}]}, "has 'xi'"),
        ({"bonds": [{"elements": ["Ti", "Ti"]}]}, "lacks length"),
        ({"bonds": [bonds_of("Ti")[0].plain() | {"elements": ["Ti"]}]}, "give two symbols"),
        ({"bonds": [bonds_of("Ti")[0].plain() | {"elements": ["Ti", "Tj"]}]}, "'Tj' is not an element"),
        ({"bonds": [bonds_of("Ti")[0].plain() | {"decay": "x"}]}, "decay of a second-moment bond is 'x'"),
        (
            {"bonds": [bonds_of("Ti")[0].plain() | {"hardness": 0.0}]},
            "hardness is 0.0; allowed is a finite number above",
        ),
        ({"bonds": [bonds_of("Ti")[0].plain() | {"hopping": -1.0}]}, "hopping is -1.0; allowed is a finite number 0"),
        ({"bonds": [bonds_of("Ti")[0].plain() | {"start": 9.0}]}, "allowed is a start below the reach"),
    ],
)
def test_bad_settings_are_refused_with_advice(settings: dict[str, object], message: str) -> None:
    with pytest.raises(PotentialError, match=message):
        SecondMoment.from_settings(settings)
    if settings.get("set"):
        with pytest.raises(PotentialError, match=message):
            open_potential(f"second-moment:{settings['set']}")
