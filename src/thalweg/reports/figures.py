"""The figures of a comparison as plotly figures: outcome (basins, ΔQ), cost (memory, time) and training.

Each function takes a run and returns a figure, or None where nothing of it was measured. A missing number is
left out, never drawn as 0. Nothing is drawn here twice: colours, axes and type come from `style`, the wording
of numbers from `formats`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from thalweg.reports import formats, style
from thalweg.reports.run import Arm, DialPoint, Run
from thalweg.reports.sentences import BASE

if TYPE_CHECKING:
    import plotly.graph_objects as go

DELTA_Q = "ΔQ (amu<sup>½</sup> Å)"
WINDOW = 9
"""Updates in the running median of the training curves."""


def _figure() -> go.Figure:
    import plotly.graph_objects as go

    return go.Figure()


def _colours(run: Run) -> dict[str, str]:
    return style.arm_colours([arm.name for arm in run.results.arms])


def _marker(run: Run, arm: Arm, size: int = 10) -> dict[str, Any]:
    symbols = style.arm_markers([a.name for a in run.results.arms])
    return {"color": _colours(run)[arm.name], "symbol": symbols[arm.name], "size": size}


def _bars(arm: Arm) -> dict[str, Any]:
    """Return the interval of an arm as plotly's error bars, percent; invisible where there is none."""
    if arm.basins_interval is None or arm.share is None:
        return {"visible": False}
    low, high = arm.basins_interval
    return {
        "type": "data",
        "symmetric": False,
        "array": [100 * max(high - arm.share, 0.0)],
        "arrayminus": [100 * max(arm.share - low, 0.0)],
        "thickness": 2,
        "width": 5,
    }


def basins(run: Run) -> go.Figure | None:
    """Draw the share of right basins of each arm with its interval."""
    arms = [arm for arm in run.results.arms if arm.share is not None]
    if not arms:
        return None
    figure = _figure()
    for arm in arms:
        figure.add_scatter(
            x=[100 * (arm.share or 0.0)],
            y=[style.label(arm.name)],
            error_x=_bars(arm),
            mode="markers+text",
            text=[formats.fraction(arm.basins_right, arm.basins_total)],
            textposition="top center",
            cliponaxis=False,
            marker=_marker(run, arm, 11),
            hovertemplate="%{y}: %{x:.0f} %<extra></extra>",
        )
    figure.update_xaxes(style.axis("right basins (%)") | {"range": [0, 100], "dtick": 20})
    figure.update_yaxes(style.axis(None) | {"autorange": "reversed", "showgrid": False, "ticks": ""})
    return style.finish(figure, legend=False, height=110 + 56 * len(arms))


def thresholds(run: Run) -> go.Figure | None:
    """Draw the share of right basins against the threshold on the largest matched displacement."""
    figure = _figure()
    for arm in run.results.arms:
        total = arm.basins_total
        counts = sorted((float(t), n) for t, n in (arm.basins_by_threshold or {}).items() if n is not None)
        if not counts or not total:
            continue
        figure.add_scatter(
            x=[t for t, _ in counts],
            y=[100 * n / total for _, n in counts],
            name=style.label(arm.name),
            mode="lines+markers",
            line={"color": _colours(run)[arm.name], "width": 2},
            marker=_marker(run, arm, 8),
            hovertemplate="within %{x} Å: %{y:.0f} %",
        )
    if not figure.data:
        return None
    figure.update_xaxes(style.axis("threshold on the largest displacement (Å)"))
    figure.update_yaxes(style.axis("structures within it (%)") | {"range": [0, 100], "dtick": 20})
    return style.finish(figure)


def displacement(run: Run) -> go.Figure | None:
    """Draw the distribution of ΔQ over the held-out pairs: every pair a point, quartiles and median a box."""
    figure = _figure()
    for arm in run.results.arms:
        values = [(k, q) for k, q in enumerate(arm.dq or ()) if q is not None]
        if not values:
            continue
        colour = _colours(run)[arm.name]
        figure.add_box(
            y=[q for _, q in values],
            name=style.label(arm.name),
            boxpoints="all",
            jitter=0.5,
            pointpos=0,
            marker={**_marker(run, arm, 5), "opacity": 0.6},
            line={"color": colour, "width": 2},
            fillcolor=style.translucent(colour, 0.12),
            text=[_name(run, arm, k) for k, _ in values],
            hovertemplate="%{text}: %{y:.2f}<extra></extra>",
        )
    if not figure.data:
        return None
    figure.update_xaxes(style.axis(None) | {"showgrid": False, "ticks": ""})
    figure.update_yaxes(style.axis(DELTA_Q) | {"rangemode": "tozero"})
    return style.finish(figure, legend=False)


def improvement(run: Run) -> go.Figure | None:
    """Draw, for each tuned arm, by how much each held-out pair is closer to its minimum than with the base."""
    base = next((arm for arm in run.results.arms if arm.name == BASE), None)
    if base is None or base.dq is None:
        return None
    figure = _figure()
    for arm in run.results.arms:
        if arm is base or arm.dq is None or len(arm.dq) != len(base.dq):
            continue
        pairs = enumerate(zip(arm.dq, base.dq, strict=True))
        gains = sorted(((b - a, k) for k, (a, b) in pairs if a is not None and b is not None), reverse=True)
        if not gains:
            continue
        figure.add_scatter(
            x=[100 * (rank + 0.5) / len(gains) for rank in range(len(gains))],
            y=[gain for gain, _ in gains],
            name=style.label(arm.name) + _improved(arm),
            mode="lines+markers",
            line={"color": _colours(run)[arm.name], "width": 1.5},
            marker=_marker(run, arm, 6),
            text=[_name(run, arm, k) for _, k in gains],
            hovertemplate="%{text}: %{y:+.2f}",
        )
    if not figure.data:
        return None
    figure.add_hline(y=0, line={"color": "rgba(128,140,145,0.9)", "width": 1.5})
    figure.update_xaxes(style.axis("held-out pairs, most improved first (%)") | {"range": [0, 100], "dtick": 25})
    figure.update_yaxes(style.axis("ΔQ of base − ΔQ of arm (amu<sup>½</sup> Å)"))
    return style.finish(figure)


def _improved(arm: Arm) -> str:
    return "" if arm.improved_share is None else f" ({formats.percent(arm.improved_share)} % improved)"


def _name(run: Run, arm: Arm, index: int) -> str:
    names = run.ids.get(arm.name)
    return style.label(names[index]) if names else f"pair {index + 1}"


def memory_against_basins(run: Run) -> go.Figure | None:
    """Draw the share of right basins against the bytes kept for backward; the base is a line across."""
    figure = _frontier(run, lambda arm: None if arm.share is None else 100 * arm.share, bars=True)
    if figure is not None:
        figure.update_yaxes(style.axis("right basins (%)") | {"range": [0, 100], "dtick": 20})
    return figure


def memory_against_displacement(run: Run) -> go.Figure | None:
    """Draw the mean distance from the minimum against the bytes kept for backward; the base is a line across."""
    figure = _frontier(run, lambda arm: arm.dq_mean, bars=False)
    if figure is not None:
        figure.update_yaxes(style.axis("mean ΔQ (amu<sup>½</sup> Å)") | {"rangemode": "tozero"})
    return figure


def _frontier(run: Run, height: Callable[[Arm], float | None], *, bars: bool) -> go.Figure | None:
    arms = [(arm, y) for arm in run.results.arms if arm.saved_bytes and (y := height(arm)) is not None]
    if not arms:
        return None
    figure = _figure()
    for arm, y in arms:
        figure.add_scatter(
            x=[(arm.saved_bytes or 0.0) / 1e6],
            y=[y],
            error_y=_bars(arm) if bars else None,
            name=style.label(arm.name),
            mode="markers",
            marker=_marker(run, arm, 12),
            hovertemplate="%{x:,.1f} MB, %{y:.0f} %" if bars else "%{x:,.1f} MB, %{y:.2f}",
        )
    base = next((arm for arm in run.results.arms if arm.name == BASE), None)
    level = None if base is None else height(base)
    if level is not None:
        figure.add_hline(
            y=level,
            line={"color": _colours(run)[BASE], "width": 1.5, "dash": "dash"},
            annotation={"text": "base", "font": {"size": 12}},
            annotation_position="bottom right",
        )
    figure.update_xaxes(style.log_axis("kept for backward (MB)", [(arm.saved_bytes or 0.0) / 1e6 for arm, _ in arms]))
    return style.finish(figure)


def cost_of(measured: Sequence[DialPoint]) -> go.Figure | None:
    """Draw seconds of a gradient against bytes kept for backward; a line joins the horizons of one route."""
    points = [p for p in measured if p.saved_bytes and p.seconds and _horizon(p) is not None]
    if not points:
        return None
    figure = _figure()
    for route, recompute in dict.fromkeys((p.route, p.recompute) for p in points):
        line = sorted(
            (p for p in points if (p.route, p.recompute) == (route, recompute)), key=lambda p: _horizon(p) or 0
        )
        colour, symbol = style.ROUTE_COLOURS.get(route, style.INK), style.ROUTE_MARKERS.get(route, "circle")
        kept = {True: ", recomputed", False: ", stored", None: ""}[recompute if route != "implicit" else None]
        figure.add_scatter(
            x=[(p.saved_bytes or 0.0) / 1e6 for p in line],
            y=[p.seconds for p in line],
            name=style.label(route) + kept,
            mode="lines+markers+text",
            line={"color": colour, "width": 2, "dash": "dot" if recompute else "solid"},
            marker={"color": colour, "size": 9, "symbol": f"{symbol}-open" if recompute else symbol},
            text=[f"{_horizon(p)}" if _horizon(p) else "" for p in line],
            textposition="top center",
            hovertemplate="%{x:,.1f} MB, %{y:.2f} s, K = %{text}",
        )
    figure.update_xaxes(style.log_axis("kept for backward (MB)", [(p.saved_bytes or 0.0) / 1e6 for p in points]))
    figure.update_yaxes(style.axis("one gradient (s)") | {"rangemode": "tozero"})
    return style.finish(figure, height=380)


def dial(run: Run) -> go.Figure | None:
    """Draw the memory dial: bytes kept for backward against the number of differentiated updates, as measured."""
    return dial_of(run.dial or ())


def dial_of(measured: Sequence[DialPoint]) -> go.Figure | None:
    """Draw the memory dial of measured points; see `dial`."""
    points = [p for p in measured if p.saved_bytes and _horizon(p) is not None]
    if not points:
        return None
    figure = _figure()
    for route in dict.fromkeys(p.route for p in points):
        for recompute in (False, True, None):
            line = [(_horizon(p) or 0, p) for p in points if p.route == route and p.recompute is recompute]
            if line:
                _add_dial_line(figure, route, recompute, sorted(line, key=lambda entry: entry[0]))
    furthest = max(_horizon(p) or 0 for p in points) or 1
    figure.update_xaxes(style.axis("differentiated updates") | {"range": [-0.02 * furthest, 1.03 * furthest]})
    figure.update_yaxes(style.log_axis("kept for backward (MB)", [(p.saved_bytes or 0.0) / 1e6 for p in points]))
    return style.finish(figure, height=380)


def _horizon(point: DialPoint) -> int | None:
    return 0 if point.horizon is None and point.route == "implicit" else point.horizon


def _add_dial_line(figure: go.Figure, route: str, recompute: bool | None, line: list[tuple[int, DialPoint]]) -> None:
    colour = style.ROUTE_COLOURS.get(route, style.INK)
    symbol = style.ROUTE_MARKERS.get(route, "circle")
    kept = {True: ", recomputed", False: ", stored", None: ""}[recompute if route != "implicit" else None]
    figure.add_scatter(
        x=[horizon for horizon, _ in line],
        y=[(point.saved_bytes or 0.0) / 1e6 for _, point in line],
        name=style.label(route) + kept,
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": "dot" if recompute else "solid"},
        marker={"color": colour, "size": 9, "symbol": f"{symbol}-open" if recompute else symbol},
        text=[formats.duration(point.seconds) for _, point in line],
        hovertemplate="%{x} updates: %{y:,.1f} MB, %{text}",
    )


def time(run: Run) -> go.Figure | None:
    """Draw the time each arm took."""
    arms = [arm for arm in run.results.arms if arm.seconds is not None]
    if not arms:
        return None
    longest = max(arm.seconds or 0.0 for arm in arms)
    unit, size = ("min", 60.0) if longest >= 600 else ("s", 1.0)
    figure = _figure()
    figure.add_bar(
        x=[(arm.seconds or 0.0) / size for arm in arms],
        y=[style.label(arm.name) for arm in arms],
        orientation="h",
        marker={"color": [_colours(run)[arm.name] for arm in arms]},
        text=[_time_label(arm) for arm in arms],
        textposition="auto",
        width=0.55,
        hovertemplate="%{y}: %{x:,.1f} " + unit + "<extra></extra>",
    )
    figure.update_xaxes(style.axis(f"time ({unit})") | {"rangemode": "tozero"})
    figure.update_yaxes(style.axis(None) | {"autorange": "reversed", "showgrid": False, "ticks": ""})
    return style.finish(figure, legend=False, height=110 + 44 * len(arms))


def _time_label(arm: Arm) -> str:
    each = f", {formats.number((arm.seconds or 0.0) / arm.updates, 1)} s an update" if arm.updates else ""
    return f"{formats.duration(arm.seconds)}{each}"


def loss(run: Run) -> go.Figure | None:
    """Draw the training loss of each arm: thin every update, thick the running median."""
    return _training(run, "loss", "training loss")


def gradient_norm(run: Run) -> go.Figure | None:
    """Draw the norm of the gradient of each arm: thin every update, thick the running median."""
    return _training(run, "gradient_norm", "gradient norm")


def _training(run: Run, field: str, title: str) -> go.Figure | None:
    figure = _figure()
    drawn: list[float] = []
    for arm in run.results.arms:
        updates = run.metrics.get(arm.name, ())
        values = [getattr(u, field) for u in updates]
        drawn += [v for v in values if v is not None]
        if not any(v is not None for v in values):
            continue
        colour, x = _colours(run)[arm.name], [u.update for u in updates]
        faint = {"color": style.translucent(colour, 0.35), "width": 1}
        figure.add_scatter(x=x, y=values, mode="lines", line=faint, showlegend=False, hoverinfo="skip")
        figure.add_scatter(
            x=x,
            y=_running_median(values),
            name=style.label(arm.name),
            mode="lines",
            line={"color": colour, "width": 2.2},
            hovertemplate="update %{x}: %{y:.3g}",
        )
    if not figure.data:
        return None
    figure.update_xaxes(style.axis("training update") | {"rangemode": "tozero"})
    positive = min(drawn) > 0
    figure.update_yaxes(style.log_axis(title, drawn) if positive else style.axis(title))
    return style.finish(figure)


def _running_median(values: list[float | None]) -> list[float | None]:
    """Return the median of up to WINDOW values around each; None where the value itself is missing."""
    half = WINDOW // 2
    result: list[float | None] = []
    for k, value in enumerate(values):
        near = [v for v in values[max(k - half, 0) : k + half + 1] if v is not None]
        result.append(None if value is None else median(near))
    return result
