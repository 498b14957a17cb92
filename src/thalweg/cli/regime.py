"""Whether training through relaxation will pay: the regime map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.options import Model, Overrides, Overwrite, SettingsFile, open_model, refuse_existing
from thalweg.cli.terminal import say
from thalweg.errors import SettingsError


def map(  # the command is named after its function
    model: Model,
    pairs: Annotated[Path, typer.Argument(help="Pairs, extended XYZ.")],
    overrides: Overrides = None,
    *,
    settings: SettingsFile = None,
    reference: Annotated[str | None, typer.Option(help="Reference surface, where there is one: as MODEL.")] = None,
    budget: Annotated[float | None, typer.Option(help="MB for backward: which horizons fit.")] = None,
    count: Annotated[int | None, typer.Option(help="Pairs looked at; 40, without a reference 16.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file; the page goes beside it.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure beforehand whether training through relaxation will pay: headroom yes, no or open, and which K.

    Example: thalweg map base/model.safetensors pairs.extxyz --reference stillinger-weber:Si --budget 500 --out map.json
    """
    import json

    from thalweg.evaluation.regime import MapSettings, measure_map
    from thalweg.reports import map_lines, write_map
    from thalweg.storage import atomic_write
    from thalweg.structures.extended_xyz import read_pairs
    from thalweg.training.loading import load_settings

    if out is not None:
        if out.suffix != ".json":
            raise SettingsError(
                f"--out is {out}: give a name that ends in .json; the page is written beside it as .html"
            )
        for path in (out, out.with_suffix(".html")):
            refuse_existing(path, overwrite)
    told = load_settings(MapSettings, settings, overrides or [])
    surface = None if reference is None else open_model(reference, reference=True)
    found = measure_map(
        open_model(model), read_pairs(pairs), told, reference=surface, budget=budget, count=count, say=say
    )
    for line in map_lines(found):
        say(line)
    say(f"took {found.seconds:.0f} s")
    if out is not None:
        atomic_write(out, json.dumps(found.record(), indent=1) + "\n", overwrite=overwrite)
        say(f"wrote {out} and {write_map(found, out.with_suffix('.html'), overwrite=overwrite)}")
