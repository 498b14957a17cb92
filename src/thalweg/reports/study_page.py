"""The page of a study: verdicts, then tables and figures, as one HTML file that opens anywhere.

    results.json → report.html

The same folder gives the same bytes. Called by the command line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from thalweg.reports import figures, formats, style
from thalweg.reports import study as told
from thalweg.reports.dial_page import points_table
from thalweg.reports.page import document, figure_block, section
from thalweg.reports.run import Run
from thalweg.reports.study import StudyResults, read_study
from thalweg.storage import atomic_write

if TYPE_CHECKING:
    import plotly.graph_objects as go


def write_study(folder: str | Path) -> Path:
    """Write `report.html` into the folder of a study, whole or not at all, and return its path.

    Raises:
        RunFolderError: results.json is missing or cannot be understood.
        OutputError: the report cannot be written.
    """
    folder = Path(folder)
    path = folder / "report.html"
    atomic_write(path, render_study(folder, read_study(folder)), overwrite=True)
    return path


def render_study(folder: Path, results: StudyResults) -> str:
    """Return the report as one HTML document."""
    run = Run(folder, results, None, {}, {}, None, None)
    colours = style.arm_colours([arm.name for arm in results.arms])
    headings = [heading for heading, _ in told.columns(results)], [unit for _, unit in told.columns(results)]
    thresholds, sweep = told.sweep_rows(results)
    seeds, by_seed = told.seed_rows(results)
    costs, by_cost = told.cost_rows(results)
    marks = {**colours, told.REFERENCE: style.INK}
    parts = [
        _head(results),
        section("The arms", _table(headings[0], told.rows(results), colours, units=headings[1]) + _note()),
        section("Outcome", _grid(_outcome(run, results))),
        section("Memory and time", _grid(_memory(run, results)) + _probe(results)),
        section("Right structures by threshold", _table(["arm", *thresholds], sweep, colours)),
        section("Right structures by seed", _table(["arm", *seeds], by_seed, colours)),
        *([section("What tuning cost", _table(["arm", *costs], by_cost, marks) + _units())] if costs else []),
        section("What each arm does", _words(told.what_arms_are(results), colours)),
        section("How verdicts are made", _list(told.notes(results))),
        section("How to run it again", f"<pre>{escape(results.command or '')}</pre>"),
        "<footer>Written by thalweg. Figures are drawn by plotly.js (MIT licence), inside this file.</footer>",
    ]
    return document(results.title, "\n".join(parts))


def basins_by_seed(results: StudyResults) -> go.Figure | None:
    """Draw right structures of each arm: every seed a point, their mean with its standard error."""
    arms = [arm for arm in results.arms if arm.basins_right_mean is not None]
    if not arms:
        return None
    import plotly.graph_objects as go

    names = [arm.name for arm in results.arms]
    colours, markers = style.arm_colours(names), style.arm_markers(names)
    figure = go.Figure()
    for arm in arms:
        colour, label = colours[arm.name], style.label(arm.name)
        figure.add_scatter(
            x=list(arm.basins_right_by_seed.values()),
            y=[label] * len(arm.basins_right_by_seed),
            mode="markers",
            marker={"color": style.translucent(colour, 0.45), "size": 7},
            text=[f"seed {seed}" for seed in arm.basins_right_by_seed],
            hovertemplate="%{y}, %{text}: %{x}<extra></extra>",
        )
        figure.add_scatter(
            x=[arm.basins_right_mean],
            y=[label],
            error_x={"type": "data", "array": [arm.basins_right_se or 0.0], "thickness": 2, "width": 6},
            mode="markers",
            marker={"color": colour, "size": 12, "symbol": markers[arm.name]},
            hovertemplate="%{y}: %{x:.1f}<extra></extra>",
        )
    total = max(arm.held_out or 0 for arm in arms)
    figure.update_xaxes(style.axis(f"right structures of {total}") | {"range": [0, max(total, 1)]})
    figure.update_yaxes(style.axis(None) | {"autorange": "reversed", "showgrid": False, "ticks": ""})
    return style.finish(figure, legend=False, height=110 + 36 * len(arms))


def _head(results: StudyResults) -> str:
    registered, complete = results.registration, results.complete
    commit = f", commit {registered.code.commit}" if registered.code.commit else ""
    machine = ", ".join(f"{key} {value}" for key, value in results.machine.items() if value is not None)
    facts = [
        f"registered {registered.date} as {registered.hash} by thalweg {registered.code.version}{commit}",
        f"{complete.finished} of {complete.total} runs, {formats.duration(results.seconds)} in all",
        f"last run {results.date}",
        machine,
    ]
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in told.verdict_sentences(results))
    question = f"<p>{escape(results.question)}</p>\n" if results.question else ""
    settings = json.dumps(results.settings, indent=1, ensure_ascii=False)
    return (
        f"<h1>{escape(results.title)}</h1>\n<p class='facts'>{' · '.join(map(escape, facts))}</p>\n{question}"
        f"<div class='verdict'>{said}</div>\n"
        f"<details><summary>The protocol</summary><pre>{escape(settings)}</pre></details>"
    )


def _outcome(run: Run, results: StudyResults) -> list[str]:
    return [
        figure_block(
            basins_by_seed(results),
            "basins",
            "Right basins",
            "Held-out structures in the right basin: each seed a faint point, the mean with its standard error.",
        ),
        figure_block(
            figures.thresholds(run),
            "thresholds",
            "How close",
            "Share of held-out structures whose largest matched displacement from the reference minimum is within the "
            "threshold, over all seeds. Unconverged structures stay in the denominator.",
        ),
        figure_block(
            figures.displacement(run),
            "displacement",
            "Distance from the minimum",
            "ΔQ of every held-out structure, its mean over seeds; the box holds the middle half.",
        ),
        figure_block(
            figures.improvement(run),
            "improvement",
            "Improvement, structure by structure",
            "Above zero a structure ends closer to its minimum than with the base of the same seed, in the mean.",
        ),
    ]


def _memory(run: Run, results: StudyResults) -> list[str]:
    return [
        figure_block(
            figures.memory_against_basins(run),
            "memory",
            "What the memory buys",
            "Right basins, with the Wilson interval of so many structures, against the bytes that one training update "
            "keeps for backward. The dashed line is the base.",
        ),
        figure_block(figures.time(run), "time", "Time", "Wall time of training, mean over seeds."),
        figure_block(
            None if results.probe is None else figures.dial_of(results.probe.points),
            "dial",
            "Stored and recomputed",
            "Bytes kept for backward by one gradient, with every graph stored (filled, solid) and with each update "
            "recomputed (open, dotted), which gives the same weights. Implicit stands at 0.",
        ),
        figure_block(
            None if results.probe is None else figures.cost_of(results.probe.points),
            "cost",
            "Memory and time of a gradient",
            "Wall seconds against bytes; numbers are differentiated updates.",
        ),
    ]


def _probe(results: StudyResults) -> str:
    if results.probe is None:
        return "<p class='missing'>Stored and recomputed gradients were not measured.</p>"
    note = f"One gradient of {results.probe.structures} structures, base of the first seed. "
    note += " ".join(f"{line}." for line in results.probe.left_out)
    return f"<p class='note'>{escape(note)}</p>\n{points_table(results.probe.points)}"


def _grid(blocks: Sequence[str]) -> str:
    return f"<div class='grid'>\n{''.join(blocks)}\n</div>"


def _note() -> str:
    return (
        "<p class='note'>Right, ΔQ and time are means over seeds; saved and peak the largest of them. Saved is what "
        "backward keeps alive, counted exactly; peak is that of the process. Over base: structures more than the base "
        "of the same seed, with Student's interval over seeds. p: exact sign-flip test over structures, McNemar's with "
        "the seeds of a structure kept together. Extra labels: reference frames that the arm was fitted to and the "
        "base was not.</p>"
    )


def _units() -> str:
    return (
        "<p class='note'>Mean over seeds. Errors on labelled frames that nothing learnt from: energies in meV per "
        "atom, forces in meV/Å. The perfect crystal: lattice constant in Å, cohesive energy in eV per atom, elastic "
        "constants in GPa; the last row is the reference surface.</p>"
    )


def _table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    colours: dict[str, str],
    *,
    units: Sequence[str] | None = None,
) -> str:
    head = "".join(
        f"<th scope='col'>{escape(heading)}" + (f"<small>{escape(unit)}</small>" if unit else "") + "</th>"
        for heading, unit in zip(headings, units or [""] * len(headings), strict=True)
    )
    body = "".join(
        f"<tr>{_named(name, colours)}" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>\n"
        for name, *cells in rows
    )
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"


def _words(rows: Sequence[Sequence[str]], colours: dict[str, str]) -> str:
    body = "".join(
        f"<tr>{_named(name, colours)}" + "".join(f"<td class='words'>{escape(cell)}</td>" for cell in cells) + "</tr>\n"
        for name, *cells in rows
    )
    words = "".join(f"<th scope='col' class='words'>{heading}</th>" for heading in ("way", "told otherwise"))
    head = f"<th scope='col'>arm</th>{words}"
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"


def _named(name: str, colours: dict[str, str]) -> str:
    return f"<th scope='row'><i class='mark' style='background:{escape(colours[name])}'></i>{escape(name)}</th>"


def _list(entries: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(entry)}</li>" for entry in entries) + "</ul>"
