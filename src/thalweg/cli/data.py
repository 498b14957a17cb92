"""`thalweg data`: make, import, describe and split sets of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.convert import data_convert
from thalweg.cli.label import data_label
from thalweg.cli.options import Overrides, Overwrite, refuse_existing
from thalweg.cli.terminal import say, say_left_out
from thalweg.errors import SettingsError, nearest_known

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
"""The commands below `data`."""


@group.callback()
def data_root() -> None:
    """Make, import, describe and split sets of pairs.

    Example: thalweg data make silicon pairs.extxyz --count 100
    """


@group.command("make")
def data_make(
    testbed: Annotated[str, typer.Argument(help="A built-in family of pairs, e.g. silicon.")],
    out: Annotated[Path, typer.Argument(help="Extended XYZ file to write.")],
    overrides: Overrides = None,
    count: Annotated[int, typer.Option(help="How many pairs or frames.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Root seed.")] = 0,
    frames: Annotated[bool, typer.Option("--frames", help="Labelled frames instead of pairs.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Make pairs (start, reference minimum) or labelled frames on a testbed's reference surface.

    Example: thalweg data make silicon pairs.extxyz --count 100 atoms=64
    """
    from thalweg.structures.extended_xyz import write_frames, write_pairs
    from thalweg.testbeds import TESTBEDS
    from thalweg.training.loading import read_overrides

    if testbed not in TESTBEDS:
        raise SettingsError(f"testbed {testbed!r} is not known; {nearest_known(testbed, TESTBEDS)}")
    family = TESTBEDS[testbed].from_settings(read_overrides(overrides or []))
    refuse_existing(out, overwrite)
    if frames:
        labelled = family.frames(count, seed)
        write_frames(out, labelled, overwrite=overwrite)
        say(f"wrote {len(labelled)} frames to {out}")
        return
    drawn = family.draw(count, seed)
    write_pairs(out, drawn.pairs, overwrite=overwrite)
    lost = f"; {len(drawn.lost)} references did not converge and were left out" if drawn.lost else ""
    say(f"wrote {len(drawn.pairs)} pairs to {out}{lost}")


@group.command("import")
def data_import(
    source: Annotated[Path, typer.Argument(help="File or folder of relaxations; see docs/data-format.md.")],
    out: Annotated[Path, typer.Option("--out", help="Extended XYZ file to write.")],
    frames: Annotated[bool, typer.Option("--frames", help="Labelled frames instead of pairs.")] = False,
    fmax: Annotated[float, typer.Option(help="Largest force left (eV/Å) at which an end is a minimum.")] = 0.1,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave broken frames out, and count them.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Read data made elsewhere: ASE (traj, db, JSON, aselmdb), OC20/OC22, VASP, pymatgen, CIF, extended XYZ.

    Example: thalweg data import cdte_vacancy --out cdte.extxyz
    """
    from thalweg.structures.extended_xyz import write_frames, write_pairs
    from thalweg.structures.readers import import_frames, import_pairs

    refuse_existing(out, overwrite)
    if frames:
        labelled = import_frames(source, skip_broken=skip_broken)
        write_frames(out, labelled.frames, overwrite=overwrite)
        say_left_out(labelled.notes, labelled.skipped)
        say(f"wrote {len(labelled.frames)} frames to {out}; skipped {len(labelled.skipped) or 'none'}")
        return
    found = import_pairs(source, fmax=fmax, skip_broken=skip_broken)
    write_pairs(out, found.pairs, overwrite=overwrite)
    say_left_out(found.notes, found.skipped)
    say(f"wrote {len(found.pairs)} pairs to {out}; skipped {len(found.skipped) or 'none'}")


@group.command("describe")
def data_describe(pairs: Annotated[Path, typer.Argument(help="Pairs, extended XYZ.")]) -> None:
    """Print what is in a set of pairs: atoms, displacements, basins found and how many fall into each.

    Example: thalweg data describe cdte.extxyz
    """
    from thalweg.reports.lines import description_lines
    from thalweg.structures.describe import describe
    from thalweg.structures.extended_xyz import read_pairs

    for line in description_lines(describe(read_pairs(pairs))):
        say(line)


@group.command("split")
def data_split(
    pairs: Annotated[Path, typer.Argument(help="Pairs, extended XYZ.")],
    train: Annotated[Path, typer.Option("--train", help="File for the training pairs.")],
    held_out: Annotated[Path, typer.Option("--held-out", help="File for the held-out pairs.")],
    share: Annotated[float, typer.Option(help="Share held out, between 0 and 1.")] = 0.3,
    by: Annotated[str, typer.Option(help="parent (none on both sides) or pair.")] = "parent",
    seed: Annotated[int, typer.Option(min=0, help="Root seed.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Split pairs into training and held-out.

    Example: thalweg data split cdte.extxyz --train train.extxyz --held-out held.extxyz --by pair
    """
    from thalweg.structures.extended_xyz import read_pairs, write_pairs

    if by not in ("parent", "pair"):
        raise SettingsError(f"--by is {by!r}: allowed are parent and pair")
    if train.resolve() == held_out.resolve():
        raise SettingsError(f"--train and --held-out are both {train}: give two files")
    for path in (train, held_out):
        refuse_existing(path, overwrite)
    every = read_pairs(pairs)
    parts = every.split_by_parent(share, seed) if by == "parent" else every.split_by_pair(share, seed)
    for path, part in zip((train, held_out), parts, strict=True):
        write_pairs(path, part, overwrite=overwrite)
        say(f"wrote {len(part)} pairs to {path}")


group.command("label")(data_label)
group.command("convert")(data_convert)
