import json

import pytest

from thalweg.reports import sentences
from thalweg.reports.run import Results, read_run


def results(*arms, **more) -> Results:
    """Results of arms given as (name, right of 40, interval, further fields)."""
    entries = []
    for name, right, interval, *fields in arms:
        route = None if name == "base" else {"kind": "split", "horizon": 20}
        entry = {"name": name, "route": route, "basins_right": right, "basins_total": 40, "basins_interval": interval}
        entries.append(entry | (fields[0] if fields else {}))
    return Results.model_validate_json(json.dumps({"arms": entries} | more))


BASE = ("base", 12, (0.18, 0.45))


def verdict(*arms) -> str:
    return " ".join(sentences.verdict(results(*arms)))


def test_a_clear_win_is_said_with_its_numbers(run_folder):
    found = sentences.verdict(read_run(run_folder).results)
    assert found == [
        "split-20 put 31 of 40 (78 %, interval 62–88 %) held-out starts into the right basin; "
        "the base, untuned, 12 of 40 (30 %, interval 18–45 %).",
        "The two intervals do not overlap. On the same starts the difference is unlikely to be chance "
        "(McNemar, p < 0.001).",
        "The next best arm is bptt with 26 of 40; their intervals overlap, so their order is open.",
        "split-20 kept 173 MB for backward, bptt 642 MB (3.7 times as much).",
    ]


def test_overlap_and_a_weak_paired_test_are_said():
    text = verdict(BASE, ("split", 15, (0.24, 0.53), {"mcnemar_p": 0.45}))
    assert "The two intervals overlap." in text
    assert "the difference may be chance (McNemar, p = 0.45)" in text
    assert "unlikely" not in text


def test_overlap_without_a_paired_test_claims_nothing():
    text = verdict(BASE, ("split", 15, (0.24, 0.53)))
    assert "The two intervals overlap. The difference may be chance: no paired test was made." in text


def test_a_missing_interval_leaves_it_open():
    assert "An interval is missing, so it is open how far chance reaches." in verdict(BASE, ("split", 31, None))


def test_a_loss_against_the_base_is_the_main_sentence():
    text = verdict(BASE, ("split", 9, (0.12, 0.38)), ("implicit", 5, (0.05, 0.26)))
    assert text.startswith("Tuning did not pay here: the best tuned arm, split, put 9 of 40")
    assert "fewer than the untuned base with 12 of 40" in text
    assert "split did worse than the base: 9 of 40 right, not 12." in text
    assert "implicit did worse than the base: 5 of 40 right, not 12." in text


def test_a_draw_with_the_base_is_no_win():
    text = verdict(BASE, ("split", 12, (0.18, 0.45)))
    assert text.startswith("Tuning did not pay here")
    assert "as many as the untuned base" in text


def test_one_worse_arm_is_named_beside_a_winner():
    text = verdict(BASE, ("split", 31, (0.62, 0.88)), ("implicit", 8, (0.1, 0.35)), ("other", 12, (0.18, 0.45)))
    assert "implicit did worse than the base: 8 of 40 right, not 12." in text
    assert "No better and no worse than the base: other." in text
    assert "split did worse" not in text


def test_level_arms_and_separate_arms_are_told_apart():
    assert "a and b are level." in verdict(BASE, ("a", 30, (0.6, 0.86)), ("b", 30, (0.6, 0.86)))
    text = verdict(BASE, ("a", 38, (0.84, 0.99)), ("b", 20, (0.35, 0.65)))
    assert "The next best arm is b with 20 of 40; their intervals do not overlap." in text


def test_without_counts_there_is_no_verdict():
    assert verdict(("split", None, None)) == (
        "Right basins were not measured for any tuned arm, so there is no verdict."
    )
    text = verdict(BASE, ("split", 31, None), ("bptt", None, None))
    assert "Right basins were not measured for bptt." in text
    assert "There is no base to compare with." in verdict(("split", 31, (0.62, 0.88)))


def test_unequal_numbers_of_structures_are_pointed_out():
    text = verdict(BASE, ("split", 31, None, {"basins_total": 60}))
    assert "not evaluated on the same number of structures" in text
    assert "same number" not in verdict(BASE, ("split", 31, None))


def test_the_most_costly_arm_is_said_to_be_so():
    text = verdict(BASE, ("a", 31, None, {"saved_bytes": 6e8}), ("b", 20, None, {"saved_bytes": 2e8}))
    assert "a kept 600 MB for backward, the most of all arms." in text
    assert "for backward" not in verdict(BASE, ("a", 31, None), ("b", 20, None, {"saved_bytes": 2e8}))


def test_what_was_asked_is_told_from_the_settings(run_folder):
    text = sentences.asked(read_run(run_folder).results)
    assert "the silicon testbed: 96 pairs for tuning, 40 pairs held out" in text
    assert "The minima fall into 7 distinct basins." in text
    assert "in 3 arms, 60 training updates each" in text
    assert "split-20 (the first 20 updates, all activations stored, then the implicit gradient at the minimum)" in text
    assert "by the rule “quench”" in text
    assert "batches of 8, learning rate 0.001, step size α = 0.05 Å²/eV" in text


def test_what_is_not_known_is_not_told():
    text = sentences.asked(results(("base", 1, None)))
    assert text == (
        "Pairs of a start and its reference minimum came from a testbed without a name: "
        "an unrecorded number of pairs for tuning, an unrecorded number of pairs held out."
    )


@pytest.mark.parametrize(
    ("route", "words"),
    [
        (None, "not tuned"),
        ({"kind": "implicit"}, "the implicit gradient at the minimum"),
        (
            {"kind": "unrolled", "horizon": None, "recompute": True},
            "every update differentiated, recomputed in backward",
        ),
        ({"kind": "unrolled", "horizon": 5}, "the first 5 updates alone"),
        ({"kind": "phantom", "updates": 5}, "5 updates differentiated at the minimum"),
        ({"kind": "new"}, "route new"),
    ],
)
def test_routes_are_told_in_words(route, words):
    assert sentences.route_in_words(route) == words


def test_the_limits_bound_the_share_by_the_number_of_pairs():
    few = sentences.limits(results(BASE, pairs={"held_out": 40}))
    assert "40 held-out pairs leave a share uncertain by up to ±15 points." in few
    assert not any("uncertain" in line for line in sentences.limits(results(BASE, pairs={"held_out": 400})))


def test_paired_tests_are_listed_for_the_arms_that_have_one(run_folder):
    text = sentences.paired_tests(read_run(run_folder).results)
    assert text == (
        "McNemar test of right basins against the base, p, not corrected for their number: "
        "implicit 0.45, bptt 0.001, split-20 < 0.001."
    )
    assert sentences.paired_tests(results(BASE)) is None
