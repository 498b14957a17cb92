"""What each format gives: energies, forces, stress with its sign, fixed atoms, and relaxations put together."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.constraints import FixScaled
from ase.io import write
from ase.io.vasp import write_vasp
from ase.stress import voigt_6_to_full_3x3_stress
from ase.units import GPa
from tests.structures import formats

from thalweg.errors import SettingsError, StructureError
from thalweg.structures.readers import import_frames, import_pairs
from thalweg.structures.readers.lmdb_pages import read_items

BACKEND = Path(__file__).parents[1] / "data" / "formats" / "backend.aselmdb"


def vasprun_file(folder: Path, frames) -> Path:
    (folder / "run").mkdir()
    path = folder / "run" / "vasprun.xml"
    path.write_text(formats.vasprun(frames))
    return path


def mptrj_file(folder: Path, frames) -> Path:
    path = folder / "mptrj.json"
    path.write_text(json.dumps(formats.mptrj(frames)))
    return path


LABELLED = {
    "traj": lambda folder, frames: formats.write_traj(folder / "a.traj", frames),
    "db": lambda folder, frames: formats.write_database(folder / "a.db", frames, "db"),
    "json": lambda folder, frames: formats.write_database(folder / "a.json", frames, "json"),
    "aselmdb": lambda folder, frames: formats.write_aselmdb(folder / "a.aselmdb", frames),
    "s2ef": lambda folder, frames: formats.write_s2ef(folder / "a.lmdb", frames),
    "s2ef new": lambda folder, frames: formats.write_s2ef(folder / "a.lmdb", frames, layout="new", protocol=2),
    "vasprun": vasprun_file,
    "mptrj": mptrj_file,
}


@pytest.mark.parametrize("kind", LABELLED)
def test_every_label_arrives_with_its_sign_and_every_fixed_atom_stays_fixed(kind, tmp_path):
    written = formats.relaxation()
    frames = import_frames(LABELLED[kind](tmp_path, written)).frames
    single = kind.startswith("s2ef")
    assert frames.energy.tolist() == [-10.0, -11.0, -12.0]
    assert frames.structures.free.tolist() == [[False] * 3, [True] * 3] * 3
    for k, atoms in enumerate(written):
        part = frames.select([k])
        tolerance = 1e-6 if single else 1e-12
        np.testing.assert_allclose(part.structures.positions, atoms.positions, rtol=0, atol=tolerance)
        np.testing.assert_allclose(part.forces, atoms.calc.results["forces"], rtol=0, atol=tolerance)
        if single:
            assert part.stress is None
        else:
            expected = voigt_6_to_full_3x3_stress(atoms.calc.results["stress"])
            np.testing.assert_allclose(part.stress[0], expected, rtol=1e-12)
    assert len(set(frames.parents)) == 1


@pytest.mark.parametrize("kind", LABELLED)
def test_a_relaxation_becomes_a_pair_from_its_first_frame_to_its_last(kind, tmp_path):
    written = formats.relaxation()
    found = import_pairs(LABELLED[kind](tmp_path, written))
    assert (found.skipped, found.notes) == ((), ())
    pairs = found.pairs
    assert len(pairs) == 1
    assert (pairs.energy_start.tolist(), pairs.energy_minimum.tolist()) == ([-10.0], [-12.0])
    np.testing.assert_allclose(pairs.starts.positions, written[0].positions, atol=1e-6)
    np.testing.assert_allclose(pairs.minima.positions, written[-1].positions, atol=1e-6)
    np.testing.assert_allclose(pairs.forces_start, written[0].calc.results["forces"], atol=1e-6)


def test_a_stress_of_vasp_is_pressure_in_kilobar_and_comes_out_as_tension(tmp_path):
    atoms = formats.relaxation(2)
    path = vasprun_file(tmp_path, atoms)
    text = path.read_text()
    start = text.index('<varray name="stress">')
    stop = text.index("</varray>", start)
    printed = "<v>10 4 5</v><v>4 20 6</v><v>5 6 30</v>"  # kB; under compression
    path.write_text(text[:start] + '<varray name="stress">' + printed + text[stop:])
    stress = import_frames(path).frames.stress[0]
    kilobar = 0.1 / 160.21766208  # eV/Å³
    expected = -kilobar * torch.tensor([[10, 4, 5], [4, 20, 6], [5, 6, 30]], dtype=torch.float64)
    torch.testing.assert_close(stress, expected, rtol=1e-6, atol=0)


def test_an_outcar_gives_the_free_energy_the_stress_and_the_fixed_atoms_beside_it(tmp_path):
    atoms = bulk("Si", cubic=True)[:2]
    atoms.set_constraint([FixScaled([1], (True, False, True))])
    write_vasp(tmp_path / "POSCAR", atoms)
    (tmp_path / "OUTCAR").write_text(formats.OUTCAR)
    frames = import_frames(tmp_path / "OUTCAR").frames
    assert frames.energy.tolist() == [-10.84274516]  # not the one extrapolated to zero smearing
    assert frames.structures.free.tolist() == [[True] * 3, [False, True, False]]
    kilobar = 0.1 * GPa
    expected = -kilobar * torch.tensor([[10, 4, 5], [4, 20, 6], [5, 6, 30]], dtype=torch.float64)
    torch.testing.assert_close(frames.stress[0], expected, rtol=1e-9, atol=0)


def test_directions_fixed_in_a_skewed_cell_are_refused_and_whole_atoms_are_not(tmp_path):
    atoms = bulk("Si")
    atoms.set_constraint([FixScaled([1], (True, False, False))])
    write_vasp(tmp_path / "POSCAR", atoms)
    write_vasp(tmp_path / "CONTCAR", atoms)
    with pytest.raises(StructureError, match="FixScaled is not supported"):
        import_pairs(tmp_path)
    atoms.set_constraint([FixScaled([1], (True, True, True))])
    write_vasp(tmp_path / "POSCAR", atoms)
    assert import_pairs(tmp_path).pairs.starts.free.tolist() == [[True] * 3, [False] * 3]


def test_a_file_of_the_backend_itself_is_read_like_what_it_was_made_from():
    frames = import_frames(BACKEND)
    made = formats.relaxation() + formats.relaxation(4, name="relax-b")
    assert frames.frames.ids == tuple(f"relax-a/{k}" for k in range(3)) + tuple(f"relax-b/{k}" for k in range(4))
    np.testing.assert_array_equal(frames.frames.forces, np.concatenate([a.calc.results["forces"] for a in made]))
    assert frames.frames.energy.tolist() == [a.calc.results["energy"] for a in made]
    assert [reason for _, reason in frames.skipped] == ["no energy and no forces"]
    pairs = import_pairs(BACKEND)
    assert pairs.pairs.ids == ("relax-a", "relax-b")
    assert pairs.skipped == (("large", "one structure only: a relaxation needs a start and an end"),)
    assert {key for key, _ in read_items(BACKEND)} == {
        b"nextid",
        b"deleted_ids",
        *(str(k).encode() for k in range(1, 9)),
    }


def test_a_tree_of_many_pages_is_read_whole(tmp_path):
    items = {f"{k:04d}".encode(): bytes([k % 256]) * (k * 13 % 9000) for k in range(400)}
    assert dict(read_items(formats.write_lmdb(tmp_path / "a", items))) == items
    assert dict(read_items(formats.write_lmdb(tmp_path / "b", {}))) == {}


def test_frames_that_lie_mixed_are_put_together_by_system_and_frame_number(tmp_path):
    frames = formats.relaxation(4)
    order = [(11, 2), (5, 0), (11, 0), (5, 3), (5, 1), (11, 3), (11, 1), (5, 2)]
    items = {
        str(k).encode(): formats.ocp_record(formats.ocp_values(frames[fid], fid * 10, sid))
        for k, (sid, fid) in enumerate(order)
    }
    pairs = import_pairs(formats.write_lmdb(tmp_path / "a.lmdb", items)).pairs
    assert pairs.ids == ("11", "5")
    assert (pairs.energy_start.tolist(), pairs.energy_minimum.tolist()) == ([-10.0] * 2, [-13.0] * 2)


def test_a_record_with_a_relaxed_structure_is_a_pair(tmp_path):
    values = formats.ocp_values(formats.relaxation(2)[0], 0)
    end = values["pos"].clone()
    end[1, 0] -= 0.05
    values |= {"pos_relaxed": end, "y_init": -1.5, "y_relaxed": torch.tensor(-2.5)}
    pairs = import_pairs(formats.write_lmdb(tmp_path / "a.lmdb", {b"0": formats.ocp_record(values)})).pairs
    assert (pairs.energy_start.tolist(), pairs.energy_minimum.tolist()) == ([-1.5], [-2.5])
    np.testing.assert_allclose(pairs.minima.positions, end, atol=1e-6)


def test_a_folder_of_files_is_read_as_one_set(tmp_path):
    for k in range(3):
        formats.write_traj(tmp_path / f"system{k}.traj", formats.relaxation(2 + k))
    (tmp_path / "notes.txt").write_text("of no concern")
    assert import_pairs(tmp_path).pairs.ids == ("system0", "system1", "system2")
    assert len(import_frames(tmp_path).frames) == 9


def test_what_is_no_pair_is_skipped_with_its_reason(tmp_path):
    unrelaxed, stretched, other = formats.relaxation(2), formats.relaxation(2), formats.relaxation(2)
    unrelaxed[-1].calc.results["forces"][1] = [0, 0, 0.3]
    stretched[-1].cell[0, 0] += 0.1
    other[-1].numbers = [14, 32]
    for name, frames in (("good", formats.relaxation(2)), ("alone", formats.relaxation(1))):
        formats.write_traj(tmp_path / f"{name}.traj", frames)
    for name, frames in (("unrelaxed", unrelaxed), ("stretched", stretched)):
        formats.write_traj(tmp_path / f"{name}.traj", frames)
    (tmp_path / "other.traj").write_bytes(formats.write_traj(tmp_path.parent / "x.traj", [other[0]]).read_bytes())
    found = import_pairs(tmp_path)
    assert found.pairs.ids == ("good",)
    reasons = dict(found.skipped)
    assert set(reasons) == {"alone", "other", "unrelaxed", "stretched"}
    assert "not relaxed: a force of 0.300 eV/Å is left at the end, allowed is 0.1" in reasons["unrelaxed"]
    assert "the cell changed by 0.1000 Å" in reasons["stretched"]
    assert "unrelaxed" in import_pairs(tmp_path, fmax=0.5).pairs.ids
    with pytest.raises(SettingsError, match="fmax is 0"):
        import_pairs(tmp_path, fmax=0)


def test_forces_on_fixed_atoms_do_not_make_a_relaxation_unfinished(tmp_path):
    """The made-up relaxation leaves 0.5 eV/Å on its fixed atom; without the constraint it is no minimum."""
    assert len(import_pairs(formats.write_traj(tmp_path / "a.traj", formats.relaxation())).pairs) == 1
    with pytest.raises(StructureError, match=r"not relaxed: a force of 0\.500"):
        import_pairs(formats.write_traj(tmp_path / "b.traj", formats.relaxation(fixed=False)))


def test_an_end_that_was_wrapped_into_the_box_lies_next_to_its_start(tmp_path):
    frames = formats.relaxation()
    frames[-1].positions[1] += frames[-1].cell[0] - 2 * frames[-1].cell[2]
    pairs = import_pairs(formats.write_traj(tmp_path / "a.traj", frames)).pairs
    assert float((pairs.minima.positions - pairs.starts.positions).abs().max()) < 0.2


def test_broken_frames_refuse_the_file_or_are_counted(tmp_path):
    frames = formats.relaxation(4)
    frames[1].positions[1, 0] = math.nan
    path = formats.write_aselmdb(tmp_path / "a.aselmdb", frames)
    with pytest.raises(StructureError, match=r"a\.aselmdb, row 2: .*position of atom 1 .*not finite"):
        import_frames(path)
    found = import_frames(path, skip_broken=True)
    assert len(found.frames) == 3
    ((place, reason),) = found.skipped
    assert place.endswith("row 2")
    assert "not finite" in reason


def test_a_run_that_was_cut_off_is_refused_or_its_steps_are_taken(tmp_path):
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "vasprun.xml"
    path.write_text(formats.vasprun(formats.relaxation(), ended=False))
    with pytest.raises(StructureError, match="after step 2: ends before the closing lines of VASP"):
        import_frames(path)
    assert len(import_frames(path, skip_broken=True).frames) == 3


def test_the_layout_of_doped_and_gzip_are_read_with_energies_and_forces(tmp_path):
    frames = formats.relaxation()
    stage = tmp_path / "v_Cd_0" / "vasp_std"
    stage.mkdir(parents=True)
    for name, atoms in (("POSCAR", frames[0]), ("CONTCAR", frames[-1])):
        write_vasp(stage / name, atoms)
        (stage / f"{name}.gz").write_bytes(gzip.compress((stage / name).read_bytes()))
        (stage / name).unlink()
    (stage / "vasprun.xml.gz").write_bytes(gzip.compress(formats.vasprun(frames).encode()))
    found = import_pairs(tmp_path)
    assert (found.notes, found.skipped) == ((), ())
    pairs = found.pairs
    assert (pairs.ids, pairs.parents) == (("v_Cd_0/vasp_std",), ("v_Cd_0",))
    assert (pairs.energy_start.tolist(), pairs.energy_minimum.tolist()) == ([-10.0], [-12.0])
    np.testing.assert_allclose(pairs.forces_start, frames[0].calc.results["forces"])
    assert import_frames(tmp_path).frames.ids == tuple(f"v_Cd_0/vasp_std/{k}" for k in range(3))


def test_an_output_of_other_atoms_than_the_start_is_no_output_of_this_trial(tmp_path):
    frames = formats.relaxation()
    (tmp_path / "run").mkdir()
    write_vasp(tmp_path / "run" / "POSCAR", frames[0] * (2, 1, 1))
    write_vasp(tmp_path / "run" / "CONTCAR", frames[0] * (2, 1, 1))
    (tmp_path / "run" / "vasprun.xml").write_text(formats.vasprun(frames))
    with pytest.raises(StructureError, match="pair 'run, its output': the start has 4 atoms and the minimum 2"):
        import_pairs(tmp_path / "run")


def test_a_distortion_with_a_stage_below_it_is_one_trial_of_its_defect(tmp_path):
    frames = formats.relaxation()
    for trial in ("Bond_Distortion_-30.0%", "Unperturbed"):
        stage = tmp_path / "v_Cd_0" / trial / "vasp_gam"
        stage.mkdir(parents=True)
        write_vasp(stage / "POSCAR", frames[0])
        write_vasp(stage / "CONTCAR", frames[-1])
    pairs = import_pairs(tmp_path).pairs
    assert pairs.ids == ("v_Cd_0/Bond_Distortion_-30.0%", "v_Cd_0/Unperturbed")
    assert set(pairs.parents) == {"v_Cd_0"}


def test_ionic_steps_of_pymatgen_are_one_relaxation(tmp_path):
    steps = list(formats.mptrj(formats.relaxation())["mp-1"].values())
    document = {"run": {"ionic_steps": [{**s, "e_fr_energy": s.pop("uncorrected_total_energy")} for s in steps]}}
    (tmp_path / "a.json").write_text(json.dumps(document))
    assert import_frames(tmp_path / "a.json").frames.energy.tolist() == [-10.0, -11.0, -12.0]
    assert import_pairs(tmp_path / "a.json").pairs.ids == ("run",)


def test_a_cif_of_two_blocks_is_a_pair_and_has_no_labels(tmp_path):
    write(tmp_path / "a.cif", formats.relaxation(2))
    pairs = import_pairs(tmp_path / "a.cif").pairs
    assert pairs.energy_start is None
    with pytest.raises(StructureError, match=r"none of 2 structures has energy and forces .*block 0: no energy and no"):
        import_frames(tmp_path / "a.cif")


def test_reading_a_database_writes_nothing_beside_it(tmp_path):
    formats.write_database(tmp_path / "a.db", formats.relaxation(), "db")
    formats.write_aselmdb(tmp_path / "a.aselmdb", formats.relaxation())
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    tmp_path.chmod(0o500)
    try:
        import_pairs(tmp_path / "a.db")
        import_pairs(tmp_path / "a.aselmdb")
    finally:
        tmp_path.chmod(0o700)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_frames_labelled_by_a_quantum_method_are_read_and_their_forces_cancel():
    frames = import_frames(BACKEND.parents[1] / "silicon_vacancy_xtb" / "frames.extxyz").frames
    assert frames.ids == tuple(f"vacancy-{k}" for k in range(6))
    assert frames.stress is not None
    assert float(frames.structures.total(frames.forces).abs().max()) < 1e-4  # eV/Å
    assert frames.energy.isfinite().all()
