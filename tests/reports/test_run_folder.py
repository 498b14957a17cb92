import json
import math

import pytest

from thalweg.errors import ThalwegError
from thalweg.reports.run import read_run


def test_everything_in_the_folder_is_read(run_folder):
    run = read_run(run_folder)
    assert [arm.name for arm in run.results.arms] == ["base", "implicit", "bptt", "split-20"]
    assert set(run.metrics) == {"implicit", "bptt", "split-20"}
    assert [update.update for update in run.metrics["bptt"]] == list(range(1, 61))
    assert run.metrics["bptt"][16].loss is None
    assert run.ids["base"][3] == "interstitial-003"
    assert len(run.dial) == 19
    assert run.example == run_folder / "example.extxyz"
    assert "learning_rate: 0.001" in run.settings_text


def test_only_results_json_must_be_there(run_folder, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "results.json").write_text('{"schema": 1, "arms": [{"name": "base"}]}')
    run = read_run(bare)
    assert (run.settings_text, run.metrics, run.ids, run.dial, run.example) == (None, {}, {}, None, None)
    arm = run.results.arms[0]
    assert (arm.share, arm.unconverged, arm.relaxed, arm.saved_bytes, arm.certificates) == (None,) * 5


def test_numbers_that_are_not_finite_are_missing(edited):
    def change(results):
        results["arms"][1].update(dq_mean=math.nan, saved_bytes=math.inf)
        results["arms"][1]["dq"][0] = math.nan

    arm = read_run(edited(change)).results.arms[1]
    assert (arm.dq_mean, arm.saved_bytes, arm.dq[0]) == (None, None, None)


def test_unconverged_counts_every_outcome_but_converged(run_folder):
    arms = {arm.name: arm for arm in read_run(run_folder).results.arms}
    assert (arms["bptt"].unconverged, arms["bptt"].relaxed) == (2, 40)
    assert (arms["base"].unconverged, arms["base"].relaxed) == (0, 40)


def test_ids_are_left_out_where_they_do_not_match_the_pairs(run_folder):
    path = run_folder / "arms" / "base" / "evaluation.json"
    path.write_text(json.dumps({"pairs": json.loads(path.read_text())["pairs"][:-1]}))
    assert set(read_run(run_folder).ids) == {"implicit", "bptt", "split-20"}


def test_a_last_line_cut_short_is_left_out_and_one_without_line_break_is_kept(run_folder):
    path = run_folder / "arms" / "bptt" / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"update": 61, "lo')
    assert len(read_run(run_folder).metrics["bptt"]) == 60
    path.write_text(whole.rstrip("\n"))
    assert len(read_run(run_folder).metrics["bptt"]) == 60


def test_a_broken_line_inside_is_refused(run_folder):
    path = run_folder / "arms" / "bptt" / "metrics.jsonl"
    path.write_text('{"update": 1}\n{"update"\n{"update": 3}\n')
    with pytest.raises(ThalwegError, match=r"metrics.jsonl: line 2 is not JSON"):
        read_run(run_folder)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda r: r.update(schema=2), "schema is 2, this version reads 1"),
        (lambda r: r.pop("schema"), "schema is None"),
        (lambda r: r.update(arms=[]), "arms: .*at least 1 item"),
        (lambda r: r["arms"][2].update(basins_right="31"), "arms.2.basins_right: should be a valid integer, not '31'"),
        (lambda r: r["arms"][2].update(basins_right=True), "arms.2.basins_right: .*integer, not True"),
        (lambda r: r["arms"][2].update(basins_right=-1), "arms.2.basins_right: .*greater than or equal to 0, not -1"),
        (lambda r: r["arms"][2].update(basins_right=41), "'bptt' has 41 right basins of only 40"),
        (lambda r: r["arms"][2].update(basins_interval=[0.7, 0.5]), "interval that ends before it begins"),
        (lambda r: r["arms"][2].update(basins_interval=[50, 78]), "basins_interval.0: .*less than or equal to 1"),
        (lambda r: r["arms"][2].update(basins_by_threshold={"near": 3}), "threshold 'near', not a number of Å"),
        (lambda r: r["arms"][2].update(dq=[1.0, "x"]), "arms.2.dq.1: should be a valid number, not 'x'"),
        (lambda r: r["arms"][2].update(mcnemar_p=1.5), "mcnemar_p: .*less than or equal to 1"),
        (lambda r: r["arms"][2].update(name="implicit"), "two arms are called 'implicit'"),
        (lambda r: r["arms"][2].update(name="../../secret"), "cannot hold / or"),
        (lambda r: r["arms"][2].update(name=".."), "cannot hold"),
        (lambda r: r["arms"][2].update(name=""), "arms.2.name: .*at least 1 character"),
    ],
)
def test_results_that_cannot_be_are_refused_in_one_line(edited, change, complaint):
    with pytest.raises(ThalwegError, match=complaint) as caught:
        read_run(edited(change))
    assert "results.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_results_and_a_file_that_is_not_json_are_refused(run_folder, tmp_path):
    with pytest.raises(ThalwegError, match=r"has no results.json: give the folder of a finished run"):
        read_run(tmp_path / "nowhere")
    (run_folder / "dial.json").write_text("[\n{,")
    with pytest.raises(ThalwegError, match=r"dial.json: line 2 is not JSON"):
        read_run(run_folder)
    (run_folder / "dial.json").write_text('[{"route": "split", "horizon": "twenty"}]')
    with pytest.raises(ThalwegError, match=r"dial.json: points.0.horizon: .*not 'twenty'"):
        read_run(run_folder)
    (run_folder / "dial.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ThalwegError, match=r"dial.json: cannot be read \(not UTF-8 text\)"):
        read_run(run_folder)
