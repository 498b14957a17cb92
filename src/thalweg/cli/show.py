"""What a potential sees of a structure, to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.options import Model, Overwrite, open_model, refuse_existing
from thalweg.cli.terminal import say


def show(
    model: Model,
    structures: Annotated[Path, typer.Argument(help="Structures in any format that ASE reads.")],
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")],
    index: Annotated[int, typer.Option(help="Which structure of the file, from 0.")] = 0,
    atom: Annotated[int | None, typer.Option(help="Draw only what this atom listens to, from 0.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw what a potential sees: a transformer's attention by layer and head, and how forces answer to every atom.

    Example: thalweg show base/model.safetensors pairs.extxyz --out attention.html
    """
    from thalweg.potentials.views import view
    from thalweg.reports.attention_page import write_view
    from thalweg.structures.external import read_structures

    refuse_existing(out, overwrite)
    seen = view(open_model(model), read_structures(structures), index)
    page = write_view(seen, out, atom=atom, overwrite=overwrite)
    say(f"wrote {page}: {len(seen.measures)} ways in which {seen.kind} sees {seen.id} ({len(seen.atoms)} atoms)")
