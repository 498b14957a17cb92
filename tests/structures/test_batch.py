import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixBondLength, FixCartesian

from thalweg.errors import StructureError
from thalweg.structures.batch import Structures


@pytest.fixture
def frames() -> list[Atoms]:
    fixed = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    fixed.set_constraint([FixAtoms([0, 3]), FixCartesian([1], mask=(True, False, True))])
    slab = bulk("Si") * (2, 1, 1)
    slab.pbc = [True, True, False]
    return [fixed, molecule("H2O"), slab]


def test_atoms_survive_the_round_trip(frames):
    batch = Structures.from_atoms(frames, ids=["salt", "water", "slab"])
    for before, after, name in zip(frames, batch.to_atoms(), ("salt", "water", "slab"), strict=True):
        assert (before.numbers == after.numbers).all()
        assert (before.positions == after.positions).all()
        assert (before.cell.array == after.cell.array).all()
        assert (before.pbc == after.pbc).all()
        assert after.info["id"] == name
    again = Structures.from_atoms(batch.to_atoms())
    assert torch.equal(again.free, batch.free)
    assert again.ids == batch.ids
    assert batch.free[:4].tolist() == [[False] * 3, [False, True, False], [True] * 3, [False] * 3]


def test_counts_offsets_owner_and_masses_describe_the_atoms(frames):
    batch = Structures.from_atoms(frames)
    assert len(batch) == 3
    assert batch.counts.tolist() == [8, 3, 4]
    assert batch.offsets == (0, 8, 11, 15)
    assert batch.owner.tolist() == [0] * 8 + [1] * 3 + [2] * 4
    np.testing.assert_allclose(batch.masses.numpy(), np.concatenate([a.get_masses() for a in frames]), rtol=1e-12)
    assert batch.ids == ("0", "1", "2")


def test_totals_are_sums_over_each_structure_and_differentiable(frames):
    batch = Structures.from_atoms(frames)
    values = torch.arange(30.0, dtype=torch.float64).reshape(15, 2).requires_grad_()
    expected = torch.stack([values[:8].sum(0), values[8:11].sum(0), values[11:].sum(0)])
    assert torch.equal(batch.total(values), expected)
    assert torch.autograd.gradcheck(batch.total, (values,))


def test_selecting_gives_the_structures_in_the_order_asked(frames):
    batch = Structures.from_atoms(frames, ids=["a", "b", "c"])
    chosen = batch.select([2, 0, 2])
    assert chosen.ids == ("c", "a", "c")
    for before, after in zip([frames[2], frames[0], frames[2]], chosen.to_atoms(), strict=True):
        assert (before.positions == after.positions).all()
        assert (before.numbers == after.numbers).all()
    assert chosen.owner.tolist() == [0] * 4 + [1] * 8 + [2] * 4
    assert torch.equal(chosen.free[4:12], batch.free[:8])
    assert batch.atoms_of([1, 0]).tolist() == [8, 9, 10, *range(8)]


def test_joining_undoes_selecting(frames):
    batch = Structures.from_atoms(frames)
    again = Structures.concatenate([batch.select([0]), batch.select([1, 2])])
    for name in ("positions", "numbers", "cell", "pbc", "owner", "free"):
        assert torch.equal(getattr(again, name), getattr(batch, name))
    assert again.ids == batch.ids


def test_changing_type_leaves_masks_and_indices_alone(frames):
    single = Structures.from_atoms(frames).to(dtype=torch.float32)
    assert single.dtype == single.cell.dtype == single.masses.dtype == torch.float32
    assert single.numbers.dtype == single.owner.dtype == torch.int64
    assert single.free.dtype == single.pbc.dtype == torch.bool


def test_detaching_cuts_the_graph(frames):
    batch = Structures.from_atoms(frames)
    tied = batch.with_positions(batch.positions.clone().requires_grad_() * 2)
    assert tied.positions.requires_grad
    assert not tied.detach().positions.requires_grad


def si(positions=((0, 0, 0),), cell=(5, 5, 5), pbc=True) -> Atoms:
    return Atoms(f"Si{len(positions)}", positions, cell=cell, pbc=pbc)


def bonded() -> Atoms:
    atoms = si([[0, 0, 0], [2, 0, 0]])
    atoms.set_constraint(FixBondLength(0, 1))
    return atoms


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms(cell=[5, 5, 5], pbc=True), "has no atoms"),
        (si([[0, 0, 0], [np.nan, 1, 1]]), "position of atom 1 .* not finite"),
        (si([[np.inf, 1, 1]]), "position of atom 0"),
        (si(cell=(5, 0, 5)), "no volume"),
        (si(cell=[[5, 0, 0], [10, 0, 0], [0, 0, 5]]), "no volume"),
        (si(cell=(5, np.nan, 5)), "cell has entries that are not finite"),
        (bonded(), "FixBondLengths is not supported"),
    ],
)
def test_a_structure_that_cannot_be_used_is_refused_by_name(atoms, message):
    with pytest.raises(StructureError, match=f"structure 'bad'.*{message}") as caught:
        Structures.from_atoms([si(), atoms], ids=["good", "bad"])
    assert "\n" not in str(caught.value)


def test_no_structures_at_all_are_refused():
    with pytest.raises(StructureError, match="no structures given"):
        Structures.from_atoms([])
    with pytest.raises(StructureError, match="empty list"):
        Structures.concatenate([])


def test_a_cluster_needs_no_cell():
    assert len(Structures.from_atoms(molecule("CH4"))) == 1
