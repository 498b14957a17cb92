"""Gradients of a potential against central differences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thalweg.cli.options import Overrides, open_model
from thalweg.cli.terminal import say
from thalweg.errors import SettingsError

if TYPE_CHECKING:
    from thalweg.potentials.contract import Potential
    from thalweg.structures.batch import Structures


def verify(
    model: Annotated[
        str, typer.Argument(help="As everywhere, or a kind alone, e.g. painn: a small one is made and fitted.")
    ],
    pairs: Annotated[Path | None, typer.Argument(help="Pairs whose starts are used; small cells are quick.")] = None,
    overrides: Overrides = None,
    count: Annotated[int, typer.Option(help="How many starts.")] = 2,
    steps: Annotated[int, typer.Option(help="Updates T of the path; the horizon is T / 2.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Root seed.")] = 0,
    cell: Annotated[str, typer.Option(help="fixed, or free: the cell moves too.")] = "fixed",
) -> None:
    """Check every route's gradient of this potential against central differences in float64.

    Without pairs, small strained crystals of its elements are used, silicon first. A kind alone (painn, transformer
    coordinates=fractional) needs no file: a small potential is made, its last map fitted in a moment. A saddle and a
    relaxation cut short, made on purpose, must be refused. Exit status 1 if a check fails.

    Example: thalweg verify base/model.safetensors pairs.extxyz
    """
    from thalweg.evaluation.certify import certify, crystal_names
    from thalweg.evaluation.refusals import certify_refusals
    from thalweg.reports.lines import refusal_lines, verdict_lines
    from thalweg.training.loading import load_settings
    from thalweg.training.settings import RelaxationSettings

    told = overrides or []
    if pairs is not None and "=" in pairs.name and not pairs.exists():
        pairs, told = None, [str(pairs), *told]
    potential, starts = _given(model, pairs, told, seed)
    moving = load_settings(RelaxationSettings, None, [f"cell={cell}"]).coordinates
    verdicts = certify(potential, starts, count=count, steps=steps, seed=seed, coordinates=moving)
    if starts is None:
        say(f"no pairs given: small strained crystals of {', '.join(crystal_names(potential.species, count))}")
    for line in verdict_lines(verdicts):
        say(line)
    refusals = certify_refusals(potential, starts, seed=seed, coordinates=moving)
    for line in refusal_lines(refusals):
        say(line)
    if not (all(v.passed for v in verdicts) and all(r.refused for r in refusals)):
        raise typer.Exit(1)


def _given(model: str, pairs: Path | None, overrides: list[str], seed: int) -> tuple[Potential, Structures | None]:
    """Return the potential and its starts, None where small crystals will do."""
    from thalweg.evaluation.specimens import make_specimen
    from thalweg.structures.extended_xyz import read_pairs
    from thalweg.training.loading import read_overrides

    word = model.replace("-", "_").isidentifier() and not Path(model).exists()
    if not word:
        if overrides:
            raise SettingsError(
                f"{overrides[0]!r} is a setting for a kind alone, e.g. thalweg verify painn channels=8; {model} brings "
                "its own: leave it out"
            )
        return open_model(model), None if pairs is None else read_pairs(pairs).starts
    if pairs is not None:
        raise SettingsError(
            f"{pairs} was given with the kind {model}, which is verified on structures of its own: give a model file, "
            "or leave the pairs out"
        )
    specimen = make_specimen(model, read_overrides(overrides), seed=seed)
    say(f"a {model} potential made for this, {specimen.parameters} parameters")
    return specimen.potential, specimen.starts
