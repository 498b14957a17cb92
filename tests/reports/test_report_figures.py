import json

import pytest

from thalweg.reports import figures, style
from thalweg.reports.page import CARDS
from thalweg.reports.run import read_run

ARMS = ["base", "implicit", "bptt", "split-20"]
TUNED = ARMS[1:]


@pytest.mark.parametrize(
    ("draw", "names"),
    [
        (figures.thresholds, ARMS),
        (figures.displacement, ARMS),
        (figures.improvement, TUNED),
        (figures.memory_against_basins, TUNED),
        (figures.loss, TUNED),
        (figures.gradient_norm, TUNED),
    ],
)
def test_every_arm_is_drawn_once_and_in_its_own_colour(run_folder, draw, names):
    figure = draw(read_run(run_folder))
    shown = [trace for trace in figure.data if trace.showlegend is not False]
    assert [trace.name.split(" (")[0] for trace in shown] == names
    expected = style.arm_colours(ARMS)
    for trace, name in zip(shown, names, strict=True):
        assert (trace.line.color or trace.marker.color) == expected[name]


def test_basins_are_drawn_with_their_intervals(run_folder):
    figure = figures.basins(read_run(run_folder))
    split = figure.data[3]
    assert (split.y, split.x, split.text) == (("split-20",), (77.5,), ("31 / 40",))
    assert split.error_x.arrayminus[0] == pytest.approx(77.5 - 62.5)
    assert split.error_x.array[0] == pytest.approx(87.7 - 77.5)
    assert [trace.y[0] for trace in figure.data] == ARMS


def test_thresholds_are_shares_in_ascending_order(run_folder):
    split = figures.thresholds(read_run(run_folder)).data[3]
    assert split.x == (0.1, 0.2, 0.3, 0.4, 0.5)
    assert split.y == pytest.approx([65.0, 77.5, 80.0, 82.5, 87.5])


def test_improvement_is_the_paired_difference_and_leaves_out_undefined_pairs(run_folder):
    run = read_run(run_folder)
    base, bptt = run.results.arms[0].dq, run.results.arms[2].dq
    expected = sorted((b - a for a, b in zip(bptt, base, strict=True) if a is not None), reverse=True)
    trace = figures.improvement(run).data[1]
    assert len(trace.y) == 39
    assert list(trace.y) == pytest.approx(expected)
    assert trace.text[0].startswith("interstitial-")
    improved = sum(gain > 0 for gain in expected) / 39
    assert trace.name == f"bptt ({100 * improved:.0f} % improved)"


def test_missing_numbers_are_gaps_and_not_zeros(run_folder):
    run = read_run(run_folder)
    for trace in figures.loss(run).data:
        assert trace.y[16] is None
        assert all(y > 0 for y in trace.y if y is not None)
    assert len(figures.displacement(run).data[2].y) == 39


def test_the_dial_draws_what_was_measured(run_folder):
    figure = figures.dial(read_run(run_folder))
    lines = {trace.name: (trace.x, trace.y) for trace in figure.data}
    assert list(lines) == ["implicit", "split, stored", "split, recomputed", "unrolled, stored", "unrolled, recomputed"]
    assert lines["implicit"] == ((0,), (4.1,))
    assert lines["unrolled, stored"][0] == (5, 10, 20, 40, 75)
    assert lines["unrolled, stored"][1] == pytest.approx([8.4 * k for k in (5, 10, 20, 40, 75)])
    assert figure.layout.yaxis.type == "log"


def test_a_dial_point_without_horizon_or_size_is_left_out(run_folder):
    points = [
        {"route": "unrolled", "horizon": None, "recompute": False, "saved_bytes": 1e6},
        {"route": "split", "horizon": 5, "recompute": False, "saved_bytes": None},
    ]
    (run_folder / "dial.json").write_text(json.dumps(points))
    assert figures.dial(read_run(run_folder)) is None
    points.append({"route": "split", "horizon": 10, "recompute": True, "saved_bytes": 2e6, "seconds": None})
    (run_folder / "dial.json").write_text(json.dumps(points))
    (trace,) = figures.dial(read_run(run_folder)).data
    assert (trace.x, trace.y) == ((10,), (2.0,))


def test_time_is_drawn_for_arms_that_have_one(run_folder):
    (trace,) = figures.time(read_run(run_folder)).data
    assert list(trace.y) == TUNED
    assert list(trace.x) == pytest.approx([412 / 60, 655 / 60, 498 / 60])


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_without_numbers_there_is_no_figure(tmp_path, card):
    (tmp_path / "results.json").write_text('{"schema": 1, "arms": [{"name": "base"}, {"name": "split-20"}]}')
    assert card.draw(read_run(tmp_path)) is None


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_axis_with_numbers_names_its_quantity_and_a_figure_is_as_high_as_its_place(run_folder, card):
    figure = card.draw(read_run(run_folder))
    categories = {"basins": {"yaxis"}, "time": {"yaxis"}, "displacement": {"xaxis"}}.get(card.name, set())
    for name in {"xaxis", "yaxis"} - categories:
        assert figure.layout[name].title.text
    assert figure.layout.height > 200


def test_colours_are_fixed_for_known_arms_and_apart_for_others():
    names = ["new", "split-20", "other", "base"]
    colours = style.arm_colours(names)
    assert colours["split-20"] == style.arm_colours(ARMS)["split-20"]
    assert len(set(colours.values())) == 4
    many = style.arm_colours([f"arm {k}" for k in range(20)])
    assert len(many) == 20


def test_logarithmic_axes_label_steps_in_full():
    axis = style.log_axis("size (MB)", [4.1, 642.0])
    assert axis["ticktext"] == ["5", "10", "20", "50", "100", "200", "500", "1,000"]
    assert axis["range"][0] < 0.6128 < 2.8075 < axis["range"][1]
    assert style.log_axis("x", [1e-6, 1e6])["ticktext"][0] == "1e-07"
    assert all(style.log_axis("x", [1.07**k])["ticktext"] for k in range(40))
