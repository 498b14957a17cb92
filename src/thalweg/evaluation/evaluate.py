"""Evaluating a potential: relax the starts of pairs along the path, and judge where each ended.

The path is the one that training differentiates, the potential is evaluated in its own floating type and on
its own device, and the reference in float64. Pairs go through in chunks of a bounded number of atoms, so
memory does not grow with their number; records come in the order of the pairs whatever the chunks and
whichever finished first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from thalweg.errors import SettingsError
from thalweg.evaluation.basins import THRESHOLDS, BasinRule, Comparison, basin_rule, home
from thalweg.evaluation.pair_result import PairResult
from thalweg.evaluation.result import Evaluation
from thalweg.potentials.contract import Potential
from thalweg.relaxation.loop import Relaxation
from thalweg.relaxation.outcome import Outcome
from thalweg.relaxation.path import Path
from thalweg.structures.batch import Structures
from thalweg.structures.displacement import delta_q
from thalweg.structures.pairs import Pairs, refuse_duplicates, refuse_strained


def evaluate(
    potential: Potential,
    pairs: Pairs,
    path: Path,
    *,
    rule: BasinRule | str,
    reference: Potential | None = None,
    base: Evaluation | None = None,
    max_atoms: int = 4096,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Relax every start with the potential and count the right basins.

    Args:
        potential: what is evaluated; in its own floating type, in evaluation mode.
        pairs: starts and reference minima, with ids that occur once.
        path: how to relax.
        rule: how to tell whether two structures share a basin: 'quench', 'crystal', 'distance', or one with settings.
        reference: the surface the minima are of; 'quench' needs it.
        base: an evaluation of the base on the same pairs by the same rule.
        max_atoms: most atoms relaxed at once; a larger structure goes alone.
        progress: called with (pairs relaxed, pairs) as relaxations finish.

    Raises:
        SettingsError: no pairs, a rule that lacks its reference or cannot judge the path, or a base on other pairs
            or by another rule.
        StructureError: an id that occurs twice, or a pair whose two cells differ on a path that keeps the cell.
        PotentialError: an element that the potential or the reference does not know.
    """
    rule = basin_rule(rule)
    rule.check_path(path.coordinates.moves_cell)
    rule.check(reference, pairs.energy_minimum)
    _check(potential, pairs, reference, max_atoms)
    if not path.coordinates.moves_cell:
        refuse_strained(pairs)
    if base is not None:
        base.check_comparable(pairs.ids, rule.kind, rule.settings)
    device, dtype = home(potential, pairs.starts)
    calls = _Calls()
    results: list[PairResult] = []
    seconds = judging = 0.0
    for chunk in _chunks(pairs, max_atoms):
        began = time.perf_counter()
        report = _reporter(progress, len(results), len(chunk), len(pairs))
        ends = _relaxed(potential, chunk.starts.to(device, dtype), path, calls, report)
        relaxed = time.perf_counter()
        comparison = rule.compare(ends, chunk.minima, reference=reference, energy_minimum=chunk.energy_minimum)
        results += _results(ends, chunk.minima, comparison, rule.threshold)
        seconds += relaxed - began
        judging += time.perf_counter() - relaxed
        if progress is not None:
            progress(len(results), len(pairs))
    found = Evaluation(rule.kind, rule.settings, tuple(results), seconds, judging, calls.structures)
    return found if base is None else replace(found, against_base=found.improvement_over(base))


class _Calls:
    """Counts the structures a potential evaluates; a hook before its forward."""

    def __init__(self) -> None:
        self.structures = 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.structures += len(args[0] if args else kwargs["structures"])


def _relaxed(
    potential: Potential,
    starts: Structures,
    path: Path,
    calls: _Calls,
    report: Callable[[int, int], None] | None,
) -> Relaxation:
    """Walk the path in evaluation mode, counting calls; the potential is left as it was."""
    modes = {module: module.training for module in potential.modules()}
    hook = potential.register_forward_pre_hook(calls, with_kwargs=True)
    try:
        potential.eval()
        return path.run(potential, starts, progress=report)
    finally:
        hook.remove()
        for module, mode in modes.items():
            module.training = mode


def _results(ends: Relaxation, minima: Structures, comparison: Comparison, threshold: float) -> list[PairResult]:
    """Return the record of each pair of a chunk."""
    lost = (Outcome.EXPLODED, Outcome.TOO_CLOSE)
    resting = [k for k, outcome in enumerate(ends.outcomes) if outcome not in lost]
    dq: list[float | None] = [None] * len(minima)
    energy: list[float | None] = [None] * len(minima)
    if resting:
        ours, theirs = ends.structures.to("cpu", torch.float64), minima.to("cpu", torch.float64)
        values = delta_q(ours.select(resting), theirs.select(resting)).tolist()
        for k, value in zip(resting, values, strict=True):
            dq[k], energy[k] = _finite(value), _finite(float(ends.energy[k]))
    verdicts = comparison.verdicts(threshold)
    sweep = torch.stack([comparison.right(t) for t in THRESHOLDS], dim=1).tolist()
    steps, fmax = ends.steps.tolist(), ends.fmax.tolist()
    displacement, difference = comparison.displacement.tolist(), comparison.energy_difference.tolist()
    return [
        PairResult(
            id=minima.ids[k],
            verdict=verdicts[k].value,
            outcome=ends.outcomes[k].label,
            displacement=_finite(displacement[k]),
            energy_difference=_finite(difference[k]),
            dq=dq[k],
            energy=energy[k],
            steps=steps[k],
            fmax=_finite(fmax[k]),
            right_at=tuple(sweep[k]),
        )
        for k in range(len(minima))
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _chunks(pairs: Pairs, max_atoms: int) -> Iterator[Pairs]:
    """Yield consecutive pairs, as many as have at most `max_atoms` together and at least one."""
    chosen: list[int] = []
    atoms = 0
    for k, count in enumerate(pairs.starts.counts.tolist()):
        if chosen and atoms + count > max_atoms:
            yield pairs.select(chosen)
            chosen, atoms = [], 0
        chosen.append(k)
        atoms += count
    yield pairs.select(chosen)


def _reporter(
    progress: Callable[[int, int], None] | None, before: int, chunk: int, total: int
) -> Callable[[int, int], None] | None:
    """Return what turns (step, structures still moving) of a chunk into (pairs relaxed, pairs)."""
    if progress is None:
        return None
    return lambda _, moving: progress(before + chunk - moving, total)


def _check(potential: Potential, pairs: Pairs, reference: Potential | None, max_atoms: int) -> None:
    """Refuse before anything is run."""
    if len(pairs) == 0:
        raise SettingsError("there are no pairs to evaluate on: give at least one")
    if max_atoms < 1:
        raise SettingsError(f"max_atoms is {max_atoms}: allowed is 1 or more, e.g. 4096")
    refuse_duplicates(pairs.ids, "pair")
    potential.check(pairs.starts)
    if reference is not None:
        reference.check(pairs.minima)
