"""Training: `train` makes the base, `tune` trains it through relaxation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.options import Model, Overrides, SettingsFile, open_model
from thalweg.cli.terminal import say_result, show_progress


def train(
    frames: Annotated[Path, typer.Argument(help="Labelled frames, extended XYZ.")],
    overrides: Overrides = None,
    settings: SettingsFile = None,
    validation: Annotated[Path | None, typer.Option(help="Held-out frames.")] = None,
) -> None:
    """Fit a potential to energies and forces: the base.

    Example: thalweg train frames.extxyz out=base potential.channels=32 optimiser.updates=1000
    """
    from thalweg.structures.extended_xyz import read_frames
    from thalweg.training.force_matching import train as run
    from thalweg.training.loading import load_settings
    from thalweg.training.settings import TrainSettings

    told = load_settings(TrainSettings, settings, overrides or [])
    held = None if validation is None else read_frames(validation)
    result = run(told, read_frames(frames), held, progress=show_progress)
    say_result(result)


def tune(
    model: Model,
    pairs: Annotated[Path, typer.Argument(help="Training pairs, extended XYZ.")],
    overrides: Overrides = None,
    settings: SettingsFile = None,
    validation: Annotated[Path | None, typer.Option(help="Pairs that choose the best model.")] = None,
) -> None:
    """Train a potential through relaxation, by a route: split, implicit, unrolled or phantom.

    Example: thalweg tune base/model.safetensors pairs.extxyz out=tuned route.kind=split route.horizon=20
    """
    from thalweg.structures.extended_xyz import read_pairs
    from thalweg.training.loading import load_settings
    from thalweg.training.settings import TuneSettings
    from thalweg.training.tuning import tune as run

    told = load_settings(TuneSettings, settings, overrides or [])
    held = None if validation is None else read_pairs(validation)
    result = run(told, open_model(model), read_pairs(pairs), held, progress=show_progress)
    say_result(result)
