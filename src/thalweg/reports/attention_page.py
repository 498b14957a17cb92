"""The page of what a potential sees: the strongest edges in 3D, the table of all pairs, weight against distance.

    View → attention.html, one file, one choice of measure (layer and head, or the response of forces) for all three

Edges are drawn from an atom to the nearest image of the other; distances are minimum-image distances. In a cell
narrower than twice the range of a potential an edge stands for several images at once.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from thalweg.errors import RunFolderError
from thalweg.potentials.views import Measure, View
from thalweg.reports import style
from thalweg.reports.page import document, figure_block, section
from thalweg.storage import atomic_write

if TYPE_CHECKING:
    import plotly.graph_objects as go

EDGES_PER_ATOM = 3
"""Edges drawn, per atom, the strongest of all; of one atom all those above a twentieth of its strongest."""
BINS = 24
"""Bins of distance."""

Pairs = tuple[Int[np.ndarray, " edges"], Int[np.ndarray, " edges"]]


def write_view(seen: View, path: str | Path, *, atom: int | None = None, overwrite: bool = False) -> Path:
    """Write the page, whole or not at all, and return its path.

    Args:
        seen: what to show.
        path: the HTML file.
        atom: draw only what this atom listens to; None draws the strongest edges of all.
        overwrite: replace a file that is there.

    Raises:
        RunFolderError: no atom of that number.
        OutputError: it cannot be written, or is there and `overwrite` is False.
    """
    path = Path(path)
    atomic_write(path, render_view(seen, atom), overwrite=overwrite)
    return path


def render_view(seen: View, atom: int | None = None) -> str:
    """Return the page as one HTML document; see `write_view`."""
    count = len(seen.atoms)
    if atom is not None and not 0 <= atom < count:
        raise RunFolderError(f"atom is {atom}: structure {seen.id!r} has {count} atoms, allowed is 0 to {count - 1}")
    title = f"What a {seen.kind} potential sees"
    graph = "every atom listens to every other" if seen.reach is None else f"edges within {seen.reach:g} Å"
    whose = "strongest edges of all" if atom is None else f"what atom {atom} listens to"
    caption = (
        "Left: the strongest edges between atoms, to nearest images, the darker the stronger. Top right: all pairs; an "
        "atom (row) listens to another (column). Below it: mean weight against minimum-image distance, of two atoms."
    )
    facts = f"structure {seen.id} · {seen.atoms.get_chemical_formula()} · {count} atoms · {graph} · {whose}"
    block = figure_block(figure(seen, atom), "view", "Who listens to whom", caption, full_width=True)
    parts = [f"<h1>{escape(title)}</h1>", f"<p class='facts'>{escape(facts)}</p>"]
    parts += [section("The view", f"<div class='grid'>\n{block}\n</div>"), section("As numbers", _table(seen))]
    parts.append("<footer>Written by thalweg. Figures are drawn by plotly.js (MIT licence), inside this file.</footer>")
    return document(title, "\n".join(parts))


def displacements(seen: View) -> Float[np.ndarray, "atoms atoms 3"]:
    """Return x_j − x_i to the nearest image, Å."""
    from ase.geometry import get_distances

    x = seen.atoms.positions
    found, _ = get_distances(x, x, cell=seen.atoms.cell, pbc=seen.atoms.pbc)
    return np.asarray(found)


def edges(seen: View, measure: Measure, distance: Float[np.ndarray, "atoms atoms"], atom: int | None) -> Pairs:
    """Return which pairs are drawn, the strongest first: within reach, if the potential has a graph of its own."""
    weights = measure.weights.copy()
    np.fill_diagonal(weights, 0.0)
    if seen.reach is not None:
        weights[distance > seen.reach] = 0.0
    if atom is not None:
        kept = np.zeros_like(weights)
        kept[atom] = np.where(weights[atom] > 0.05 * weights[atom].max(), weights[atom], 0.0)
        weights = kept
    order = np.argsort(-weights, axis=None, kind="stable")
    order = order[: EDGES_PER_ATOM * len(weights)]
    order = order[weights.ravel()[order] > 0]
    centre, neighbour = np.unravel_index(order, weights.shape)
    return centre, neighbour


def mean_by_distance(
    weights: Float[np.ndarray, "atoms atoms"], distance: Float[np.ndarray, "atoms atoms"]
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
    """Return mean distance and mean weight of two different atoms, for every bin that holds a pair."""
    apart = ~np.eye(len(weights), dtype=bool)
    d, w = distance[apart], weights[apart]
    if not len(d):
        return np.empty(0), np.empty(0)
    bins = np.minimum((BINS * (d - d.min()) / max(np.ptp(d), 1e-12)).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    held = counts > 0
    return (
        np.bincount(bins, d, BINS)[held] / counts[held],
        np.bincount(bins, w, BINS)[held] / counts[held],
    )


def figure(seen: View, atom: int | None = None) -> go.Figure:
    """Draw structure, table and mean by distance of every measure; a menu chooses the one that shows."""
    from plotly.subplots import make_subplots

    vectors = displacements(seen)
    distance = np.linalg.norm(vectors, axis=2)
    drawn = make_subplots(
        rows=2,
        cols=2,
        column_widths=[0.58, 0.42],
        row_heights=[0.58, 0.42],
        specs=[[{"type": "scene", "rowspan": 2}, {"type": "xy"}], [None, {"type": "xy"}]],
        horizontal_spacing=0.09,
        vertical_spacing=0.14,
    )
    drawn.add_traces(_structure(seen, atom), rows=[1, 1], cols=[1, 1])
    for number, measure in enumerate(seen.measures):
        traces = _of_measure(seen, measure, vectors, distance, atom)
        for trace in traces:
            trace.visible = number == 0
        drawn.add_traces(traces, rows=[1, 1, 2], cols=[1, 2, 2])
    style.finish(drawn, height=760, legend=False)
    drawn.update_layout(scene=_scene(), margin={"t": 60}, updatemenus=[_menu(seen.measures)])
    drawn.update_yaxes(
        title="atom that listens", autorange="reversed", scaleanchor="x", constrain="domain", row=1, col=2
    )
    drawn.update_xaxes(title="atom listened to", constrain="domain", row=1, col=2)
    drawn.update_xaxes(style.axis("minimum-image distance (Å)"), row=2, col=2)
    drawn.update_yaxes(style.axis("mean weight") | {"rangemode": "tozero"}, row=2, col=2)
    return drawn


def _structure(seen: View, atom: int | None) -> list[go.Scatter3d]:
    """Return the atoms and the edges of the cell."""
    import plotly.graph_objects as go
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors

    x, numbers = seen.atoms.positions, seen.atoms.numbers
    colours = [f"rgb({','.join(str(round(255 * part)) for part in jmol_colors[z])})" for z in numbers]
    chosen = [6.0 if k == atom else 1.0 for k in range(len(x))]
    balls = go.Scatter3d(
        x=x[:, 0].round(4),
        y=x[:, 1].round(4),
        z=x[:, 2].round(4),
        mode="markers",
        text=[f"{symbol} {k}" for k, symbol in enumerate(seen.atoms.get_chemical_symbols())],
        hoverinfo="text",
        marker={
            "size": [8.0 * float(covalent_radii[z]) + c for z, c in zip(numbers, chosen, strict=True)],
            "color": colours,
            "line": {"color": style.INK, "width": 1},
        },
    )
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
    lines = [
        (corners[a], corners[b])
        for a in range(8)
        for b in range(a + 1, 8)
        if np.abs(corners[a] - corners[b]).sum() == 1 and seen.atoms.cell.rank == 3
    ]
    path = _segments(
        np.array([a for a, _ in lines]).reshape(-1, 3) @ seen.atoms.cell.array,
        np.array([b for _, b in lines]).reshape(-1, 3) @ seen.atoms.cell.array,
    )
    frame = go.Scatter3d(**path, mode="lines", hoverinfo="skip", line={"color": style.GRID, "width": 2})
    return [balls, frame]


def _segments(start: Float[np.ndarray, "n 3"], end: Float[np.ndarray, "n 3"]) -> dict[str, list[float | None]]:
    """Return coordinates of separate lines, a gap after each."""
    columns: dict[str, list[float | None]] = {"x": [], "y": [], "z": []}
    for a, b in zip(start.round(4).tolist(), end.round(4).tolist(), strict=True):
        for name, one, other in zip("xyz", a, b, strict=True):
            columns[name] += [one, other, None]
    return columns


def _of_measure(
    seen: View,
    measure: Measure,
    vectors: Float[np.ndarray, "atoms atoms 3"],
    distance: Float[np.ndarray, "atoms atoms"],
    atom: int | None,
) -> list[Any]:
    """Return the edges, the table and the mean by distance of one measure."""
    import plotly.graph_objects as go

    centre, neighbour = edges(seen, measure, distance, atom)
    start = seen.atoms.positions[centre]
    strength = measure.weights[centre, neighbour]
    said = [
        f"{i} listens to {j}: {w:.3g} {measure.unit} at {distance[i, j]:.2f} Å"
        for i, j, w in zip(centre, neighbour, strength, strict=True)
    ]
    lines = go.Scatter3d(
        **_segments(start, start + vectors[centre, neighbour]),
        mode="lines",
        text=[text for one in said for text in (one, one, "")],
        hoverinfo="text",
        line={
            "color": np.repeat(strength, 3).round(5).tolist(),
            "colorscale": "Blues",
            "cmin": 0.0,
            "cmax": float(strength.max()) if len(strength) else 1.0,
            "width": 5,
        },
    )
    title = f"share ({measure.name})" if measure.rows_sum_to_one else f"{measure.name} ({measure.unit})"
    table = go.Heatmap(
        z=measure.weights.round(5),
        colorscale="Blues",
        zmin=0.0,
        hovertemplate=f"%{{y}} listens to %{{x}}: %{{z:.3g}} {measure.unit}<extra></extra>",
        colorbar={
            "title": {"text": style.label(title), "side": "right"},
            "thickness": 10,
            "len": 0.56,
            "x": 1.0,
            "y": 0.73,
        },
    )
    d, w = mean_by_distance(measure.weights, distance)
    mean = go.Scatter(x=d.round(4), y=w, mode="lines+markers", line={"color": "#0072b2"}, hoverinfo="x+y")
    return [lines, table, mean]


def _menu(measures: tuple[Measure, ...]) -> dict[str, Any]:
    """Return the choice of a measure: two traces always show, three belong to each measure."""
    buttons = [
        {
            "label": measure.name,
            "method": "restyle",
            "args": ["visible", [True, True] + [n == number for n in range(len(measures)) for _ in range(3)]],
        }
        for number, measure in enumerate(measures)
    ]
    return {"buttons": buttons, "x": 0.0, "xanchor": "left", "y": 1.14, "yanchor": "top", "showactive": True}


def _scene() -> dict[str, Any]:
    hidden = {"visible": False}
    return {"xaxis": hidden, "yaxis": hidden, "zaxis": hidden, "aspectmode": "data"}


def _table(seen: View) -> str:
    """Return what each measure comes to: its range and how much an atom gives to itself and within reach of a bond."""
    head = "".join(
        f"<th scope='col'>{name}</th>"
        for name in ("measure", "largest, of two atoms", "mean, of an atom with itself", "sum of a row")
    )
    rows = []
    for measure in seen.measures:
        apart = measure.weights[~np.eye(len(measure.weights), dtype=bool)]
        largest = f"{apart.max():.3g} {measure.unit}" if len(apart) else "–"
        own, total = np.diag(measure.weights).mean(), measure.weights.sum(axis=1)
        said = f"{total.min():.6g} to {total.max():.6g}"
        cells = (largest, f"{own:.3g} {measure.unit}", said)
        data = "".join(f"<td>{escape(cell.strip())}</td>" for cell in cells)
        rows.append(f"<tr><th scope='row'>{escape(measure.name)}</th>{data}</tr>")
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody></table></div>"
