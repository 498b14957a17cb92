"""The report of a comparison: one HTML file that opens anywhere, without a network and without an installation.

    run folder → what was asked, verdict, table, figures, relaxation to look at, certificates, how to run again

Everything from files is escaped. The page carries a content security policy that allows no connection and only
the programs written here, each by its hash, so that not even a hostile name in a file can load or run anything.
The same folder gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from thalweg.reports import figures, formats, sentences, structure_view, style
from thalweg.reports.run import Arm, Run, read_run
from thalweg.reports.table import html_table
from thalweg.storage import atomic_write

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Card:
    """One figure of the page."""

    section: str
    name: str
    """Its id in the page."""
    heading: str
    draw: Callable[[Run], go.Figure | None]
    caption: str
    full_width: bool = False


CARDS = (
    Card(
        "Outcome",
        "basins",
        "Right basins",
        figures.basins,
        "Share of held-out starts that ended in the right basin, with 95 % intervals.",
    ),
    Card(
        "Outcome",
        "thresholds",
        "How close",
        figures.thresholds,
        "Share of held-out structures whose largest matched displacement from the reference minimum is within "
        "the threshold. Unconverged structures stay in the denominator.",
    ),
    Card(
        "Outcome",
        "displacement",
        "Distance from the minimum",
        figures.displacement,
        "ΔQ of every held-out pair; the box holds the middle half, the line in it is the median.",
    ),
    Card(
        "Outcome",
        "improvement",
        "Improvement, structure by structure",
        figures.improvement,
        "Above zero a held-out pair ends closer to its minimum than with the untuned base. "
        "Where a curve crosses zero is the share that improved.",
    ),
    Card(
        "Memory and time",
        "dial",
        "The memory dial",
        figures.dial,
        "Bytes kept for backward, as measured, against the number of differentiated updates: with every activation "
        "stored (filled, solid) and with each update recomputed in backward (open, dotted). Implicit stands at 0.",
        full_width=True,
    ),
    Card(
        "Memory and time",
        "memory",
        "What the memory buys",
        figures.memory_against_basins,
        "Right basins against the bytes that one training update keeps for backward. The dashed line is the base.",
    ),
    Card("Memory and time", "time", "Time", figures.time, "Wall time of each arm."),
    Card("Training", "loss", "Loss", figures.loss, "Thin: every training update. Thick: running median of nine."),
    Card(
        "Training",
        "gradient",
        "Gradient norm",
        figures.gradient_norm,
        "Thin and thick as for the loss. A norm that grows by orders of magnitude is a potential that has become too "
        "stiff for its step size.",
    ),
)
"""The figures of the page in their order."""


def write_report(folder: str | Path) -> Path:
    """Write `report.html` into a run folder and return its path.

    The file is written whole or not at all and replaces an earlier one.

    Args:
        folder: the run folder; see docs/run-folder.md.

    Raises:
        RunFolderError: a file of the folder cannot be understood.
        OutputError: the report cannot be written.
    """
    run = read_run(folder)
    path = run.folder / "report.html"
    atomic_write(path, render(run), overwrite=True)
    return path


def render(run: Run) -> str:
    """Return the report of a run as one HTML document."""
    colours = style.arm_colours([arm.name for arm in run.results.arms])
    body = "\n".join(
        [
            _head(run),
            section("The arms", html_table(run.results, colours) + _table_note(run)),
            _figure_sections(run),
            section("A relaxation to look at", _example(run)),
            section("Certificates", _certificates(run)),
            section("How to run it again", _rerun(run)),
            section("Limits", _list(sentences.limits(run.results))),
            "<footer>Written by thalweg. Figures are drawn by plotly.js (MIT licence), structures by chemiscope "
            "(BSD 3-clause licence); both lie inside this file.</footer>",
        ]
    )
    return document(run.results.title, body, with_viewer=run.example is not None)


def document(title: str, body: str, *, with_viewer: bool = False) -> str:
    """Return a page that stands alone: style, programs and the policy that lets nothing else run.

    Args:
        title: plain text.
        body: HTML, with everything from files escaped.
        with_viewer: whether it holds a structure viewer.
    """
    scripts = _scripts(with_viewer=with_viewer)
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    programs = "\n".join(f"<script>{script}</script>" for script in scripts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_resource('page.css')}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n{programs}\n</body>\n</html>\n"
    )


def _head(run: Run) -> str:
    results = run.results
    machine = ", ".join(f"{key} {value}" for key, value in results.machine.items() if value is not None)
    took = None if results.seconds is None else f"{formats.duration(results.seconds)} in all"
    version = None if results.version is None else f"thalweg {results.version}"
    facts = " · ".join(escape(fact) for fact in (results.date, version, machine, took) if fact)
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences.verdict(results))
    settings = ""
    if run.settings_text is not None:
        settings = f"<details><summary>All settings</summary><pre>{escape(run.settings_text)}</pre></details>"
    return (
        f"<h1>{escape(results.title)}</h1>\n<p class='facts'>{facts}</p>\n"
        f"<div class='verdict'>{said}</div>\n<p>{escape(sentences.asked(results))}</p>\n{settings}"
    )


def section(heading: str, content: str) -> str:
    """Return a part of the page under a heading (plain text)."""
    return f"<section>\n<h2>{escape(heading)}</h2>\n{content}\n</section>"


def _table_note(run: Run) -> str:
    tests = sentences.paired_tests(run.results)
    opening = "" if tests is None else f"<p class='note'>{escape(tests)}</p>\n"
    return (
        f"{opening}<p class='note'>Saved: bytes kept for backward in one training update, counted exactly. Peak: the "
        "most that the device or the process held. MB is 10⁶ bytes. Unconverged: held-out relaxations that did not "
        "reach the force tolerance, of all. Took part: structures that contributed to the gradient, summed over "
        f"updates. {formats.MISSING} not measured.</p>"
    )


def _figure_sections(run: Run) -> str:
    parts = []
    for heading in dict.fromkeys(card.section for card in CARDS):
        cards = "\n".join(_figure(run, card) for card in CARDS if card.section == heading)
        parts.append(section(heading, f"<div class='grid'>\n{cards}\n</div>"))
    return "\n".join(parts)


def _figure(run: Run, card: Card) -> str:
    return figure_block(card.draw(run), card.name, card.heading, card.caption, full_width=card.full_width)


def figure_block(figure: go.Figure | None, name: str, heading: str, caption: str, *, full_width: bool = False) -> str:
    """Return a figure of the page with its heading and caption; one that could not be drawn says so.

    Args:
        figure: what to show; None if it was not measured.
        name: its id in the page.
        heading: plain text.
        caption: plain text.
        full_width: whether it takes the whole width.
    """
    kind = " class='full'" if full_width else ""
    opening = f"<figure{kind}>\n<h3>{escape(heading)}</h3>\n"
    if figure is None:
        return f"{opening}<p class='missing'>Not measured.</p>\n</figure>"
    data = structure_view.embedded_json(_plain(figure.to_plotly_json()))
    return (
        f"{opening}<div class='figure' data-figure='data-{name}' style='height:{figure.layout.height}px'></div>\n"
        f"<figcaption>{escape(caption)}</figcaption>\n"
        f"<script type='application/json' id='data-{name}'>{data}</script>\n</figure>"
    )


def _plain(value: object) -> object:
    """Return plotly's nested values as plain lists and dictionaries."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _example(run: Run) -> str:
    if run.example is None:
        return "<p class='missing'>Not measured: the run folder has no example.extxyz.</p>"
    frames = structure_view.read_example(run.example)
    info = frames[0].atoms.info
    told = [f"Structure {info['id']}" if "id" in info else "Structure without an id"]
    told += [f"arm {info['arm']}"] if "arm" in info else []
    return f"<div class='card'>\n{structure_view.viewer(frames, ', '.join(told))}\n</div>"


def _certificates(run: Run) -> str:
    arms = [arm for arm in run.results.arms if arm.certificates is not None]
    if not arms:
        return "<p class='missing'>Not measured.</p>"
    rows = "".join(_certificate_row(arm) for arm in arms)
    return (
        "<p>A certificate travels with each structure's share in a gradient. Structures that did not converge, or "
        "whose minimum turned out to be a saddle, take no part in the gradient at the minimum.</p>\n"
        "<div class='wide'><table><thead><tr><th scope='col'>arm</th><th scope='col'>took part</th>"
        "<th scope='col'>worst residual<small>relative</small></th>"
        "<th scope='col'>lowest curvature<small>eV/Å²</small></th>"
        "<th scope='col' class='words'>left out, by reason</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _certificate_row(arm: Arm) -> str:
    certificates = arm.certificates
    if certificates is None:
        return ""
    left_out = sorted(certificates.reasons.items(), key=lambda item: (-item[1], item[0]))
    reasons = ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in left_out) or "none"
    return (
        f"<tr><th scope='row'>{escape(arm.name)}</th>"
        f"<td>{formats.fraction(certificates.took_part, certificates.total)}</td>"
        f"<td>{formats.small(certificates.worst_residual)}</td><td>{formats.small(certificates.lowest_curvature)}</td>"
        f"<td class='words'>{escape(reasons)}</td></tr>"
    )


def _rerun(run: Run) -> str:
    if run.results.command is None:
        return "<p class='missing'>Not recorded.</p>"
    version = f" with version {run.results.version}" if run.results.version else ""
    return (
        f"<pre>{escape(run.results.command)}</pre>\n<p class='note'>The same settings{escape(version)} give the same "
        "random numbers; times and peaks depend on the machine.</p>"
    )


def _list(entries: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(entry)}</li>" for entry in entries) + "</ul>"


def _scripts(*, with_viewer: bool) -> list[str]:
    """Return the programs of the page in the order they run."""
    from plotly.offline import get_plotlyjs

    # chemiscope goes first: it holds a plotly of its own and, once loaded, takes away the style sheet that
    # any plotly loaded before it has set up, which leaves the figures without layout
    programs = [structure_view.bundle()] if with_viewer else []
    programs.append(get_plotlyjs())
    return [*map(structure_view.inline_script, programs), _resource("page.js")]


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def _resource(name: str) -> str:
    return files("thalweg.reports").joinpath(name).read_text(encoding="utf-8")
