"""Answers as lines: every figure in them is the one that was found, and what is missing is said, not shown as 0."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from tests.training import problems

from thalweg.gradients.differences import Comparison
from thalweg.gradients.verification import Verdict
from thalweg.reports.lines import description_lines, evaluation_lines, verdict_lines
from thalweg.structures.describe import describe
from thalweg.structures.pairs import Pairs


def pairs(energies: list[float] | None) -> Pairs:
    """Return copies of one pair, with energies of their minima."""
    one = problems.pairs(1, 1)
    count = 1 if energies is None else len(energies)
    many = one.select([0] * count)
    names = tuple(f"p{k}" for k in range(count))
    known = None if energies is None else torch.tensor(energies, dtype=torch.float64)
    return replace(
        many,
        starts=replace(many.starts, ids=names),
        minima=replace(many.minima, ids=names),
        parents=names,
        energy_minimum=known,
    )


def test_a_single_pair_without_energy_is_told_in_the_singular() -> None:
    lines = description_lines(describe(pairs(None)))
    assert lines[:3] == [
        "1 pair of 1 parent",
        "energies known: 0 of 1 minima",
        "atoms per structure: 7; fixed atoms: none",
    ]
    assert lines[-1] == "       1 pair   energy unknown"
    assert not any("basins by energy" in line for line in lines)


def test_levels_are_told_with_their_populations_deepest_first() -> None:
    lines = description_lines(describe(pairs([-1.0, -2.0, -2.001, math.nan])))
    assert "energies known: 3 of 4 minima" in lines
    first = lines.index("  basins by energy (levels more than 0.01 eV apart):")
    assert lines[first + 1 : first + 3] == [
        "       2 pairs  -2.0005 eV (within 1.0 meV)",
        "       1 pair   -1.0000 eV",
    ]


def test_a_long_list_of_basins_is_cut_and_the_rest_counted() -> None:
    lines = description_lines(describe(pairs([-float(k) for k in range(15)])))
    assert lines[-1] == "    and 3 more with 3 pairs"
    assert sum("eV" in line and line.startswith("    ") and "pair" in line for line in lines) == 15 + 12


RECORD: dict[str, Any] = {
    "rule": "quench",
    "basins_right": 1,
    "basins_total": 4,
    "basins_interval": [0.046, 0.699],
    "basins_by_threshold": {"0.1": 0, "0.2": 1},
    "dq_mean": 2.345,
    "dq_median": 2.0,
    "dq_missing": 1,
    "outcomes": {"converged": 2, "out_of_steps": 1, "exploded": 1, "too_close": 0},
    "seconds": 12.34,
    "against_base": None,
}


def test_an_evaluation_tells_its_rule_its_sweep_and_every_outcome_that_happened() -> None:
    assert evaluation_lines(RECORD) == [
        "model: 1 of 4 in the right basin by the quench rule (95 % interval 5 to 70 %)",
        "  right by threshold: 0 at 0.1 Å, 1 at 0.2 Å",
        "  ΔQ to the minimum (amu^½ Å): mean 2.35, median 2.00, missing for 1",
        "  relaxations: 2 converged, 1 out of steps, 1 exploded; 12.3 s in all",
    ]


def test_an_evaluation_without_any_displacement_shows_none_and_no_zero() -> None:
    lines = evaluation_lines({**RECORD, "dq_mean": None, "dq_median": None, "dq_missing": 4})
    assert lines[2] == "  ΔQ to the minimum (amu^½ Å): mean –, median –, missing for 4"


def test_an_evaluation_beside_its_base_tells_gains_and_losses() -> None:
    gain = {"basins_gained": 2, "basins_lost": 1, "mcnemar_p": 1.0, "share_improved": 0.75}
    lines = evaluation_lines({**RECORD, "against_base": gain}, {**RECORD, "basins_right": 0})
    assert lines[0].startswith("base: 0 of 4 ")
    assert lines[4].startswith("model: 1 of 4 ")
    assert lines[-1] == ("model against base: 2 right basins gained, 1 lost (McNemar p = 1); ΔQ fell for 75 % of pairs")


def verdict(error: float, *, structures: int = 1, passed: bool = True, refused: tuple[str, ...] = ()) -> Verdict:
    comparison = Comparison(1.0, 1.0, error, (1e-3, 1e-4), passed)
    return Verdict("implicit", "equilibrium", structures, refused, (comparison,) if structures else (), 1e-9)


def test_verdicts_are_a_table_with_its_count_below() -> None:
    lines = verdict_lines([verdict(2e-11), verdict(3e-4, passed=False)])
    assert [line.split()[-1] for line in lines[1:3]] == ["passed", "FAILED"]
    assert ["2.0e-11" in lines[1], "3.0e-04" in lines[2]] == [True, True]
    assert lines[-2] == "asymmetry of the force Jacobian: 1.0e-09"
    assert lines[-1] == "1 of 2 passed: gradients against central differences in float64, bound 1e-6"


def test_a_verdict_that_could_not_be_reached_says_why_and_what_to_do() -> None:
    lines = verdict_lines(
        [verdict(math.nan, passed=False), verdict(0.0, structures=0, refused=("out of steps", "saddle"))]
    )
    assert "no plateau  FAILED" in lines[1]
    assert "none took part  FAILED (2 refused: out of steps, saddle)" in lines[2]
    assert any(line.startswith("no plateau: ") and "give starts nearer" in line for line in lines[3:])
    assert any(line.startswith("none took part: ") and "give other starts" in line for line in lines[3:])
    assert lines[-1].startswith("0 of 2 passed")
    sound = verdict_lines([verdict(1e-9)])
    assert not any("plateau" in line or "took part" in line for line in sound)
