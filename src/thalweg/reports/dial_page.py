"""The page of the memory dial: what each horizon keeps and takes and, where it was tried, what that buys.

    dial.json, and plan.json and frontier.json where they are → dial.html, the same points as a table

Called by the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

from thalweg.errors import RunFolderError
from thalweg.reports import figures, formats, style
from thalweg.reports.page import document, figure_block, section
from thalweg.reports.run import DialPoint, Results, Run, read_dial, read_frontier, read_plan
from thalweg.reports.table import html_table
from thalweg.storage import atomic_write

HEADINGS = ("route", "updates", "backward", "saved MB", "seconds")
"""Columns of the table."""


@dataclass(frozen=True)
class DialRecord:
    """The folder of a dial, read."""

    folder: Path
    points: tuple[DialPoint, ...]
    plan: str | None
    """What was planned for a budget, in a line."""
    frontier: Results | None
    """What tuning by every horizon came to."""


def read_dial_folder(folder: str | Path) -> DialRecord:
    """Read the folder of a dial.

    Raises:
        RunFolderError: dial.json is missing, or a file is there that cannot be understood.
    """
    folder = Path(folder)
    points = read_dial(folder)
    if points is None:
        raise RunFolderError(f"{folder} has no dial.json: give the folder of a finished dial, e.g. runs/dial")
    return DialRecord(folder, points, read_plan(folder), read_frontier(folder))


def dial_lines(record: DialRecord) -> list[str]:
    """Return the measured points as lines of a table."""
    rows = [HEADINGS, *(_cells(point) for point in record.points)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADINGS))]
    lines = []
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        lines.append("  ".join([*left, *right]))
    return lines


def write_dial(record: DialRecord) -> Path:
    """Write `dial.html` into the folder, whole or not at all, and return its path.

    Raises:
        OutputError: it cannot be written.
    """
    title = "The memory dial"
    told = "" if record.plan is None else f"<div class='verdict'><p>{escape(record.plan)}</p></div>"
    cards = [
        figure_block(
            figures.dial_of(record.points),
            "dial",
            "Memory",
            "Bytes kept for backward, as measured, against the number of differentiated updates: with every graph "
            "stored (filled, solid) and with each update recomputed in backward (open, dotted). Implicit stands at 0.",
        ),
        figure_block(
            figures.cost_of(record.points),
            "cost",
            "Memory and time",
            "Wall seconds of one gradient against the bytes it keeps; numbers are differentiated updates.",
        ),
    ]
    parts = [f"<h1>{title}</h1>", told, section("Cost", f"<div class='grid'>\n{''.join(cards)}\n</div>")]
    parts += [section("As numbers", points_table(record.points)), *_frontier(record)]
    parts.append("<footer>Written by thalweg. Figures are drawn by plotly.js (MIT licence), inside this file.</footer>")
    path = record.folder / "dial.html"
    atomic_write(path, document(title, "\n".join(parts)), overwrite=True)
    return path


def _frontier(record: DialRecord) -> list[str]:
    """Return the section of what memory buys, where it was tried."""
    if record.frontier is None:
        return []
    results = record.frontier
    run = Run(record.folder, results, None, {}, {}, record.points, None)
    blocks = [
        figure_block(
            figures.memory_against_basins(run),
            "basins",
            "Right basins",
            "Share of held-out starts that ended in the right basin, with 95 % intervals, against the bytes that one "
            "training update keeps for backward. The dashed line is the base.",
        ),
        figure_block(
            figures.memory_against_displacement(run),
            "displacement",
            "Distance from the minimum",
            "Mean ΔQ of the held-out pairs against the same bytes.",
        ),
    ]
    colours = style.arm_colours([arm.name for arm in results.arms])
    content = f"<div class='grid'>\n{''.join(blocks)}\n</div>\n{html_table(results, colours)}"
    return [section("What the memory buys", content)]


def points_table(points: tuple[DialPoint, ...]) -> str:
    """Return measured points as an HTML table."""
    head = "".join(f"<th scope='col'>{escape(heading)}</th>" for heading in HEADINGS)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(point)) + "</tr>" for point in points
    )
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"


def _cells(point: DialPoint) -> tuple[str, ...]:
    implicit = point.route == "implicit"
    kept = {True: "recomputed", False: "stored", None: formats.MISSING}[None if implicit else point.recompute]
    horizon = formats.MISSING if not point.horizon else str(point.horizon)
    took = formats.MISSING if point.seconds is None else f"{point.seconds:.2f}"
    return style.label(point.route), horizon, kept, formats.megabytes(point.saved_bytes), took
