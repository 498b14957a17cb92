"""`thalweg data label`: energies and forces of a reference for structures, as frames to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.options import Overwrite, open_model, refuse_existing
from thalweg.cli.terminal import say


def data_label(
    structures: Annotated[Path, typer.Argument(help="Structures in any format that ASE reads.")],
    out: Annotated[Path, typer.Argument(help="Extended XYZ file of labelled frames to write.")],
    reference: Annotated[str, typer.Option(help="As MODEL, or ase:module:Class?key=value for an ASE calculator.")],
    stress: Annotated[bool, typer.Option("--stress", help="Label stresses too.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Label structures with the energies and forces of a reference, for `thalweg train`.

    Example: thalweg data label rattled.extxyz frames.extxyz --reference ase:ase.calculators.emt:EMT
    """
    from thalweg.evaluation.labelling import label
    from thalweg.structures.extended_xyz import write_frames
    from thalweg.structures.external import read_structures

    refuse_existing(out, overwrite)
    frames = label(open_model(reference, reference=True), read_structures(structures), stress=stress)
    write_frames(out, frames, overwrite=overwrite)
    say(f"wrote {len(frames)} frames labelled by {reference} to {out}")
