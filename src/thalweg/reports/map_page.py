"""The page of the regime map: the verdict, the four gauges, when the valleys are decided, how it was measured.

    map.json → map.html

Called by the command line.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from thalweg.evaluation.regime import RegimeMap
from thalweg.reports import formats
from thalweg.reports.map_figures import decisions, gauges
from thalweg.reports.map_lines import HEADINGS, coordinate_cells, told, verdict_sentences
from thalweg.reports.page import document, figure_block, section
from thalweg.storage import atomic_write


def write_map(found: RegimeMap, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write the page of a regime map, whole or not at all, and return its path.

    Raises:
        OutputError: it cannot be written, or is there and `overwrite` is False.
    """
    path = Path(path)
    atomic_write(path, render_map(found), overwrite=overwrite)
    return path


def render_map(found: RegimeMap) -> str:
    """Return the page of a regime map as one HTML document."""
    title = "The regime map"
    facts = (
        f"{len(found.decisions)} pairs · basins by {found.rule} · {found.steps} updates of "
        f"α = {found.alpha:.3g} Å²/eV · {formats.duration(found.seconds)}"
    )
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in verdict_sentences(found))
    blocks = [
        figure_block(
            gauges(found),
            "gauges",
            "Four coordinates",
            "Each number with its 95 % interval; shaded is the side of the limit that leaves headroom. An interval "
            "that straddles a limit leaves its coordinate open.",
            full_width=True,
        ),
        figure_block(
            decisions(found),
            "decisions",
            "When the valley is lost or decided",
            "With a reference: the first update at which a path that lands wrong has left the right basin. Without: "
            "the first from which a path keeps to the basin that it ends in. The dashed line is the suggested horizon.",
            full_width=True,
        ),
    ]
    content = "\n".join(blocks)
    parts = [f"<h1>{title}</h1>", f"<p class='facts'>{escape(facts)}</p>", f"<div class='verdict'>{said}</div>"]
    parts += [section("The map", f"<div class='grid'>\n{content}\n</div>"), section("As numbers", _table(found))]
    parts.append(section("How it was measured", _measured(found)))
    parts.append("<footer>Written by thalweg. Figures are drawn by plotly.js (MIT licence), inside this file.</footer>")
    return document(title, "\n".join(parts))


def _table(found: RegimeMap) -> str:
    head = "".join(f"<th scope='col'>{escape(heading)}</th>" for heading in HEADINGS)
    rows = []
    for coordinate in found.coordinates:
        name, *cells = coordinate_cells(coordinate)
        data = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        rows.append(f"<tr><th scope='row'>{escape(name)}</th>{data}</tr>")
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody></table></div>"


def _measured(found: RegimeMap) -> str:
    entries = [
        f"<li><b>{escape(c.name)}</b>: {escape(told(c))}. Limit: {escape(c.reason)}.</li>" for c in found.coordinates
    ]
    return f"<ul>{''.join(entries)}</ul>"
