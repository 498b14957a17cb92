import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from ase.io import write
from tests.structures import formats

from thalweg.errors import StructureError
from thalweg.structures.displacement import delta_q
from thalweg.structures.extended_xyz import write_pairs
from thalweg.structures.readers import READERS, ImportRules, import_pairs

DATA = Path(__file__).parent.parent / "data" / "cdte_vacancy"


@pytest.fixture
def defect(tmp_path) -> Path:
    """Three trials of the defect and the energies of all."""
    folder = tmp_path / "vac_1_Cd_0"
    for name in ("Bond_Distortion_-60.0%", "Bond_Distortion_0.0%", "Unperturbed"):
        shutil.copytree(DATA / name, folder / name)
    shutil.copy(DATA / "vac_1_Cd_0.yaml", folder)
    return folder


def sample(reader, folder: Path) -> Path:
    """Something that the reader recognises: a new reader adds a line."""
    frames = formats.relaxation()
    match type(reader).__name__:
        case "VaspFolders":
            return DATA
        case "ExtendedXyz":
            path = folder / "pairs.xyz"
            write_pairs(path, import_pairs(DATA).pairs.select([0, 1]))
        case "AseTrajectory":
            path = formats.write_traj(folder / "a.traj", frames)
        case "AseSqlite":
            path = formats.write_database(folder / "a.db", frames, "db")
        case "AseJson":
            path = formats.write_database(folder / "a.json", frames, "json")
        case "AseLmdb":
            path = formats.write_aselmdb(folder / "a.aselmdb", frames)
        case "OcpLmdb":
            path = formats.write_s2ef(folder / "a.lmdb", frames)
        case "VaspOutput":
            path = folder / "vasprun.xml"
            path.write_text(formats.vasprun(frames))
        case "PymatgenJson":
            path = folder / "mptrj.json"
            path.write_text(json.dumps(formats.mptrj(frames)))
        case "Cif":
            path = folder / "a.cif"
            write(path, frames)
        case name:
            raise NotImplementedError(f"no sample for {name}")
    return path


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: type(reader).__name__)
def test_every_reader_recognises_and_reads_its_own_by_content_and_no_other_does(reader, tmp_path):
    path = sample(reader, tmp_path)
    if path != DATA:
        path = path.rename(path.with_name("data"))  # no name to go by
    assert [other for other in READERS if other.recognises(path)] == [reader]
    assert len(import_pairs(path).pairs) == len(reader.pairs(path, ImportRules()).pairs) > 0


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: type(reader).__name__)
def test_no_reader_recognises_or_stumbles_over_what_is_not_its_own(reader, tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "text").write_text("2\nplain xyz\nSi 0 0 0\nSi 2 0 0\n")
    (tmp_path / "folder").mkdir()
    for path in (*tmp_path.iterdir(), tmp_path / "missing"):
        assert not reader.recognises(path)


def test_what_no_reader_recognises_is_one_line(tmp_path):
    (tmp_path / "a.txt").write_text("hello\n")
    with pytest.raises(StructureError, match="no reader recognises this; known: extended XYZ file, ASE traj"):
        import_pairs(tmp_path / "a.txt")
    with pytest.raises(StructureError, match="there is no such file or folder"):
        import_pairs(tmp_path / "none")


def test_the_cadmium_vacancy_reads_whole():
    imported = import_pairs(DATA)
    pairs = imported.pairs
    assert len(pairs) == 26
    assert imported.notes == imported.skipped == ()
    assert set(pairs.parents) == {"vac_1_Cd_0"}
    assert set(pairs.starts.counts.tolist()) == {63}
    energies = dict(zip(pairs.ids, pairs.energy_minimum.tolist(), strict=True))
    assert energies["vac_1_Cd_0/Bond_Distortion_-60.0%"] == -206.47819802
    assert energies["vac_1_Cd_0/Bond_Distortion_-2.5%"] == -205.72657503
    assert energies["vac_1_Cd_0/Bond_Distortion_0.0%"] == -205.72650569
    assert energies["vac_1_Cd_0/Unperturbed"] == -205.72311458
    assert pairs.energy_start is None
    assert pairs.forces_start is None


def test_minima_lie_next_to_their_starts_although_atoms_left_the_box():
    pairs = import_pairs(DATA).pairs
    moved = (pairs.minima.positions - pairs.starts.positions).norm(dim=1)
    assert moved.max() < 2.5
    raw = [line.split()[:3] for line in (DATA / "Bond_Distortion_0.0%" / "CONTCAR").read_text().splitlines()[8:71]]
    fractions = torch.tensor([[float(x) for x in row] for row in raw], dtype=torch.float64)
    trial = pairs.with_ids(["vac_1_Cd_0/Bond_Distortion_0.0%"])
    as_written = trial.minima.with_positions(fractions @ trial.starts.cell[0])
    assert ((as_written.positions - trial.starts.positions).norm(dim=1) > 12).sum() == 7
    assert delta_q(as_written, trial.minima, assign=False).item() < 1e-8


def test_pairs_of_vasp_folders_survive_extended_xyz(tmp_path):
    pairs = import_pairs(DATA).pairs
    write_pairs(tmp_path / "a.xyz", pairs)
    again = import_pairs(tmp_path / "a.xyz").pairs
    assert again.ids == pairs.ids
    assert torch.equal(again.minima.positions, pairs.minima.positions)
    assert torch.equal(again.energy_minimum, pairs.energy_minimum)


def test_a_folder_of_defects_gives_one_parent_each(defect):
    other = defect.parent / "vac_2_Te_0"
    shutil.copytree(defect, other)
    (other / "vac_1_Cd_0.yaml").rename(other / "vac_2_Te_0.yaml")
    pairs = import_pairs(defect.parent).pairs
    assert len(pairs) == 6
    assert set(pairs.parents) == {"vac_1_Cd_0", "vac_2_Te_0"}
    kept, held = pairs.split_by_parent(3, seed=0)
    assert len(kept) == len(held) == 3


def test_positions_a_lattice_vector_apart_give_the_same_pair(defect):
    before = import_pairs(defect).pairs
    contcar = defect / "Unperturbed" / "CONTCAR"
    lines = contcar.read_text().splitlines()
    x, y, z = (float(v) for v in lines[20].split())
    lines[20] = f"{x + 1:.16f} {y - 2:.16f} {z:.16f}"
    contcar.write_text("\n".join(lines) + "\n")
    after = import_pairs(defect).pairs
    assert torch.allclose(after.minima.positions, before.minima.positions, rtol=0, atol=1e-9)


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_text("")


def cut(path: Path) -> None:
    path.write_text("\n".join(path.read_text().splitlines()[:40]) + "\n")


def stretch(path: Path) -> None:
    path.write_text(path.read_text().replace("13.0867679999999993", "13.2"))


def swap(path: Path) -> None:
    path.write_text(path.read_text().replace("   Cd   Te", "   Te   Cd").replace("   31    32", "   31    32"))


def overlap(path: Path) -> None:
    lines = path.read_text().splitlines()
    lines[9] = lines[8]
    path.write_text("\n".join(lines) + "\n")


def scramble(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (remove, "no CONTCAR: the relaxation was not run or not finished"),
        (empty, "CONTCAR is empty"),
        (cut, "CONTCAR is not readable"),
        (scramble, "CONTCAR is not readable"),
        (stretch, "the cell changed by 0.1132 Å"),
        (swap, "atom 0 has atomic number 48 in the start and 52 in the minimum"),
        (overlap, "CONTCAR: .*atoms 0 and 1 are 0.000 Å apart"),
    ],
)
def test_a_trial_that_is_no_pair_is_skipped_with_a_reason_and_the_rest_is_read(defect, harm, reason):
    harm(defect / "Unperturbed" / "CONTCAR")
    imported = import_pairs(defect)
    assert len(imported.pairs) == 2
    ((path, why),) = imported.skipped
    assert path.endswith("Unperturbed")
    assert re.search(reason, why), why
    assert "\n" not in why


def test_a_folder_without_any_usable_trial_is_one_line(defect):
    for contcar in defect.glob("*/CONTCAR"):
        contcar.unlink()
    with pytest.raises(StructureError, match=r"none of 3 trial folders is a usable pair .*no CONTCAR"):
        import_pairs(defect)


def test_without_energies_pairs_are_read_and_a_note_says_so(defect):
    (defect / "vac_1_Cd_0.yaml").unlink()
    imported = import_pairs(defect)
    assert imported.pairs.energy_minimum is None
    assert set(imported.pairs.parents) == {"vac_1_Cd_0"}
    assert imported.notes == ("vac_1_Cd_0: no file with a 'distortions' map of energies: energies are left unknown",)


def test_one_energy_missing_is_unknown_and_noted(defect):
    path = defect / "vac_1_Cd_0.yaml"
    path.write_text(path.read_text().replace("  -0.6: -206.47819802\n", "").replace("-205.72650569", "diverged"))
    imported = import_pairs(defect)
    energies = dict(zip(imported.pairs.ids, imported.pairs.energy_minimum.tolist(), strict=True))
    assert math.isnan(energies["vac_1_Cd_0/Bond_Distortion_-60.0%"])
    assert math.isnan(energies["vac_1_Cd_0/Bond_Distortion_0.0%"])
    assert energies["vac_1_Cd_0/Unperturbed"] == -205.72311458
    assert len(imported.notes) == 2
    assert "has no energy for it" in imported.notes[0]
    assert "is 'diverged', not a number" in imported.notes[1]


@pytest.mark.parametrize("name", ["Bond_Distortion_minus sixty%", "Bond_Distortion_-60.0", "my trial"])
def test_a_folder_with_an_odd_name_is_a_pair_of_unknown_energy(defect, name):
    (defect / "Bond_Distortion_-60.0%").rename(defect / name)
    imported = import_pairs(defect)
    assert len(imported.pairs) == 3
    assert sum(math.isnan(e) for e in imported.pairs.energy_minimum.tolist()) == 1
    assert imported.notes == (f"vac_1_Cd_0: {name}: vac_1_Cd_0.yaml has no energy for it: left unknown",)


def test_named_trials_find_their_energies_inside_the_map_too(defect):
    (defect / "Bond_Distortion_-60.0%").rename(defect / "Rattled")
    (defect / "Bond_Distortion_0.0%").rename(defect / "Bond_Distortion_-7.5%_from_-1")
    text = "distortions:\n  Rattled: -1.0\n  -7.5%_from_-1: -2.0\nUnperturbed: -3\n"
    (defect / "vac_1_Cd_0.yaml").write_text(text)
    assert import_pairs(defect).notes == ()
    assert import_pairs(defect).pairs.energy_minimum.tolist() == [-2.0, -1.0, -3.0]


def test_a_broken_energy_file_is_one_line(defect):
    (defect / "vac_1_Cd_0.yaml").write_text("distortions: [1, 2\n")
    with pytest.raises(StructureError, match=r"vac_1_Cd_0\.yaml: not readable as YAML") as caught:
        import_pairs(defect)
    assert "\n" not in str(caught.value)


def test_an_atom_half_a_cell_away_is_noted(defect):
    contcar = defect / "Unperturbed" / "CONTCAR"
    lines = contcar.read_text().splitlines()
    lines[70] = "0.37 0.85 0.75"
    contcar.write_text("\n".join(lines) + "\n")
    (note,) = import_pairs(defect).notes
    assert "atom 62 moved" in note
    assert "uncertain" in note
