import pytest
import torch
from ase import Atoms

from thalweg.errors import SettingsError, StructureError
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Frames, Pairs
from thalweg.structures.split import split_parents


def structures(ids, moved=0.0) -> Structures:
    frames = [
        Atoms(f"Si{1 + k % 3}", [[moved + k, 2.0 * n, 0] for n in range(1 + k % 3)], cell=[9] * 3, pbc=True)
        for k in range(len(ids))
    ]
    return Structures.from_atoms(frames, ids=ids)


def pairs(ids=("a", "b", "c", "d"), parents=("p", "q", "p", "r"), **labels) -> Pairs:
    return Pairs(structures(ids), structures(ids, 0.1), tuple(parents), **labels)


def energies(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_selecting_keeps_everything_of_a_pair_together():
    forces = torch.arange(21.0, dtype=torch.float64).reshape(7, 3)
    whole = pairs(energy_start=energies(1, 2, 3, 4), energy_minimum=energies(-1, -2, -3, -4), forces_start=forces)
    chosen = whole.select([2, 0])
    assert len(chosen) == 2
    assert chosen.ids == chosen.minima.ids == ("c", "a")
    assert chosen.parents == ("p", "p")
    assert chosen.energy_start.tolist() == [3, 1]
    assert chosen.energy_minimum.tolist() == [-3, -1]
    assert torch.equal(chosen.forces_start, forces[[3, 4, 5, 0]])
    assert whole.with_ids(["c", "a"]).energy_start.tolist() == [3, 1]
    assert chosen.forces_start.shape == chosen.starts.positions.shape


def test_labels_that_are_unknown_stay_unknown():
    assert pairs().select([0]).energy_minimum is None
    joined = Pairs.concatenate([pairs(energy_minimum=energies(1, 2, 3, 4)), pairs(ids=("e", "f", "g", "h"))])
    assert joined.energy_minimum[:4].tolist() == [1, 2, 3, 4]
    assert joined.energy_minimum[4:].isnan().all()
    assert joined.energy_start is None
    assert joined.forces_start is None
    with_forces = pairs(ids=("e", "f", "g", "h"), forces_start=torch.zeros(7, 3, dtype=torch.float64))
    joined = Pairs.concatenate([pairs(), with_forces])
    assert joined.forces_start[:7].isnan().all()
    assert (joined.forces_start[7:] == 0).all()


def test_joining_refuses_a_doubled_id():
    with pytest.raises(StructureError, match=r"pair id 'a' occurs at 0 and 4"):
        Pairs.concatenate([pairs(), pairs()])


def test_an_unknown_id_is_refused_with_the_nearest_known():
    with pytest.raises(StructureError, match=r"no pair 'vacc1'.*did you mean 'vac1'"):
        pairs(ids=("vac1", "int1", "x", "y")).with_ids(["vacc1"])


def test_changing_type_reaches_every_label():
    labels = dict(energy_start=energies(1, 2, 3, 4), forces_start=torch.zeros(7, 3, dtype=torch.float64))
    single = pairs(**labels).to(dtype=torch.float32)
    for tensor in (single.starts.positions, single.minima.cell, single.energy_start, single.forces_start):
        assert tensor.dtype == torch.float32
    assert single.energy_minimum is None


@pytest.mark.parametrize(
    ("starts", "minima", "parents", "message"),
    [
        (structures("ab"), structures("a"), ("p", "p"), "2 starts, 1 minima and 2 parents"),
        (structures("ab"), structures("ab"), ("p",), "1 parents"),
        (structures("ab"), structures("ac"), ("p", "p"), "start 'b' stands beside minimum 'c'"),
    ],
)
def test_sets_that_do_not_fit_together_are_refused(starts, minima, parents, message):
    with pytest.raises(StructureError, match=message):
        Pairs(starts, minima, parents)


def test_other_atoms_in_the_minimum_are_refused():
    one = Structures.from_atoms(Atoms("SiGe", [[0, 0, 0], [2, 0, 0]]), ids=["x"])
    swapped = Structures.from_atoms(Atoms("GeSi", [[0, 0, 0], [2, 0, 0]]), ids=["x"])
    fewer = Structures.from_atoms(Atoms("Si"), ids=["x"])
    with pytest.raises(StructureError, match=r"pair 'x': atom 0 has atomic number 14 in the start and 32"):
        Pairs(one, swapped, ("p",))
    with pytest.raises(StructureError, match=r"pair 'x': the start has 2 atoms and the minimum 1"):
        Pairs(one, fewer, ("p",))


PARENTS = tuple(f"p{k % 7}" for k in range(40))


@pytest.mark.parametrize("held_out", [0.25, 1, 10, 39])
@pytest.mark.parametrize("seed", range(5))
def test_no_parent_is_on_both_sides_of_a_split(held_out, seed):
    kept, held = split_parents(PARENTS, held_out, seed)
    assert sorted(kept + held) == list(range(40))
    assert {PARENTS[k] for k in kept}.isdisjoint({PARENTS[k] for k in held})
    target = held_out if isinstance(held_out, int) else held_out * 40
    assert len(kept) > 0
    assert len(held) >= min(target, 34)


def test_a_split_depends_on_names_and_seed_but_not_on_order():
    held = {PARENTS[k] for k in split_parents(PARENTS, 0.3, 5)[1]}
    assert {PARENTS[::-1][k] for k in split_parents(PARENTS[::-1], 0.3, 5)[1]} == held
    assert len({frozenset(PARENTS[k] for k in split_parents(PARENTS, 0.3, s)[1]) for s in range(8)}) > 3


def test_a_new_parent_moves_no_other_across_the_split():
    before = {PARENTS[k] for k in split_parents(PARENTS, 10, 0)[1]}
    more = (*PARENTS, *["new"] * 5)
    after = {more[k] for k in split_parents(more, 10, 0)[1]}
    assert after - {"new"} <= before


def test_pairs_and_frames_are_split_alike():
    kept, held = pairs().split_by_parent(1, 0)
    assert sorted(kept.ids + held.ids) == ["a", "b", "c", "d"]
    assert set(kept.parents).isdisjoint(held.parents)
    assert (kept.ids, held.ids) == tuple(part.ids for part in frames().split_by_parent(1, 0))


@pytest.mark.parametrize("held_out", [0, 40, -1, 0.0, 1.0, 1.5, True, float("nan")])
def test_a_share_out_of_range_is_refused(held_out):
    with pytest.raises(SettingsError, match="held_out is"):
        split_parents(PARENTS, held_out, 0)


def test_a_single_parent_cannot_be_split():
    with pytest.raises(StructureError, match="all 3 come from one parent, 'p'"):
        split_parents(["p"] * 3, 1, 0)


def frames() -> Frames:
    s = structures("abcd")
    return Frames(s, energies(1, 2, 3, 4), s.positions * 2, ("p", "q", "p", "r"), s.cell * 0.1)


def test_selecting_keeps_everything_of_a_frame_together():
    chosen = frames().select([3, 1])
    assert chosen.ids == ("d", "b")
    assert chosen.energy.tolist() == [4, 2]
    assert torch.equal(chosen.forces, chosen.structures.positions * 2)
    assert torch.equal(chosen.stress, chosen.structures.cell * 0.1)
    assert frames().with_ids(["d", "b"]).parents == ("r", "q")
    assert frames().to(dtype=torch.float32).stress.dtype == torch.float32


def test_joining_frames_keeps_stresses_apart():
    s = structures("efgh")
    joined = Frames.concatenate([frames(), Frames(s, energies(1, 2, 3, 4), s.positions, ("z",) * 4)])
    assert len(joined) == 8
    assert joined.stress[4:].isnan().all()
    assert not joined.stress[:4].isnan().any()
    with pytest.raises(StructureError, match="frame id 'a'"):
        Frames.concatenate([frames(), frames()])


def test_frames_without_a_label_for_each_are_refused():
    s = structures("ab")
    with pytest.raises(StructureError, match="2 structures of 3 atoms"):
        Frames(s, energies(1), s.positions, ("p", "p"))
