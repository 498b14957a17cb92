"""Gradients of a potential against central differences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.options import Model, open_model
from thalweg.cli.terminal import say


def verify(
    model: Model,
    pairs: Annotated[Path | None, typer.Argument(help="Pairs whose starts are used; small cells are quick.")] = None,
    count: Annotated[int, typer.Option(help="How many starts.")] = 2,
    steps: Annotated[int, typer.Option(help="Updates T of the path; the horizon is T / 2.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Root seed.")] = 0,
    cell: Annotated[str, typer.Option(help="fixed, or free: the cell moves too.")] = "fixed",
) -> None:
    """Check every route's gradient of this potential against central differences in float64.

    Without pairs, small rattled crystals of the elements it knows are used. Exit status 1 if a check fails.

    Example: thalweg verify base/model.safetensors pairs.extxyz
    """
    from thalweg.evaluation.certify import certify
    from thalweg.reports.lines import verdict_lines
    from thalweg.structures.extended_xyz import read_pairs
    from thalweg.training.loading import load_settings
    from thalweg.training.settings import RelaxationSettings

    potential = open_model(model)
    starts = None if pairs is None else read_pairs(pairs).starts
    moving = load_settings(RelaxationSettings, None, [f"cell={cell}"]).coordinates
    verdicts = certify(potential, starts, count=count, steps=steps, seed=seed, coordinates=moving)
    for line in verdict_lines(verdicts):
        say(line)
    if not all(v.passed for v in verdicts):
        raise typer.Exit(1)
