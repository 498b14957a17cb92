"""Using a potential: `relax` structures with it, `evaluate` where held-out starts end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.options import Model, Overrides, Overwrite, SettingsFile, open_model, refuse_existing, relaxation_path
from thalweg.cli.terminal import say


def relax(
    model: Model,
    structures: Annotated[Path, typer.Argument(help="Structures in any format that ASE reads.")],
    out: Annotated[Path, typer.Option("--out", help="Extended XYZ file to write.")],
    overrides: Overrides = None,
    *,
    settings: SettingsFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Relax structures along the path that training differentiates; say how each ended.

    Example: thalweg relax tuned/model.safetensors starts.extxyz --out relaxed.extxyz fmax=0.005
    """
    from thalweg.relaxation.files import write_relaxation
    from thalweg.structures.external import read_structures

    refuse_existing(out, overwrite)
    potential = open_model(model)
    starts = read_structures(structures)
    potential.check(starts)
    starts = starts.to(dtype=next(potential.parameters()).dtype)
    ends = relaxation_path(overrides, settings, potential, starts).run(potential, starts)
    write_relaxation(out, ends, overwrite=overwrite)
    for outcome in sorted(set(ends.outcomes)):
        say(f"{ends.outcomes.count(outcome)} {outcome.label.replace('_', ' ')}: {outcome.advice}")
    say(f"wrote {len(starts)} structures to {out}")


def evaluate(
    model: Model,
    pairs: Annotated[Path, typer.Argument(help="Held-out pairs, extended XYZ.")],
    overrides: Overrides = None,
    *,
    settings: SettingsFile = None,
    rule: Annotated[str, typer.Option(help="Same-basin rule: quench, crystal or distance.")] = "distance",
    reference: Annotated[str | None, typer.Option(help="Reference surface, for quench and crystal: as MODEL.")] = None,
    base: Annotated[str | None, typer.Option(help="Potential to compare with, pair by pair: as MODEL.")] = None,
    frames: Annotated[Path | None, typer.Option(help="Labelled frames, for errors of energies and forces.")] = None,
    crystal: Annotated[
        str | None, typer.Option(help="Testbed whose perfect crystal is measured, e.g. silicon.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file for the whole record.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Relax held-out starts and count the right basins; on demand, errors of labels and the perfect crystal.

    Example: thalweg evaluate tuned/model.safetensors held-out.extxyz --rule quench --reference stillinger-weber:Si
    """
    import json

    from thalweg.evaluation import evaluate as judge
    from thalweg.evaluation.basins import basin_rule
    from thalweg.evaluation.cost import cost_record, require_crystal
    from thalweg.reports.lines import cost_lines, evaluation_lines
    from thalweg.storage import atomic_write
    from thalweg.structures.extended_xyz import read_frames, read_pairs
    from thalweg.testbeds import TESTBEDS

    if out is not None:
        refuse_existing(out, overwrite)
    if crystal is not None:
        require_crystal(crystal)
    potential, held = open_model(model), read_pairs(pairs)
    potential.check(held.starts)
    surface = None if reference is None else open_model(reference, reference=True)
    start = None if base is None else open_model(base)
    for known in (surface, start):
        if known is not None:
            known.check(held.starts)
    basin_rule(rule).check(surface, held.energy_minimum)
    path = relaxation_path(overrides, settings, potential, held.minima)
    labelled = None if frames is None else read_frames(frames)
    perfect = None if crystal is None else TESTBEDS[crystal]()
    costs = [None if known is None else cost_record(known, labelled, perfect) for known in (potential, start)]
    before = None if start is None else judge(start, held, path, rule=rule, reference=surface)
    record = judge(potential, held, path, rule=rule, reference=surface, base=before).record()
    record["cost"] = costs[0]
    if out is not None:
        atomic_write(out, json.dumps(record, indent=1), overwrite=overwrite)
    for line in evaluation_lines(record, None if before is None else before.record()):
        say(line)
    for line in cost_lines(*costs):
        say(line)
