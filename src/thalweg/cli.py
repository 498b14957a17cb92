"""The command line: parse, call, print, exit status. Errors a user can mend are one line and exit status 2.

Everything heavy is imported inside the commands, so that `--help` is instant.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thalweg.console import complain, show_plain_warnings
from thalweg.errors import OutputError, SettingsError, ThalwegError, nearest_known

if TYPE_CHECKING:
    from thalweg.potentials.contract import Potential
    from thalweg.relaxation.path import Path as RelaxationPath
    from thalweg.training.processes import Report
    from thalweg.training.run import RunResult

app = typer.Typer(
    name="thalweg",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data, name="data")

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, e.g. seed=1.")]
SettingsFile = Annotated[Path | None, typer.Option("--settings", help="YAML file of settings.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Model = Annotated[str, typer.Argument(help="Model file, LAMMPS .sw file, or stillinger-weber:Si.")]


@app.callback()
def root() -> None:
    """Train interatomic potentials through the structural relaxation they will be used for.

    Example: thalweg demo
    """


@app.command()
def demo(overrides: Overrides = None, settings: SettingsFile = None) -> None:
    """Show the idea on silicon defects in minutes: results.json and report.html in runs/demo.

    Example: thalweg demo out=runs/demo workers=2
    """
    from thalweg.evaluation.demo import DemoSettings, run_demo
    from thalweg.reports import print_table, read_run, write_report
    from thalweg.training.loading import load_settings

    told = load_settings(DemoSettings, settings, overrides or [])
    folder = run_demo(told, say=_say)
    report = write_report(folder)
    print_table(read_run(folder).results)
    _say(f"wrote {folder / 'results.json'} and {report}")


@data.callback()
def data_root() -> None:
    """Make, import, describe and split sets of pairs.

    Example: thalweg data make silicon pairs.extxyz --count 100
    """


@data.command("make")
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
    _refuse_existing(out, overwrite)
    if frames:
        labelled = family.frames(count, seed)
        write_frames(out, labelled, overwrite=overwrite)
        _say(f"wrote {len(labelled)} frames to {out}")
        return
    drawn = family.draw(count, seed)
    write_pairs(out, drawn.pairs, overwrite=overwrite)
    lost = f"; {len(drawn.lost)} references did not converge and were left out" if drawn.lost else ""
    _say(f"wrote {len(drawn.pairs)} pairs to {out}{lost}")


@data.command("import")
def data_import(
    source: Annotated[Path, typer.Argument(help="File or folder of relaxations.")],
    out: Annotated[Path, typer.Option("--out", help="Extended XYZ file to write.")],
    overwrite: Overwrite = False,
) -> None:
    """Read relaxations made elsewhere: extended XYZ, or VASP folders as ShakeNBreak lays them out.

    Example: thalweg data import cdte_vacancy --out cdte.extxyz
    """
    from thalweg.structures.extended_xyz import write_pairs
    from thalweg.structures.readers import import_pairs

    _refuse_existing(out, overwrite)
    found = import_pairs(source)
    write_pairs(out, found.pairs, overwrite=overwrite)
    for note in found.notes:
        _say(f"note: {note}")
    for path, reason in found.skipped:
        _say(f"skipped {path}: {reason}")
    _say(f"wrote {len(found.pairs)} pairs to {out}; skipped {len(found.skipped) or 'none'}")


@data.command("describe")
def data_describe(pairs: Annotated[Path, typer.Argument(help="Pairs, extended XYZ.")]) -> None:
    """Print what is in a set of pairs: atoms, displacements, basins found and how many fall into each.

    Example: thalweg data describe cdte.extxyz
    """
    from thalweg.reports.lines import description_lines
    from thalweg.structures.describe import describe
    from thalweg.structures.extended_xyz import read_pairs

    for line in description_lines(describe(read_pairs(pairs))):
        _say(line)


@data.command("split")
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
        _refuse_existing(path, overwrite)
    every = read_pairs(pairs)
    parts = every.split_by_parent(share, seed) if by == "parent" else every.split_by_pair(share, seed)
    for path, part in zip((train, held_out), parts, strict=True):
        write_pairs(path, part, overwrite=overwrite)
        _say(f"wrote {len(part)} pairs to {path}")


@app.command()
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
    result = run(told, read_frames(frames), held, progress=_progress)
    _told(result)


@app.command()
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
    result = run(told, _open(model), read_pairs(pairs), held, progress=_progress)
    _told(result)


@app.command()
def relax(
    model: Model,
    structures: Annotated[Path, typer.Argument(help="Structures in any format that ASE reads.")],
    out: Annotated[Path, typer.Option("--out", help="Extended XYZ file to write.")],
    overrides: Overrides = None,
    settings: SettingsFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Relax structures along the path that training differentiates; say how each ended.

    Example: thalweg relax tuned/model.safetensors starts.extxyz --out relaxed.extxyz fmax=0.005
    """
    from thalweg.relaxation.files import write_relaxation
    from thalweg.structures.external import read_structures

    _refuse_existing(out, overwrite)
    potential = _open(model)
    starts = read_structures(structures)
    potential.check(starts)
    starts = starts.to(dtype=next(potential.parameters()).dtype)
    ends = _path(overrides, settings, potential, starts).run(potential, starts)
    write_relaxation(out, ends, overwrite=overwrite)
    for outcome in sorted(set(ends.outcomes)):
        _say(f"{ends.outcomes.count(outcome)} {outcome.label.replace('_', ' ')}: {outcome.advice}")
    _say(f"wrote {len(starts)} structures to {out}")


@app.command()
def evaluate(
    model: Model,
    pairs: Annotated[Path, typer.Argument(help="Held-out pairs, extended XYZ.")],
    overrides: Overrides = None,
    settings: SettingsFile = None,
    rule: Annotated[str, typer.Option(help="Same-basin rule: quench or distance.")] = "distance",
    reference: Annotated[str | None, typer.Option(help="Reference surface, for quench: as MODEL.")] = None,
    base: Annotated[str | None, typer.Option(help="Potential to compare with, pair by pair: as MODEL.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file for the whole record.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Relax held-out starts and count the right basins.

    Example: thalweg evaluate tuned/model.safetensors held-out.extxyz --rule quench --reference stillinger-weber:Si
    """
    import json

    from thalweg.evaluation import evaluate as judge
    from thalweg.evaluation.basins import basin_rule
    from thalweg.reports.lines import evaluation_lines
    from thalweg.storage import atomic_write
    from thalweg.structures.extended_xyz import read_pairs

    if out is not None:
        _refuse_existing(out, overwrite)
    potential, held = _open(model), read_pairs(pairs)
    potential.check(held.starts)
    surface = None if reference is None else _open(reference)
    start = None if base is None else _open(base)
    for known in (surface, start):
        if known is not None:
            known.check(held.starts)
    basin_rule(rule).check(surface, held.energy_minimum)
    path = _path(overrides, settings, potential, held.minima)
    before = None if start is None else judge(start, held, path, rule=rule, reference=surface)
    record = judge(potential, held, path, rule=rule, reference=surface, base=before).record()
    if out is not None:
        atomic_write(out, json.dumps(record, indent=1), overwrite=overwrite)
    for line in evaluation_lines(record, None if before is None else before.record()):
        _say(line)


@app.command()
def dial(
    model: Model,
    pairs: Annotated[Path, typer.Argument(help="Pairs, extended XYZ; a batch of them is measured.")],
    overrides: Overrides = None,
    settings: SettingsFile = None,
    budget: Annotated[float | None, typer.Option(help="MB for backward: plan the route for it.")] = None,
    tune: Annotated[int | None, typer.Option(metavar="UPDATES", help="Also tune by every horizon.")] = None,
    held_out: Annotated[Path | None, typer.Option("--held-out", help="Pairs to judge on, with --tune.")] = None,
    rule: Annotated[str, typer.Option(help="Same-basin rule: quench or distance.")] = "distance",
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
    surface = None if reference is None else _open(reference)
    trial = None if tune is None or held_out is None else Trial(tune, held_out, rule, surface)
    folder = run_dial(told, _open(model), pairs, budget=budget, trial=trial, say=_say)
    found = read_dial_folder(folder)
    for line in dial_lines(found):
        _say(line)
    if found.frontier is not None:
        print_table(found.frontier)
    _say(f"wrote {folder / 'dial.json'} and {write_dial(found)}")


@app.command()
def verify(
    model: Model,
    pairs: Annotated[Path | None, typer.Argument(help="Pairs whose starts are used; small cells are quick.")] = None,
    count: Annotated[int, typer.Option(help="How many starts.")] = 2,
    steps: Annotated[int, typer.Option(help="Updates T of the path; the horizon is T / 2.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Root seed.")] = 0,
    cell: Annotated[str, typer.Option(help="fixed, or free: the cell moves too.")] = "fixed",
) -> None:
    """Check every route's gradient of this potential against central differences in float64.

    Without pairs, small rattled crystals of the elements it knows are used. Exit status 1 if a check fails.

    Example: thalweg verify base/model.safetensors pairs.extxyz
    """
    from thalweg.evaluation.certify import certify
    from thalweg.reports.lines import verdict_lines
    from thalweg.structures.extended_xyz import read_pairs
    from thalweg.training.loading import load_settings
    from thalweg.training.settings import RelaxationSettings

    potential = _open(model)
    starts = None if pairs is None else read_pairs(pairs).starts
    moving = load_settings(RelaxationSettings, None, [f"cell={cell}"]).coordinates
    verdicts = certify(potential, starts, count=count, steps=steps, seed=seed, coordinates=moving)
    for line in verdict_lines(verdicts):
        _say(line)
    if not all(v.passed for v in verdicts):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; errors a user can mend become one line on standard error and exit status 2."""
    from thalweg.allocator import keep_freed_memory

    keep_freed_memory()
    # before torch is imported: on small cells two threads were seen 50 times slower than one beside another job
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    show_plain_warnings()
    try:
        app(prog_name="thalweg")
    except ThalwegError as error:
        complain(error)
        sys.exit(2)
    except OSError as error:  # whatever no reader or writer has put into words
        complain(f"{error.filename or 'the system refused'}: {error.strerror or error}: mend that and run again")
        sys.exit(2)
    except KeyboardInterrupt:
        complain(_INTERRUPTED)
        sys.exit(130)
    except SystemExit as ended:
        if ended.code == 130:  # typer turns an interrupt into this status, without a word
            complain(_INTERRUPTED)
        raise


_INTERRUPTED = (
    "interrupted; the same command again takes train, tune and demo on from where they were, "
    "other commands have written nothing"
)


def _say(line: str) -> None:
    print(line, flush=True)


def _told(result: RunResult) -> None:
    """Say where the model is, and whether some updates learnt nothing."""
    idle, updates = result.results["skipped_updates"], result.results["updates"]
    if idle:
        _say(
            f"{idle} of {updates} updates changed nothing: see 'skipped' and 'reasons' in {result.folder}/metrics.jsonl"
        )
    _say(f"{'already finished' if result.already_finished else 'wrote'}: {result.best}")


def _progress(report: Report) -> None:
    record: dict[str, Any] = report.record
    told = [f"update {report.update} of {report.updates}"]
    told += [f"{key} {record[key]:.4g}" for key in ("loss", "gradient_norm") if record.get(key) is not None]
    if record.get("took_part") is not None:
        why = ", ".join(f"{count} {reason}" for reason, count in (record.get("reasons") or {}).items())
        told.append(f"{record['took_part']} of {record['structures']} took part{f' ({why})' if why else ''}")
    if record.get("skipped"):
        told.append(f"skipped: {record['skipped']}")
    held = record.get("validation")
    if held and "right" in held:
        told.append(f"validation {held['right']} of {held['total']} right")
    _say(", ".join(told))


def _refuse_existing(path: Path, overwrite: bool) -> None:
    """Refuse before any work, rather than after it, to write over a file or into a folder that is not there."""
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder: give the path of a file")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: choose another name or give --overwrite")
    if path.parent.exists() and not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: {path.parent} is a file, not a folder: choose another place")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: the folder {path.parent} does not exist: create it first")


def _open(model: str) -> Potential:
    from thalweg.potentials.opening import open_potential

    return open_potential(model)


def _path(overrides: list[str] | None, settings: Path | None, potential: Potential, near: Any) -> RelaxationPath:
    """Return the path of the settings; where alpha is left open it is measured at the given structures."""
    from thalweg.relaxation.stability import safe_alpha
    from thalweg.training.loading import load_settings
    from thalweg.training.settings import RelaxationSettings

    told = load_settings(RelaxationSettings, settings, overrides or [])
    if told.alpha is not None:
        return told.path()
    few = near.select(range(min(4, len(near)))).to(dtype=next(potential.parameters()).dtype)
    alpha = safe_alpha(potential, few, coordinates=told.coordinates)
    _say(f"alpha = {alpha:.4g} Å²/eV, measured on {len(few)} structures")
    return told.path(alpha)


if __name__ == "__main__":
    main()
