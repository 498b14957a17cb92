"""`thalweg data convert`: labelled frames of any kind into a store."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.options import Overwrite
from thalweg.cli.terminal import say, say_left_out
from thalweg.errors import SettingsError


def data_convert(
    source: Annotated[Path, typer.Argument(help="Labelled frames: a file or folder as for data import.")],
    store: Annotated[Path, typer.Argument(help="Folder to make.")],
    dtype: Annotated[str, typer.Option(help="Type of positions and forces: float32 or float64.")] = "float32",
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave broken frames out, and count them.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Convert labelled frames into a store, for training on many; interrupted, the same command goes on.

    Example: thalweg data convert frames.extxyz frames.store
    """
    from thalweg.structures.store import convert

    if dtype not in ("float32", "float64"):
        raise SettingsError(f"--dtype is {dtype!r}: allowed are float32 and float64")
    with _bar(f"converting {source.name}") as progress:
        done = convert(
            source,
            store,
            dtype="float32" if dtype == "float32" else "float64",
            overwrite=overwrite,
            skip_broken=skip_broken,
            progress=progress,
        )
    say_left_out(done.notes, done.skipped)
    size = f"{done.index.bytes / 1e6:.1f} MB"
    say(f"wrote {done.index.frames} frames of {done.index.atoms} atoms to {store}, {size}")


@contextmanager
def _bar(what: str) -> Iterator[Callable[[float, int], None] | None]:
    """Show how far it is, on standard error and only if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[frames]} frames"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=1.0, frames=0)
        yield lambda share, frames: bar.update(task, completed=share, frames=frames)
