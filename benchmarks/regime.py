"""Does the regime map tell beforehand? Its suggested K beside the measured dial, and a base where it says no.

    python benchmarks/regime.py OUT [--pairs 60] [--strong 200]

For each seed of studies/silicon the base is fitted again and mapped on training pairs; the suggested K is held against
right basins at K = 10, 15, 20 and 30 on the study's held-out pairs, read from its records. Then the reference's own
form, its parameters moved and fitted again to the same frames, is mapped on a fresh draw (seed 9) and tuned as well.
One thread. What is finished is not done again. Prints two tables and writes benchmarks/results/regime.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from thalweg.evaluation.arms import Arm, Contest, run_arm
from thalweg.evaluation.protocol import Protocol
from thalweg.evaluation.regime import MapSettings, RegimeMap, measure_map
from thalweg.evaluation.registration import checked
from thalweg.evaluation.study_folder import StudyFolder
from thalweg.gradients import Split
from thalweg.potentials.files import load_potential, save_potential
from thalweg.structures.extended_xyz import read_frames, read_pairs, write_frames, write_pairs
from thalweg.testbeds import TESTBEDS
from thalweg.testbeds.testbed import Testbed
from thalweg.training.force_matching import train
from thalweg.training.settings import RelaxationSettings, TrainSettings

STUDY = Path(__file__).parent.parent / "studies" / "silicon"
RESULTS = Path(__file__).parent / "results" / "regime.json"
DIAL = (10, 15, 20, 30)
MOVED = {"epsilon": 2.4, "sigma": 2.0951, "a": 1.8, "lambda_": 17.0, "gamma": 1.0, "cos_theta0": -0.4}
MOVED |= {"A": 6.5, "B": 0.66, "p": 4, "q": 0}  # published: 2.1683, 2.0951, 1.8, 21, 1.2, -1/3, 7.05, 0.602, 4, 0
TOLD = MapSettings(relaxation=RelaxationSettings(alpha=0.03, max_steps=300))
STRONG_SEED = 9


def mapped(path: Path, base: Path, pairs: Path, testbed: Testbed, count: int) -> RegimeMap:
    """Return the map of a base, measured once."""
    if not path.exists():
        found = measure_map(
            load_potential(base), read_pairs(pairs), TOLD, reference=testbed.reference(), count=count, say=print
        )
        path.write_text(json.dumps(found.record(), indent=1))
    return RegimeMap.from_record(json.loads(path.read_text()))


def right_of(arm: str, seed: int) -> int:
    """Return the right basins of a run of the study, from its record."""
    return int(json.loads(StudyFolder(STUDY).record(seed, arm).read_text())["evaluation"]["basins_right"])


def told(found: RegimeMap) -> dict[str, Any]:
    """Return the figures of a map that the tables show."""
    return {
        "headroom": found.headroom.value,
        "off": list(found.off),
        "coordinates": {c.name: c.record()["figure"] for c in found.coordinates},
        "suggested": None if found.suggestion is None else found.suggestion.horizon,
    }


def against_dial(out: Path, protocol: Protocol, testbed: Testbed, count: int) -> list[dict[str, Any]]:
    """Map the base of every seed and hold its K against the dial."""
    rows = []
    for seed in protocol.seeds:
        base = out / f"base-{seed}"
        train(protocol.base_of(seed).model_copy(update={"out": base}), read_frames(out / "frames.extxyz"))
        found = mapped(out / f"map-{seed}.json", base / "model.safetensors", out / "pairs.extxyz", testbed, count)
        dial = {k: right_of(f"split-{k}", seed) for k in DIAL}
        row = {"seed": seed, "right_before": right_of("base", seed), **told(found), "dial": dial}
        row["among_best_two"] = among_best_two(row["suggested"], dial)
        rows.append(row)
        print(row, flush=True)
    return rows


def among_best_two(suggested: int | None, dial: dict[int, int]) -> bool | None:
    """Return whether the measured K nearest to the suggested one (of two the larger) is at least second, ties in."""
    if suggested is None:
        return None
    nearest = min(dial, key=lambda k: (abs(k - suggested), -k))
    return dial[nearest] >= sorted(dial.values())[-2]


def strong(out: Path, protocol: Protocol, testbed: Testbed, count: int) -> dict[str, Any]:
    """Map the reference's own form, fitted again, and tune it all the same."""
    held_out = out / "strong-pairs.extxyz"
    if not held_out.exists():
        write_pairs(held_out, testbed.make(count, STRONG_SEED))
    told_base = TrainSettings.model_validate(
        {
            "potential": {"kind": "stillinger-weber", "entries": [{"elements": ["Si", "Si", "Si"], **MOVED}]},
            "optimiser": {"updates": 1500, "learning_rate": 1e-2, "warmup": 50},
            "out": out / "strong",
        }
    )
    train(told_base, read_frames(out / "frames.extxyz"))
    base = out / "strong" / "model.safetensors"
    found = mapped(out / "map-strong.json", base, held_out, testbed, count)
    if not (out / "reference.safetensors").exists():
        save_potential(out / "reference.safetensors", testbed.reference())
    contest = Contest(
        folder=out / "strong-arms",
        base=base,
        pairs=out / "pairs.extxyz",
        held_out=held_out,
        tune=protocol.tune,
        rule="quench",
        reference=out / "reference.safetensors",
    )
    before, after = run_arm(contest, Arm("base", None)), run_arm(contest, Arm("split-20", Split(horizon=20)))
    return {
        **told(found),
        "of": count,
        "right_before": before["evaluation"]["basins_right"],
        "right_after": after["evaluation"]["basins_right"],
        "against_base": after["evaluation"]["against_base"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="the regime map beside the measured dial")
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--strong", type=int, default=200)
    asked = parser.parse_args()
    protocol = checked(STUDY).protocol
    testbed = TESTBEDS[protocol.data.testbed].from_settings(dict(protocol.data.settings))
    asked.out.mkdir(parents=True, exist_ok=True)
    if not (asked.out / "pairs.extxyz").exists():  # the streams of the study: see evaluation.data
        write_frames(asked.out / "frames.extxyz", testbed.frames(protocol.data.frames, 10 * protocol.data.seed))
        write_pairs(asked.out / "pairs.extxyz", testbed.make(protocol.data.pairs, 10 * protocol.data.seed + 2))
    rows = against_dial(asked.out, protocol, testbed, asked.pairs)
    no = strong(asked.out, protocol, testbed, asked.strong)
    RESULTS.write_text(json.dumps({"pairs": asked.pairs, "dial": rows, "strong": no}, indent=1) + "\n")
    print("seed  headroom  K suggested  right at K = " + ", ".join(map(str, DIAL)) + "  among the best two")
    for row in rows:
        dial = ", ".join(str(v) for v in row["dial"].values())
        print(f"{row['seed']:4}  {row['headroom']:8}  {row['suggested']!s:>11}  {dial:>28}  {row['among_best_two']}")
    print(
        f"strong base: headroom {no['headroom']}; right of {no['of']}: {no['right_before']} before tuning, "
        f"{no['right_after']} after"
    )


if __name__ == "__main__":
    main()
