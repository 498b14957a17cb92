"""The table of a comparison: one row per arm, the same on the console and in the report.

A cell holds exactly what results.json says, written by `formats`; what is null there is a dash here.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Literal

from thalweg.reports import formats
from thalweg.reports.run import Arm, Results

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = (
    ("arm", ""),
    ("right basins", "95 % interval"),
    ("ΔQ mean", "amu^½ Å"),
    ("ΔQ median", "amu^½ Å"),
    ("saved", "MB"),
    ("peak", "MB"),
    ("time", "s"),
    ("unconverged", ""),
    ("took part", ""),
)
"""Heading and unit of each column."""
_CONSOLE = (
    "arm",
    "right basins\n95 % interval",
    "ΔQ\nmean",
    "ΔQ\nmedian",
    "saved\nMB",
    "peak\nMB",
    "time\ns",
    "uncon-\nverged",
    "took\npart",
)  # narrower headings, so that the table fits 80 columns


def rows(results: Results) -> list[tuple[str, ...]]:
    """Return the cells of the table as text, one tuple per arm in the order of `COLUMNS`."""
    return [_row(arm) for arm in results.arms]


def _row(arm: Arm) -> tuple[str, ...]:
    certificates = arm.certificates
    return (
        arm.name,
        formats.right_basins(arm.basins_right, arm.basins_total, arm.basins_interval),
        formats.number(arm.dq_mean),
        formats.number(arm.dq_median),
        formats.megabytes(arm.saved_bytes),
        formats.megabytes(arm.peak_bytes),
        formats.seconds(arm.seconds),
        formats.fraction(arm.unconverged, arm.relaxed),
        formats.MISSING if certificates is None else formats.fraction(certificates.took_part, certificates.total),
    )


def print_table(results: Results, console: Console | None = None) -> None:
    """Print the table on a console; names are printed as they stand, never read as markup.

    Args:
        results: what to show.
        console: where to; standard output by default.
    """
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        pad_edge=False,
        title=Text(results.title),
        title_justify="left",
        title_style="bold",
        caption="ΔQ in amu^½ Å; saved: kept for backward; peak: of device or process",
        caption_justify="left",
    )
    for column, heading in enumerate(_CONSOLE):
        side: Literal["left", "right"] = "left" if column == 0 else "right"
        table.add_column(Text(heading), justify=side, vertical="bottom", no_wrap=True)
    for cells in rows(results):
        table.add_row(*(Text(cell) for cell in cells))
    console = console or Console()
    given, needed = console.width, Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    console.width = max(given, needed)  # a narrow console would cut numbers: rather let its lines run over the edge
    try:
        console.print(table, crop=False)
    finally:
        console.width = given


def html_table(results: Results, colours: dict[str, str]) -> str:
    """Return the table as HTML, each arm marked with its colour.

    Args:
        results: what to show.
        colours: CSS colour of each arm, by name.
    """
    head = "".join(
        f"<th scope='col'>{escape(heading)}" + (f"<small>{escape(unit)}</small>" if unit else "") + "</th>"
        for heading, unit in COLUMNS
    )
    body = ""
    for name, *cells in rows(results):
        mark = f"<i class='mark' style='background:{escape(colours[name])}'></i>"
        body += f"<tr><th scope='row'>{mark}{escape(name)}</th>"
        body += "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>\n"
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
