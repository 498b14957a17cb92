"""The relaxation to look at: its frames in a chemiscope viewer that lies whole inside the page.

    start → X_K (where guidance ends) → minimum (where the arm ends)   beside   reference (where it should end)

Arrows are forces. A site is a place where the reference has an atom; an atom with no site of its element
within `FAR` is marked, and so is a site without an atom. Sites follow the structure's drift (the median shift
of its atoms, minimum image), because a whole crystal may slide while it relaxes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from thalweg.errors import RunFolderError
from thalweg.reports import formats

if TYPE_CHECKING:
    from ase import Atoms

FAR = 0.2
"""Distance from the nearest site beyond which an atom counts as elsewhere, Å."""
LONGEST_ARROW = 2.2
"""Length of the arrow of the largest force of all frames, Å."""

_REFERENCE = "reference"
_FORCE, _ELSEWHERE, _EMPTY = "#d55e00", "#cc79a7", "#1b1b1b"
# a cell seen exactly along an axis hides its atoms behind each other: turned a little about y, then x
_TURN_Y, _TURN_X = np.radians(-24.0), np.radians(16.0)


@dataclass(frozen=True)
class Frame:
    """One frame of the example with what is drawn on it."""

    label: str
    atoms: Atoms
    forces: Float[np.ndarray, "atoms 3"] | None
    """Forces, eV/Å; None where the file has none, or none that are finite."""
    elsewhere: Int[np.ndarray, " marked"]
    """Indices of atoms with no reference site within `FAR`."""
    empty: Float[np.ndarray, "sites 3"]
    """Reference sites without an atom within `FAR`, Å."""

    @property
    def fmax(self) -> float | None:
        """Largest norm of a force, eV/Å."""
        return None if self.forces is None else float(np.linalg.norm(self.forces, axis=1).max())


def read_example(path: Path) -> list[Frame]:
    """Read the frames of the example.

    Args:
        path: an extended XYZ file; each frame has a `label` and, where known, forces (eV/Å). The frame
            labelled reference is what the others are compared with; without it nothing is marked.

    Raises:
        RunFolderError: the file cannot be read, has no frame, or its frames differ in their atoms.
    """
    from ase.io import read

    try:
        frames: list[Atoms] = read(path, index=":", format="extxyz")  # type: ignore[assignment]
    except Exception as error:  # the reader raises whatever the fault brings up
        raise RunFolderError(f"{path}: not an extended XYZ file ({error}); make the run again") from error
    if not frames:
        raise RunFolderError(f"{path}: holds no frame; make the run again")
    labels = [str(atoms.info.get("label", f"frame {k + 1}")) for k, atoms in enumerate(frames)]
    for label, atoms in zip(labels, frames, strict=True):
        if len(atoms) == 0 or list(atoms.numbers) != list(frames[0].numbers):
            raise RunFolderError(f"{path}: frame {label!r} has other atoms than {labels[0]!r}; make the run again")
    reference = frames[labels.index(_REFERENCE)] if _REFERENCE in labels else None
    return [_frame(label, atoms, reference) for label, atoms in zip(labels, frames, strict=True)]


def _frame(label: str, atoms: Atoms, reference: Atoms | None) -> Frame:
    forces = _forces(atoms)
    if reference is None:
        return Frame(label, atoms, forces, np.empty(0, dtype=int), np.empty((0, 3)))
    sites = _sites(atoms, reference)
    far, unoccupied = _far_apart(atoms, sites)
    return Frame(label, atoms, forces, np.flatnonzero(far), sites[unoccupied])


def _forces(atoms: Atoms) -> Float[np.ndarray, "atoms 3"] | None:
    if "forces" in atoms.arrays:
        found = np.asarray(atoms.arrays["forces"], dtype=float)
    elif atoms.calc is not None and "forces" in atoms.calc.results:  # ASE moves the column there
        found = np.asarray(atoms.calc.results["forces"], dtype=float)
    else:
        return None
    return found if np.isfinite(found).all() else None


def _sites(atoms: Atoms, reference: Atoms) -> Float[np.ndarray, "atoms 3"]:
    """Return where the reference's atoms would be in a structure that has drifted, near the atom of that index."""
    from ase.geometry import find_mic

    shift, _ = find_mic(reference.positions - atoms.positions, atoms.cell, atoms.pbc)
    return np.asarray(atoms.positions + shift - np.median(shift, axis=0))


def _far_apart(
    atoms: Atoms, sites: Float[np.ndarray, "atoms 3"]
) -> tuple[Bool[np.ndarray, " atoms"], Bool[np.ndarray, " atoms"]]:
    """Return which atoms have no site of their element within FAR, and which sites have no atom."""
    from ase.geometry import find_mic

    far = np.ones(len(atoms), dtype=bool)
    unoccupied = np.ones(len(atoms), dtype=bool)
    for k, position in enumerate(atoms.positions):
        same = np.flatnonzero(atoms.numbers == atoms.numbers[k])
        _, distances = find_mic(sites[same] - position, atoms.cell, atoms.pbc)
        near = same[distances <= FAR]
        far[k] = len(near) == 0
        unoccupied[near] = False
    return far, unoccupied


def _turned(vectors: Float[np.ndarray, "n 3"]) -> list[list[float]]:
    c, s = np.cos(_TURN_Y), np.sin(_TURN_Y)
    about_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    c, s = np.cos(_TURN_X), np.sin(_TURN_X)
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    turned = np.asarray(vectors) @ (about_x @ about_y).T
    return turned.round(4).tolist()


def arrow_scale(frames: list[Frame]) -> float | None:
    """Return the length drawn for a force, Å per eV/Å, the same in all frames; None if there is no force."""
    largest = max((frame.fmax for frame in frames if frame.fmax is not None), default=0.0)
    return LONGEST_ARROW / largest if largest > 0 else None


def dataset(frames: list[Frame]) -> dict[str, Any]:
    """Return what chemiscope shows: the frames, turned for a better view, with their arrows and marks."""
    import chemiscope

    scale = arrow_scale(frames) or 0.0
    turned, arrows = [], []
    for frame in frames:
        atoms = frame.atoms.copy()
        atoms.set_constraint()
        atoms.set_cell(_turned(atoms.cell.array))
        atoms.positions = _turned(atoms.positions)
        turned.append(atoms)
        forces = np.zeros((len(atoms), 3)) if frame.forces is None else frame.forces
        arrows += [{"vector": vector} for vector in _turned(scale * forces)]
    shapes = {
        "forces": {
            "kind": "arrow",
            "parameters": {
                "global": {"baseRadius": 0.06, "headRadius": 0.15, "headLength": 0.24, "color": _FORCE},
                "atom": arrows,
            },
        },
        "elsewhere": _balls(frames, [frame.atoms.positions[frame.elsewhere] for frame in frames], 0.56, _ELSEWHERE),
        "empty": _balls(frames, [frame.empty for frame in frames], 0.28, _EMPTY),
    }
    shown = [name for name in shapes if name != "forces" or scale]
    settings = {
        "bonds": True,
        "unitCell": True,
        "keepOrientation": True,
        "environments": {"activated": False},
        "shape": ",".join(shown),
    }
    data = chemiscope.create_input(
        turned,
        metadata={"name": "the relaxation to look at"},
        properties={"frame": {"target": "structure", "values": list(range(len(frames)))}},
        shapes=shapes,
        settings={"target": "structure", "structure": [settings]},
    )
    return data


def _balls(frames: list[Frame], centres: list[Float[np.ndarray, "_ 3"]], radius: float, colour: str) -> dict[str, Any]:
    structures = []
    for frame, places in zip(frames, centres, strict=True):
        # chemiscope refuses an empty list: a frame without marks gets one too small to see, inside its first atom
        shown, size = (places, radius) if len(places) else (frame.atoms.positions[:1], 1e-4)
        structures.append({"centers": _turned(shown), "radii": size})
    return {"kind": "spheres", "parameters": {"global": {"colors": colour}, "structure": structures}}


def bundle() -> str:
    """Return chemiscope's program, ready to stand inside a page.

    Raises:
        RunFolderError: the installed chemiscope does not bring it.
    """
    import chemiscope

    path = Path(chemiscope.__file__).parent / "sphinx" / "static" / "chemiscope.min.js"
    if not path.exists():
        raise RunFolderError(f"chemiscope {chemiscope.__version__} brings no chemiscope.min.js: install chemiscope 1.1")
    return inline_script(path.read_text(encoding="utf-8"))


def inline_script(source: str) -> str:
    r"""Return a program that means the same and cannot end the script element it stands in.

    `</script` and `<!--` occur in programs only inside strings and patterns, where `\x3c` is `<`.
    """
    return re.sub(r"<(?=/script|!--)", r"\\x3c", source, flags=re.IGNORECASE)


def embedded_json(value: Any) -> str:
    """Return a value as JSON that can stand in a script element: no character in it can end one."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("\u2028", "\\u2028")


def viewer(frames: list[Frame], name: str) -> str:
    """Return the viewer's part of the page: buttons, stage, key to the marks and what was measured per frame.

    Args:
        frames: what to show.
        name: which relaxation this is, e.g. its id and arm.
    """
    buttons = "".join(
        f"<button type='button' data-frame='{k}' aria-pressed='{'true' if k == 0 else 'false'}'>"
        f"{escape(frame.label)}</button>"
        for k, frame in enumerate(frames)
    )
    compared = _compared(frames)
    rows = "".join(
        f"<tr><th scope='row'>{escape(frame.label)}</th><td>{formats.number(frame.fmax, 3)}</td>"
        f"<td>{len(frame.elsewhere) if compared else formats.MISSING}</td></tr>"
        for frame in frames
    )
    return (
        f"<p>{escape(name)}</p>\n<div class='example'>\n<div id='viewer'><div id='viewer-stage'></div>"
        "<div id='viewer-meta' hidden></div><div id='viewer-info' hidden></div><p id='viewer-fault' hidden></p></div>\n"
        f"<div><div class='frames' role='group' aria-label='frames'>{buttons}</div>\n"
        f"<ul class='key'>{_key(frames)}</ul>\n"
        "<div class='wide'><table><thead><tr><th scope='col'>frame</th>"
        "<th scope='col'>largest force<small>eV/Å</small></th>"
        f"<th scope='col'>atoms elsewhere<small>&gt; {FAR} Å from a site</small></th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></div>\n</div>\n"
        f"<script type='application/json' id='viewer-data'>{embedded_json(dataset(frames))}</script>"
    )


def _compared(frames: list[Frame]) -> bool:
    return any(frame.label == _REFERENCE for frame in frames)


def _key(frames: list[Frame]) -> str:
    scale = arrow_scale(frames)
    entries = []
    if scale is None:
        entries.append("forces: not measured")
    else:
        entries.append(f"<i style='background:{_FORCE}'></i>force; 1 Å drawn is {formats.small(1 / scale)} eV/Å")
    if _compared(frames):
        entries.append(
            f"<i style='background:{_ELSEWHERE}'></i>atom more than {FAR} Å from every site of the reference"
        )
        entries.append(f"<i style='background:{_EMPTY}'></i>site of the reference without an atom")
    else:
        entries.append("no reference frame, so nothing is compared")
    entries.append("drag to turn, scroll to zoom")
    return "".join(f"<li>{entry}</li>" for entry in entries)
