import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian
from ase.io import read, write

from thalweg.errors import OutputError, StructureError
from thalweg.structures.batch import Structures
from thalweg.structures.extended_xyz import read_frames, read_pairs, write_frames, write_pairs
from thalweg.structures.pairs import Frames, Pairs

NAN = float("nan")


def example(dtype=torch.float64) -> Pairs:
    rng = np.random.default_rng(0)
    salt, water = bulk("NaCl", "rocksalt", a=5.6, cubic=True), molecule("H2O")
    salt.set_constraint([FixAtoms([0]), FixCartesian([1], (True, False, True))])
    starts, minima = [salt, water], []
    for atoms in starts:
        moved = atoms.copy()
        moved.positions += rng.normal(size=moved.positions.shape) * 0.1
        minima.append(moved)
    ids = ("007", 'odd "one" = \\ %, Å')
    return Pairs(
        Structures.from_atoms(starts, ids=ids, dtype=dtype),
        Structures.from_atoms(minima, ids=ids, dtype=dtype),
        ("a parent", "T"),
        energy_start=torch.tensor([NAN, 1e-17], dtype=dtype),
        energy_minimum=torch.tensor([-206.47819802, -1 / 3], dtype=dtype),
        forces_start=torch.tensor(rng.normal(size=(11, 3)), dtype=dtype),
    )


def same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return (a is None and b is None) or torch.equal(a.nan_to_num(123.0), b.nan_to_num(123.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_pairs_survive_the_round_trip_to_the_last_bit(tmp_path, dtype):
    before = example(dtype)
    write_pairs(tmp_path / "pairs.xyz", before)
    after = read_pairs(tmp_path / "pairs.xyz", dtype=dtype)
    assert after.ids == before.ids
    assert after.parents == before.parents
    for label in ("energy_start", "energy_minimum", "forces_start"):
        assert same(getattr(after, label), getattr(before, label))
    for side in ("starts", "minima"):
        for name in ("positions", "numbers", "cell", "pbc", "owner", "free"):
            assert torch.equal(getattr(getattr(after, side), name), getattr(getattr(before, side), name)), name


def test_labels_that_are_unknown_for_all_read_as_none(tmp_path):
    p = example()
    write_pairs(tmp_path / "a.xyz", Pairs(p.starts, p.minima, p.parents))
    again = read_pairs(tmp_path / "a.xyz")
    assert again.energy_start is None
    assert again.energy_minimum is None
    assert again.forces_start is None
    assert "nan" not in (tmp_path / "a.xyz").read_text()


def test_ase_reads_what_is_written(tmp_path):
    write_pairs(tmp_path / "a.xyz", example())
    frames = read(tmp_path / "a.xyz", index=":")
    assert [f.info["role"] for f in frames] == ["start", "minimum"] * 2
    assert frames[1].get_potential_energy() == -206.47819802
    assert np.array_equal(frames[0].get_forces(apply_constraint=False), example().forces_start[:8].numpy())
    assert frames[0].pbc.all()
    assert not frames[2].pbc.any()


def test_what_ase_writes_is_read(tmp_path):
    start, minimum = bulk("Si"), bulk("Si")
    minimum.rattle(0.05)
    for atoms, role, energy in ((start, "start", -1.0), (minimum, "minimum", -2.0)):
        atoms.info = {"pair": "x", "role": role, "parent": "p", "remark": "pair=other role=none"}
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.full((2, 3), energy))
    write(tmp_path / "a.xyz", [minimum, start], format="extxyz")
    pairs = read_pairs(tmp_path / "a.xyz")
    assert pairs.ids == ("x",)
    assert pairs.parents == ("p",)
    assert pairs.energy_start.tolist() == [-1.0]
    assert pairs.energy_minimum.tolist() == [-2.0]
    assert (pairs.forces_start == -1).all()
    np.testing.assert_allclose(pairs.minima.positions.numpy(), minimum.positions, atol=1e-8)


def labelled() -> Frames:
    s = example().starts
    stress = torch.tensor([[1, 2, 3], [2, 4, 5], [3, 5, 6]], dtype=torch.float64) / 7
    return Frames(
        s,
        torch.tensor([-1.5, 2.5], dtype=torch.float64),
        s.positions * 3,
        ("p", "q"),
        torch.stack([stress, stress * NAN]),
    )


def test_frames_survive_the_round_trip_to_the_last_bit(tmp_path):
    before = labelled()
    write_frames(tmp_path / "a.xyz", before)
    after = read_frames(tmp_path / "a.xyz")
    assert (after.ids, after.parents) == (before.ids, before.parents)
    assert same(after.energy, before.energy)
    assert same(after.forces, before.forces)
    assert same(after.stress, before.stress)
    assert torch.equal(after.structures.free, before.structures.free)


def test_frames_without_names_are_called_after_their_place(tmp_path):
    atoms = bulk("Si")
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=np.zeros((2, 3)))
    write(tmp_path / "a.xyz", [atoms, atoms], format="extxyz")
    frames = read_frames(tmp_path / "a.xyz")
    assert frames.ids == frames.parents == ("frame-000000", "frame-000001")
    assert frames.stress is None


def test_a_file_that_exists_is_kept(tmp_path):
    (tmp_path / "a.xyz").write_text("mine")
    for writer, value in ((write_pairs, example()), (write_frames, labelled())):
        with pytest.raises(OutputError, match="exists"):
            writer(tmp_path / "a.xyz", value)
    assert (tmp_path / "a.xyz").read_text() == "mine"
    write_pairs(tmp_path / "a.xyz", example(), overwrite=True)
    assert len(read_pairs(tmp_path / "a.xyz")) == 2


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    with pytest.raises(OutputError, match="'007' occurs at 0 and 1"):
        write_pairs(tmp_path / "a.xyz", example().select([0, 0]))
    p = example()
    with pytest.raises(OutputError, match="line break"):
        write_pairs(tmp_path / "a.xyz", Pairs(p.starts, p.minima, ("a\nb", "c")))
    assert os.listdir(tmp_path) == []


def block(role="start", *, pair="x", atoms=("Si 0 0 0", "Si 2.35 0 0"), lattice="5 0 0 0 5 0 0 0 5", more="") -> str:
    cell = f'Lattice="{lattice}" ' if lattice else ""
    name = f"pair={pair} " if pair else ""
    kind = f"role={role} " if role else ""
    return "\n".join([str(len(atoms)), f"{cell}Properties=species:S:1:pos:R:3 {name}{kind}{more}", *atoms]) + "\n"


GOOD = block() + block("minimum")


def test_the_file_from_which_the_bad_ones_are_made_is_good(tmp_path):
    (tmp_path / "a.xyz").write_text("\n" + GOOD + "\n\n")
    assert len(read_pairs(tmp_path / "a.xyz")) == 1


BAD = {
    "empty": (b"", "the file is empty"),
    "only blank lines": (b"\n \n", "the file is empty"),
    "binary": (bytes(range(256)) * 4, "not a text file"),
    "zeros": (b"\0" * 64, "not a text file"),
    "prose": (
        "These are my structures.\n",
        r"frame 0 \(line 1\): expected the number of atoms, found 'These",
    ),
    "cut short": (
        GOOD[:-14],
        r"frame 1 \(line 5\): 2 atoms announced but 1 lines follow: the file is cut short",
    ),
    "cut after the count": ("2\n", r"2 atoms announced but 0 lines follow"),
    "cut inside a row": (GOOD[:-5] + "\n", r"frame 1 .*2 entries and the atom before it 4: .* cut short"),
    "huge count": ("9999999999999\nx\n", "cut short"),
    "no atoms": (block(atoms=()), "without atoms"),
    "NaN position": (
        block() + block("minimum", atoms=("Si 0 0 0", "Si nan 0 0")),
        r"frame 1 .*atom 1 .*not finite",
    ),
    "word for a number": (block(atoms=("Si 0 0 0", "Si a 0 0")), "frame 0 .*not a block"),
    "unknown element": (block(atoms=("Si 0 0 0", "Qq 2 0 0")), "frame 0 .*not a block"),
    "dummy element": (block(atoms=("Si 0 0 0", "X 2 0 0")), "atom 1 is of no known element"),
    "zero volume": (block(lattice="5 0 0 5 0 0 0 0 5"), r"frame 0 .*no volume"),
    "cell of eight numbers": (block(lattice="5 0 0 0 5 0 0 0"), "frame 0 .*not a block"),
    "overlap": (block(atoms=("Si 0 0 0", "Si 0 0 0.29")), r"frame 0 .*atoms 0 and 1 are 0\.290 Å apart"),
    "overlap in the minimum": (
        block() + block("minimum", atoms=("Si 0 0 0", "Si 0 0 0.1")),
        "frame 1 .*0.100 Å",
    ),
    "overlap across the boundary": (
        block(atoms=("Si 0 0 0", "Si 0 0 4.9")),
        r"0\.100 Å apart \(through the cell",
    ),
    "overlap with an image": (
        block(atoms=("Si 0 0 0",), lattice="5 0 0 0 0.2 0 0 0 5"),
        "lattice planes 0.2 Å apart",
    ),
    "other counts": (
        block() + block("minimum", atoms=("Si 0 0 0",)),
        "frame 1 .*start has 2 atoms and the minimum 1",
    ),
    "other order": (
        block(atoms=("Si 0 0 0", "Ge 2 0 0")) + block("minimum", atoms=("Ge 0 0 0", "Si 2 0 0")),
        "frame 1 .*atom 0 has atomic number 14 in the start and 32",
    ),
    "doubled id": (GOOD + GOOD, r"frame 2 .*pair 'x' has a second start; the first is frame 0"),
    "start alone": (GOOD + block(pair="y"), r"frame 2 .*pair 'y' has a start but no minimum"),
    "minimum alone": (GOOD + block("minimum", pair="y"), r"frame 2 .*pair 'y' has a minimum but no start"),
    "other role": (block("end"), "role is 'end': allowed are start and minimum"),
    "no role": (block(""), "no role="),
    "no pair": (block(pair=""), "no pair="),
    "energy NaN": (block(more="energy=nan"), "energy is not finite numbers"),
    "energy a word": (block(more="energy=low"), "energy is not finite numbers"),
    "two energies": (block(more='energy="1 2"'), "energy is not finite numbers"),
    "stress of four": (block(more='stress="1 2 3 4"'), "frame 0 .*not a block .*stress"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_that_names_it(tmp_path, name):
    content, message = BAD[name]
    path = tmp_path / "bad.xyz"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(StructureError, match=message) as caught:
        read_pairs(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_one_line(tmp_path):
    for path, message in ((tmp_path / "none.xyz", "there is no such file"), (tmp_path, "this is a folder")):
        for reader in (read_pairs, read_frames):
            with pytest.raises(StructureError, match=message) as caught:
                reader(path)
            assert str(caught.value).startswith(str(path))


def test_atoms_at_the_limit_do_not_overlap(tmp_path):
    (tmp_path / "a.xyz").write_text("".join(block(r, atoms=("Si 0 0 0", "Si 0 0 0.31")) for r in ("start", "minimum")))
    assert len(read_pairs(tmp_path / "a.xyz")) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("energy=-1.5 ", ""), "frame 0 .*no energy"),
        (lambda text: text.replace("forces:R:3", "other:R:3"), "frame 0 .*no forces"),
        (lambda text: text + text, "frame id '007' occurs at 0 and 2"),
    ],
)
def test_frames_without_labels_or_with_doubled_ids_are_refused(tmp_path, change, message):
    write_frames(tmp_path / "good.xyz", labelled())
    text = (tmp_path / "good.xyz").read_text()
    (tmp_path / "bad.xyz").write_text(change(text))
    assert change(text) != text
    with pytest.raises(StructureError, match=message):
        read_frames(tmp_path / "bad.xyz")


def test_every_cut_of_a_file_at_a_line_is_refused_or_whole(tmp_path):
    write_pairs(tmp_path / "a.xyz", example())
    lines = (tmp_path / "a.xyz").read_text().splitlines(keepends=True)
    whole = 0
    for count in range(len(lines)):
        (tmp_path / "cut.xyz").write_text("".join(lines[:count]))
        try:
            assert len(read_pairs(tmp_path / "cut.xyz")) == 1
            whole += 1
        except StructureError:
            pass
    assert whole == 1  # after the first pair, and nowhere else


def test_the_example_of_the_documentation_is_read(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "data-format.md").read_text(encoding="utf-8")
    (tmp_path / "a.xyz").write_text(text.split("```")[1].removeprefix("\n"))
    pairs = read_pairs(tmp_path / "a.xyz")
    assert (pairs.ids, pairs.parents) == (("vac-1",), ("vacancy",))
    assert pairs.energy_minimum.tolist() == [-8.6]


def test_two_hundred_pairs_keep_their_order(tmp_path):
    ids = [f"{a}{b}" for a, b in itertools.product("zyxwvutsrq", range(20))]
    atoms = [Atoms("Si2", [[0, 0, 0], [2, 0.01 * k, 0]]) for k in range(200)]
    s = Structures.from_atoms(atoms, ids=ids)
    write_pairs(tmp_path / "a.xyz", Pairs(s, s, tuple(ids)))
    again = read_pairs(tmp_path / "a.xyz")
    assert again.ids == tuple(ids)
    assert torch.equal(again.starts.positions, s.positions)
