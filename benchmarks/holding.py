"""How often does the reference itself find a minimum again when the start is moved a little?

    python benchmarks/holding.py [--count 60]

For each testbed, starts of one draw (seed 907) are moved by normal deviates of 0.01 to 0.1 Å and relaxed by the
reference along the testbed's path. What is not found again is chance, and bounds what any potential can be right on.
Beside it the share of starts that hold: found again from all of four copies moved by 0.03 Å, as `thalweg map` asks. One
thread. Prints a table and writes benchmarks/results/holding.json.
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from thalweg.evaluation.basins import basin_rule
from thalweg.evaluation.regime.holding import starts_that_hold
from thalweg.evaluation.statistics import wilson_interval
from thalweg.testbeds import TESTBEDS

RESULTS = Path(__file__).parent / "results" / "holding.json"
DEVIATIONS = (0.01, 0.03, 0.06, 0.1)
COPIES, HELD_AT = 4, 0.03
SEED = 907
STARTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "silicon, defects of studies/silicon": (
        "silicon",
        {"defects": {"interstitial": 0.8, "distortion": 0.1, "vacancy": 0.1}},
        "quench",
    ),
    "silicon, defects of studies/silicon-replay": (
        "silicon",
        {"defects": {"interstitial": 0.75, "distortion": 0.25}},
        "quench",
    ),
    "titanium": ("titanium", {}, "quench"),
    "oxide": ("oxide", {}, "quench"),
    "crystals of studies/crystals": (
        "crystals",
        {
            "clearance": 0.85,
            "volume": [0.95, 1.15],
            "random": 0.2,
            "rattle": 0.15,
            "strain": 0.04,
            "substitution": 0.1,
        },
        "crystal",
    ),
}


@dataclass(frozen=True)
class Row:
    """Starts of one draw."""

    starts: str
    count: int
    again: dict[float, int]
    """Found again from one moved copy, by deviation (Å)."""
    hold: int
    hold_interval: tuple[float, float]


def measure(name: str, kind: str, settings: dict[str, Any], rule: str, count: int) -> Row:
    """Return how many starts find their minimum again."""
    testbed = TESTBEDS[kind].from_settings(settings)
    pairs, reference, path = testbed.make(count, SEED), testbed.reference(), testbed.path()

    def found(deviation: float, copies: int) -> int:
        return sum(
            starts_that_hold(reference, pairs, path, basin_rule(rule), copies=copies, deviation=deviation, seed=SEED)
        )

    again = {deviation: found(deviation, 1) for deviation in DEVIATIONS}
    hold = found(HELD_AT, COPIES)
    return Row(name, count, again, hold, wilson_interval(hold, count))


def main() -> None:
    parser = argparse.ArgumentParser(description="how often the reference finds its minima again")
    parser.add_argument("--count", type=int, default=60)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'starts':44} of   " + "".join(f"{d:g} Å".rjust(8) for d in DEVIATIONS) + "    hold")
    rows = []
    for name, (kind, settings, rule) in STARTS.items():
        row = measure(name, kind, settings, rule, asked.count)
        rows.append(row)
        print(
            f"{name:44} {row.count:3}  " + "".join(f"{n:8}" for n in row.again.values()) + f"{row.hold:8}", flush=True
        )
    record = {
        "command": f"python benchmarks/holding.py --count {asked.count}",
        "machine": platform.machine(),
        "seed": SEED,
        "copies": COPIES,
        "deviation": HELD_AT,
        "rows": [asdict(row) for row in rows],
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
