"""`thalweg study`: register a protocol, run it, report on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.terminal import say
from thalweg.errors import SettingsError

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
"""The commands below `study`."""

Folder = Annotated[Path, typer.Argument(help="Folder of the study, with its protocol.yaml.")]


@group.callback()
def study_root() -> None:
    """Decide first, then measure: arms times seeds by a registered protocol, with a verdict on each hypothesis.

    Example: thalweg study register studies/silicon/protocol.yaml
    """


@group.command("register")
def study_register(
    protocol: Annotated[Path, typer.Argument(help="The protocol, a file called protocol.yaml.")],
) -> None:
    """Freeze a protocol: registration.json beside it holds content, hash, date and code version.

    Example: thalweg study register studies/silicon/protocol.yaml
    """
    from thalweg.evaluation.registration import register

    found, already = register(protocol)
    told = found.protocol
    size = f"{len(told.arms)} arms, {len(told.seeds)} seeds, {len(told.hypotheses)} hypotheses"
    say(f"{'already registered' if already else 'registered'} as {found.hash} on {found.date}: {size}")


@group.command("run")
def study_run(
    folder: Folder = Path(),
    workers: Annotated[int, typer.Option(help="Arms at once, one thread each.")] = 2,
    only: Annotated[str | None, typer.Option(metavar="ARM,...", help="These arms only.")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="SEED,...", help="These seeds only.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Start no further arm after so long.")] = None,
) -> None:
    """Run what is missing of a registered study; killed, the same command goes on. Exit status 1 if an arm failed.

    Example: thalweg study run studies/silicon --workers 8
    """
    from thalweg.evaluation.study import Part, run_study

    part = Part(workers, _words(only), tuple(map(_seed, _words(seeds))), minutes)
    standing = run_study(_home(folder), part, say=say)
    if standing.left:
        say(f"{len(standing.left)} not started: {'; '.join(standing.left)}")
    if standing.failed:
        say(f"{len(standing.failed)} failed, the same command tries again what failed: {'; '.join(standing.failed)}")
        raise typer.Exit(1)
    if standing.left:
        say("the same command goes on")


@group.command("report")
def study_report(folder: Folder = Path()) -> None:
    """Give the verdict on each hypothesis and kill condition, then tables: results.json and report.html.

    Can be asked for at any time; what needs runs that are missing stays open.

    Example: thalweg study report studies/silicon
    """
    from thalweg.evaluation.summary import summarise_study
    from thalweg.reports import read_study, study_lines, write_study

    home = _home(folder)
    results = summarise_study(home)
    for line in study_lines(read_study(home)):
        say(line)
    say(f"wrote {results} and {write_study(home)}")


def _home(path: Path) -> Path:
    """Return the folder of a study that is given as itself or by its protocol."""
    return path.parent if path.is_file() else path


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _seed(word: str) -> int:
    if not word.isdecimal():
        raise SettingsError(f"--seeds has {word!r}: allowed are whole numbers with commas between, e.g. 0,1")
    return int(word)
