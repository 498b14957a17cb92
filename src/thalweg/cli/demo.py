"""The demonstration in one command."""

from __future__ import annotations

from thalweg.cli.options import Overrides, SettingsFile
from thalweg.cli.terminal import say


def demo(overrides: Overrides = None, settings: SettingsFile = None) -> None:
    """Show the idea on silicon defects in minutes: results.json and report.html in runs/demo.

    Example: thalweg demo out=runs/demo workers=2
    """
    from thalweg.evaluation.demo import DemoSettings, run_demo
    from thalweg.reports import print_table, read_run, write_report
    from thalweg.training.loading import load_settings

    told = load_settings(DemoSettings, settings, overrides or [])
    folder = run_demo(told, say=say)
    report = write_report(folder)
    print_table(read_run(folder).results)
    say(f"wrote {folder / 'results.json'} and {report}")
