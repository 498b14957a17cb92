"""`thalweg show` and `thalweg verify KIND`: a page from a model and structures, gradients of a kind without a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Inputs
from tests.cli.terminal import complaint, thalweg, untouched
from thalweg.evaluation.specimens import make_specimen
from thalweg.potentials.files import save_potential


def test_show_draws_a_transformer_by_layer_and_head(inputs: Inputs, tmp_path: Path) -> None:
    model, out = tmp_path / "model.safetensors", tmp_path / "attention.html"
    small = {"width": 16, "layers": 1, "heads": 2, "feed_forward": 8}
    save_potential(model, make_specimen("transformer", small).potential)
    command = ("show", model, inputs.pairs, "--out", out)
    done = thalweg(*command, "--index", 1, "--atom", 0)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"wrote {out}: 3 ways in which transformer sees ")
    assert "what atom 0 listens to" in out.read_text(encoding="utf-8")
    with untouched(tmp_path):
        complaint(thalweg(*command), "exists: choose another name or give --overwrite")
        complaint(thalweg(*command, "--overwrite", "--index", 99), "index is 99: there are ")
        complaint(thalweg(*command, "--overwrite", "--atom", 7), "atom is 7: structure ")


def test_verify_takes_a_kind_alone(tmp_path: Path) -> None:
    done = thalweg("verify", "fully_connected", "width=32", "--count", 1, "--steps", 2)
    assert (done.status, done.err) == (0, ""), done
    assert done.out.startswith("a fully_connected potential made for this, 1377 parameters\n")
    assert "\n9 of 9 passed: " in done.out
    assert "so the adjoint is solved by MINRES" in done.out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("pain",), "'pain' is neither a file nor a kind of potential; did you mean 'painn'"),
        (("nearest-frame",), "nearest-frame is a lookup: it has no parameters and no derivatives"),
        (("torch",), "torch stands for code of your own"),
        (("painn", "pairs.extxyz"), "pairs.extxyz was given with the kind painn"),
        (("stillinger-weber:Si", "channels=8"), "'channels=8' is a setting for a kind alone"),
    ],
)
def test_verify_refuses_other_words(words: tuple[str, ...], reason: str) -> None:
    complaint(thalweg("verify", *words), reason)
