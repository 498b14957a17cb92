"""Options that several commands share, and what their words stand for: a model, a path, a file to write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thalweg.cli.terminal import say
from thalweg.errors import OutputError

if TYPE_CHECKING:
    from thalweg.potentials.contract import Potential
    from thalweg.relaxation.path import Path as RelaxationPath

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, e.g. seed=1.")]
SettingsFile = Annotated[Path | None, typer.Option("--settings", help="YAML file of settings.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Model = Annotated[
    str, typer.Argument(help="Model file, .sw file, stillinger-weber:Si, or code: torch:module:factory?…")
]


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Refuse before any work, rather than after it, to write over a file or into a folder that is not there."""
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder: give the path of a file")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: choose another name or give --overwrite")
    if path.parent.exists() and not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: {path.parent} is a file, not a folder: choose another place")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: the folder {path.parent} does not exist: create it first")


def open_model(model: str, *, reference: bool = False) -> Potential:
    """Return the potential that a model's words stand for; ASE calculators only where it is the reference."""
    from thalweg.potentials.opening import open_potential

    return open_potential(model, reference=reference)


def relaxation_path(
    overrides: list[str] | None, settings: Path | None, potential: Potential, near: Any
) -> RelaxationPath:
    """Return the path of the settings; where alpha is left open it is measured at the given structures."""
    from thalweg.relaxation.stability import safe_alpha
    from thalweg.training.loading import load_settings
    from thalweg.training.settings import RelaxationSettings

    told = load_settings(RelaxationSettings, settings, overrides or [])
    if told.alpha is not None:
        return told.path()
    few = near.select(range(min(4, len(near)))).to(dtype=next(potential.parameters()).dtype)
    alpha = safe_alpha(potential, few, coordinates=told.coordinates)
    say(f"alpha = {alpha:.4g} Å²/eV, measured on {len(few)} structures")
    return told.path(alpha)
