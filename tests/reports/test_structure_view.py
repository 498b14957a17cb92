import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from thalweg.errors import ThalwegError
from thalweg.reports import structure_view


def frames_of(tmp_path, *atoms) -> list[structure_view.Frame]:
    write(tmp_path / "frames.extxyz", list(atoms), format="extxyz")
    return structure_view.read_example(tmp_path / "frames.extxyz")


def labelled(atoms: Atoms, label: str) -> Atoms:
    copy = atoms.copy()
    copy.info = {"label": label}
    return copy


def test_the_synthetic_example_is_read_with_labels_forces_and_marks(run_folder):
    frames = structure_view.read_example(run_folder / "example.extxyz")
    assert [frame.label for frame in frames] == ["start", "X_20", "minimum", "reference"]
    assert [frame.fmax is not None for frame in frames] == [True] * 4
    assert 64 in frames[2].elsewhere
    assert len(frames[3].elsewhere) == 0
    assert len(frames[3].empty) == 0


def test_a_moved_atom_and_its_empty_site_are_marked_whatever_the_drift_and_image(tmp_path):
    reference = labelled(bulk("Si", cubic=True), "reference")
    minimum = labelled(reference, "minimum")
    minimum.positions += (0.7, -0.4, 0.2)  # drift
    minimum.positions[3] += (0.9, 0.0, 0.0)
    minimum.positions[5] += minimum.cell.array[1]  # the same site, another image
    frame = frames_of(tmp_path, minimum, reference)[0]
    assert frame.elsewhere.tolist() == [3]
    assert frame.empty == pytest.approx(np.array([minimum.positions[3] - (0.9, 0.0, 0.0)]), abs=1e-6)


def test_exchanged_atoms_of_one_element_are_in_place_and_of_two_are_not(tmp_path):
    alike = labelled(bulk("Si", cubic=True), "reference")
    swapped = labelled(alike, "minimum")
    swapped.positions[[1, 6]] = swapped.positions[[6, 1]]
    assert len(frames_of(tmp_path, swapped, alike)[0].elsewhere) == 0
    mixed = labelled(bulk("CdTe", "zincblende", a=6.48, cubic=True), "reference")
    wrong = labelled(mixed, "minimum")
    wrong.positions[[0, 1]] = wrong.positions[[1, 0]]  # Cd on the place of Te
    assert frames_of(tmp_path, wrong, mixed)[0].elsewhere.tolist() == [0, 1]


@pytest.mark.parametrize(("shift", "marked"), [(0.19, 0), (0.21, 1)])
def test_the_distance_that_marks_an_atom(tmp_path, shift, marked):
    reference = labelled(bulk("Si", cubic=True), "reference")
    moved = labelled(reference, "minimum")
    moved.positions[2] += (shift, 0, 0)
    assert len(frames_of(tmp_path, moved, reference)[0].elsewhere) == marked


def test_without_a_reference_nothing_is_marked_and_without_forces_none_are_drawn(tmp_path):
    frames = frames_of(tmp_path, labelled(bulk("Si", cubic=True), "start"))
    assert (frames[0].fmax, len(frames[0].elsewhere)) == (None, 0)
    html = structure_view.viewer(frames, "x")
    assert "no reference frame, so nothing is compared" in html
    assert "forces: not measured" in html
    assert html.count("<td>–</td>") == 2
    shown = structure_view.dataset(frames)["settings"]["structure"][0]["shape"]
    assert "forces" not in shown


def test_arrows_are_to_one_scale_in_all_frames(run_folder):
    frames = structure_view.read_example(run_folder / "example.extxyz")
    scale = structure_view.arrow_scale(frames)
    data = structure_view.dataset(frames)
    arrows = np.array([arrow["vector"] for arrow in data["shapes"]["forces"]["parameters"]["atom"]])
    lengths = np.linalg.norm(arrows, axis=1)
    forces = np.concatenate([np.linalg.norm(frame.forces, axis=1) for frame in frames])
    assert lengths == pytest.approx(scale * forces, abs=2e-4)
    assert lengths.max() == pytest.approx(structure_view.LONGEST_ARROW, abs=2e-4)


def test_the_data_set_is_turned_without_changing_a_distance(run_folder):
    frames = structure_view.read_example(run_folder / "example.extxyz")
    data = structure_view.dataset(frames)
    assert [s["size"] for s in data["structures"]] == [65] * 4
    shown = np.array([data["structures"][0][axis] for axis in "xyz"]).T
    assert shown[0] != pytest.approx(frames[0].atoms.positions[0], abs=0.1)
    distances = np.linalg.norm(shown - shown[7], axis=1)
    original = np.linalg.norm(frames[0].atoms.positions - frames[0].atoms.positions[7], axis=1)
    assert distances == pytest.approx(original, abs=1e-3)
    json.dumps(data, allow_nan=False)


def test_frames_of_other_atoms_and_broken_files_are_refused(tmp_path):
    two = labelled(bulk("Si"), "start"), labelled(bulk("Ge"), "reference")
    with pytest.raises(ThalwegError, match="frame 'reference' has other atoms than 'start'"):
        frames_of(tmp_path, *two)
    (tmp_path / "torn.extxyz").write_text("2\nProperties=species:S:1:pos:R:3\nSi 0 0 0\n")
    with pytest.raises(ThalwegError, match=r"torn.extxyz: not an extended XYZ file"):
        structure_view.read_example(tmp_path / "torn.extxyz")
    (tmp_path / "empty.extxyz").write_text("")
    with pytest.raises(ThalwegError, match=r"empty.extxyz: "):
        structure_view.read_example(tmp_path / "empty.extxyz")


def test_programs_cannot_end_their_script_element():
    source = 'a="</script>";b="<!-- x";c="</SCRIPT";d=1<2'
    safe = structure_view.inline_script(source)
    assert safe == 'a="\\x3c/script>";b="\\x3c!-- x";c="\\x3c/SCRIPT";d=1<2'


def test_embedded_json_cannot_end_its_script_element_and_reads_back():
    value = {"id": "</script><script>alert(1)</script><!-- & \u2028 Å"}
    text = structure_view.embedded_json(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        structure_view.embedded_json({"x": float("nan")})


def test_the_bundle_defines_the_viewer_and_is_safe_inside_a_page():
    program = structure_view.bundle()
    assert "StructureVisualizer" in program
    assert "</script" not in program.lower()
    assert "<!--" not in program
