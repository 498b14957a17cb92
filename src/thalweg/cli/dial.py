"""What every horizon costs, and what it gains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.options import Model, Overrides, SettingsFile, open_model
from thalweg.cli.terminal import say
from thalweg.errors import SettingsError


def dial(
    model: Model,
    pairs: Annotated[Path, typer.Argument(help="Pairs, extended XYZ; a batch of them is measured.")],
    overrides: Overrides = None,
    *,
    settings: SettingsFile = None,
    budget: Annotated[float | None, typer.Option(help="MB for backward: plan the route for it.")] = None,
    tune: Annotated[int | None, typer.Option(metavar="UPDATES", help="Also tune by every horizon.")] = None,
    held_out: Annotated[Path | None, typer.Option("--held-out", help="Pairs to judge on, with --tune.")] = None,
    rule: Annotated[str, typer.Option(help="Same-basin rule: quench, crystal or distance.")] = "distance",
    reference: Annotated[str | None, typer.Option(help="Reference surface, for quench: as MODEL.")] = None,
) -> None:
    """Measure memory and time of every horizon, stored and recomputed; dial.json and dial.html in runs/dial.

    Example: thalweg dial base/model.safetensors pairs.extxyz --budget 500 relaxation.alpha=0.03
    """
    from thalweg.evaluation.frontier import DialSettings, Trial, run_dial
    from thalweg.reports import dial_lines, print_table, read_dial_folder, write_dial
    from thalweg.training.loading import load_settings

    if (tune is None) != (held_out is None):
        raise SettingsError("--tune and --held-out go together: give both or neither")
    told = load_settings(DialSettings, settings, overrides or [])
    surface = None if reference is None else open_model(reference, reference=True)
    trial = None if tune is None or held_out is None else Trial(tune, held_out, rule, surface, reference)
    folder = run_dial(told, open_model(model), pairs, budget=budget, trial=trial, say=say)
    found = read_dial_folder(folder)
    for line in dial_lines(found):
        say(line)
    if found.frontier is not None:
        print_table(found.frontier)
    say(f"wrote {folder / 'dial.json'} and {write_dial(found)}")
