"""Training: `train` makes the base, `tune` trains it through relaxation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.options import Model, Overrides, SettingsFile, open_model
from thalweg.cli.terminal import say_result, show_progress
from thalweg.errors import SettingsError


def train(
    frames: Annotated[Path, typer.Argument(help="Labelled frames, extended XYZ or a store.")],
    overrides: Overrides = None,
    settings: SettingsFile = None,
    validation: Annotated[Path | None, typer.Option(help="Held-out frames.")] = None,
) -> None:
    """Fit a potential to energies and forces: the base.

    Example: thalweg train frames.extxyz out=base potential.channels=32 optimiser.updates=1000
    """
    from thalweg.structures.extended_xyz import read_frames
    from thalweg.training.force_matching import train as run
    from thalweg.training.force_matching import train_stored
    from thalweg.training.loading import load_settings
    from thalweg.training.settings import StoreTrainSettings, TrainSettings

    if frames.is_dir():
        if validation is not None:
            raise SettingsError("--validation beside a store: its validation is part of it, see store.validation=0.05")
        say_result(
            train_stored(load_settings(StoreTrainSettings, settings, overrides or []), frames, progress=show_progress)
        )
        return
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
    replay: Annotated[Path | None, typer.Option(help="Frames or a store to replay, with replay.share=S.")] = None,
) -> None:
    """Train a potential through relaxation, by a route: split, implicit, unrolled or phantom.

    Example: thalweg tune base/model.safetensors pairs.extxyz out=tuned route.kind=split route.horizon=20
    """
    from thalweg.structures.extended_xyz import read_frames, read_pairs
    from thalweg.training.loading import load_settings
    from thalweg.training.settings import TuneSettings
    from thalweg.training.stored import whole_set
    from thalweg.training.tuning import tune as run

    told = load_settings(TuneSettings, settings, overrides or [])
    held = None if validation is None else read_pairs(validation)
    frames = None if replay is None else whole_set(replay) if replay.is_dir() else read_frames(replay)
    result = run(told, open_model(model), read_pairs(pairs), held, replay=frames, progress=show_progress)
    say_result(result)
