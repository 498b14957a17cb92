"""ASE calculators on the command line: a reference where one is asked for, refused where something learns."""

from __future__ import annotations

from tests.cli.conftest import Inputs
from tests.cli.terminal import complaint, thalweg


def test_evaluate_takes_a_calculator_and_tune_refuses_it(inputs: Inputs) -> None:
    words = "ase:ase.calculators.lj:LennardJones?sigma=2.0&epsilon=1.0&rc=3.5&smooth=true"
    done = thalweg(
        *("evaluate", inputs.model, inputs.held_out, "alpha=0.01", "steps=2", "max_steps=30", "--rule", "quench"),
        *("--reference", words),
    )
    assert done.status == 0, done.err
    complaint(thalweg("tune", words, inputs.pairs), "reference only")
    complaint(thalweg("evaluate", words, inputs.held_out), "reference only")
