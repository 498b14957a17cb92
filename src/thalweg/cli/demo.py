"""The demonstration in one command."""

from __future__ import annotations

from typing import Annotated

import typer

from thalweg.cli.options import Overrides, SettingsFile
from thalweg.cli.terminal import say


def demo(
    overrides: Overrides = None,
    settings: SettingsFile = None,
    model: Annotated[
        str | None, typer.Option(help="painn, equivariant or transformer, at about 20,000 parameters.")
    ] = None,
) -> None:
    """Show the idea on silicon defects in minutes: results.json and report.html in runs/demo.

    Example: thalweg demo out=runs/demo workers=2
    """
    from thalweg.evaluation.backbones import backbone_overrides
    from thalweg.evaluation.demo import DemoSettings, run_demo
    from thalweg.reports import print_table, read_run, write_report
    from thalweg.training.loading import load_settings

    backbone = [] if model is None else backbone_overrides(model)
    told = load_settings(DemoSettings, settings, [*backbone, *(overrides or [])])
    folder = run_demo(told, say=say)
    report = write_report(folder)
    print_table(read_run(folder).results)
    say(f"wrote {folder / 'results.json'} and {report}")
