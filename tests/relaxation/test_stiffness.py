"""The differentiable stiffness against dense matrices and central differences in float64."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from tests.relaxation.surfaces import Morse, Wrapped, rattled_argon, vacancy_in_silicon
from tests.relaxation.test_stability import batch, dense

from thalweg.errors import PotentialError, SettingsError
from thalweg.gradients.differences import Comparison, compare
from thalweg.potentials.contract import Potential, Prediction
from thalweg.potentials.painn import PaiNN
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.potentials.transformer import Transformer
from thalweg.relaxation import largest_curvature
from thalweg.relaxation.stiffness import measure_stiffness
from thalweg.structures.batch import Structures
from thalweg.structures.neighbours import Edges


class Whirl(Potential):
    """Direct forces F = −A x − b x³ with a learnable A that is not symmetric; atoms do not see each other."""

    kind: ClassVar[str] = "whirl"
    conservative: ClassVar[bool] = False
    cutoff = 1.0
    species = tuple(range(1, 20))

    def __init__(self) -> None:
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.tensor([[4.0, 3.5, 0.2], [-1.5, 3.0, 0.5], [0.3, -0.5, 2.0]]).double())
        self.cubic = torch.nn.Parameter(torch.tensor(0.3).double())

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        return cls()

    def forward(
        self, structures: Structures, *, edges: Edges | None = None, graph: bool = False, stress: bool = False
    ) -> Prediction:
        x = structures.positions
        forces = -x @ self.matrix.T - self.cubic * x**3
        return Prediction(energy=structures.total(x.square().sum(dim=1)), forces=forces)


def silicon() -> Structures:
    held = bulk("Si", cubic=True)
    held.set_constraint(FixAtoms([0, 3]))
    return Structures.from_atoms([vacancy_in_silicon(0.05, 1, repeat=1), held])


def painn() -> Potential:
    made = PaiNN.from_settings({"species": [14], "channels": 4, "layers": 1, "cutoff": 3.0, "seed": 3})
    return made.double()


def transformer(attention: str) -> Potential:
    told = {"species": [14], "width": 8, "feed_forward": 8, "layers": 1, "heads": 2, "attention": attention}
    return Transformer.from_settings(told).double()


def certified(potential: Potential, structures: Structures, **found: Any) -> Comparison:
    """Compare the claimed gradient of Σ s² with central differences of what is found tightly at each parameter."""
    parameters = list(potential.parameters())
    value = measure_stiffness(potential, structures, **found).differentiable().square().sum()
    gradient = torch.autograd.grad(value, parameters, materialize_grads=True)
    stream = torch.Generator().manual_seed(7)
    direction = [torch.randn(p.shape, generator=stream, dtype=torch.float64) for p in parameters]
    analytic = float(sum((g * d).sum() for g, d in zip(gradient, direction, strict=True)))

    def tight() -> float:
        s = measure_stiffness(potential, structures, tolerance=1e-11, max_products=90).value
        return float(s.square().sum())

    with torch.no_grad():
        return compare(tight, parameters, direction, analytic, relative=1e-6, steps=(1e-3, 3e-4, 1e-4, 3e-5))


@pytest.mark.parametrize("make", [lambda: StillingerWeber.from_published("Si"), painn], ids=["sw", "painn"])
def test_the_gradient_of_a_curvature_is_that_of_central_differences(make: Any) -> None:
    found = certified(make(), silicon(), tolerance=1e-11, max_products=90)
    assert found.passed, found


def test_the_gradient_at_a_vector_that_is_no_eigenvector_is_refused() -> None:
    """The negative control of the test above: vectors of two products instead of the eigenvectors."""
    found = certified(StillingerWeber.from_published("Si"), silicon(), tolerance=1e-11, max_products=2)
    assert not found.passed
    assert found.relative_error > 1e-3


def test_the_gradient_of_a_singular_value_of_direct_forces_is_that_of_central_differences() -> None:
    structures = Structures.from_atoms([Atoms([1, 2], [[0.3, 0.5, 1], [0.1, 1, 0.4]]), Atoms([3], [[0.9, 0.2, 0.6]])])
    found = certified(Whirl(), structures, tolerance=1e-12, max_products=40)
    assert found.passed, found
    assert not certified(Whirl(), structures, tolerance=1e-12, max_products=1).passed


def test_it_is_the_largest_eigenvalue_or_singular_value_of_the_dense_matrix() -> None:
    structures = batch()
    found = measure_stiffness(Morse(), structures, tolerance=1e-10, max_products=95).value
    torch.testing.assert_close(found, largest_curvature(Morse(), structures, tolerance=1e-10, max_products=95))
    direct = Structures.from_atoms([vacancy_in_silicon(0.05, 1, repeat=1)])
    plain = transformer("plain")
    sigma = float(torch.linalg.matrix_norm(dense(plain, direct), ord=2))
    found = measure_stiffness(plain, direct, tolerance=1e-10, max_products=60).value
    assert float(found[0]) == pytest.approx(sigma, rel=1e-6)
    assert sigma > 1.01 * float(torch.linalg.eigvals(dense(plain, direct)).abs().max())


def test_few_products_give_a_bound_from_below_within_the_tolerance() -> None:
    structures, potential = silicon(), StillingerWeber.from_published("Si")
    exact = measure_stiffness(potential, structures, tolerance=1e-10, max_products=90).value
    for products in (2, 4, 8):
        rough = measure_stiffness(potential, structures, tolerance=1e-10, max_products=products)
        assert (rough.value <= exact * (1 + 1e-12)).all()
        torch.testing.assert_close(rough.differentiable().detach(), rough.value, rtol=1e-10, atol=0)
    default = measure_stiffness(potential, structures).value
    assert ((exact - default) <= 0.02 * exact).all()


def test_a_structure_has_its_stiffness_in_any_batch() -> None:
    structures, potential = silicon(), StillingerWeber.from_published("Si")
    whole = measure_stiffness(potential, structures, tolerance=1e-10, max_products=90).value
    alone = measure_stiffness(potential, structures.select([1]), tolerance=1e-10, max_products=90).value
    torch.testing.assert_close(alone, whole[1:], rtol=1e-9, atol=0)


def test_what_cannot_move_has_none_and_what_is_not_finite_says_so() -> None:
    fixed = rattled_argon(1, 0.05, 1)
    fixed.set_constraint(FixAtoms(range(len(fixed))))
    structures = Structures.from_atoms([fixed, rattled_argon(1, 0.05, 2)])
    found = measure_stiffness(Morse(), structures)
    assert float(found.value[0]) == float(found.differentiable().detach()[0]) == 0.0
    assert float(found.value[1]) > 0

    class Broken(Wrapped):
        def forward(self, structures: Structures, **how: Any) -> Prediction:
            given = super().forward(structures, **how)
            return Prediction(energy=given.energy, forces=given.forces * torch.tensor([1.0, torch.nan, 1.0]))

    assert torch.isnan(measure_stiffness(Broken(Morse()), structures.select([1])).value).all()


def test_forces_that_cannot_be_differentiated_twice_are_refused_in_one_line() -> None:
    with pytest.raises(PotentialError, match=r"cannot be differentiated twice.*attention=plain") as caught:
        measure_stiffness(transformer("fused"), Structures.from_atoms([vacancy_in_silicon(0.05, 1, repeat=1)]))
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match="max_products is 0"):
        measure_stiffness(Morse(), batch(), max_products=0)
