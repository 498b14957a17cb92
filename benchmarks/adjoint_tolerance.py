"""How exact the adjoint need be: the error of the parameters' gradient by tolerance, and by where relaxation stopped.

    python benchmarks/adjoint_tolerance.py [OUT.json]

16 silicon interstitials (65 atoms, float64), the demonstration's base and path, one structure at a time. With the
structure where fmax 0.005 eV/Å stopped it, the gradient of the robust loss by each tolerance is set beside that of a
solve to 1e-9: the error of the solve. That solve, where fmax 0.005, 1e-3, 1e-4 and 1e-6 stop, is set beside the same
at 1e-9 eV/Å: the error of stopping. Structures refused as saddles where they stopped are counted apart.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Literal

import torch
from engine import trained
from torch import Tensor

from thalweg.evaluation.demo import DemoSettings
from thalweg.gradients.adjoint import AdjointSettings, solve_adjoint
from thalweg.potentials.contract import Potential
from thalweg.relaxation.coordinates import Positions
from thalweg.structures.batch import Structures
from thalweg.structures.displacement import delta_q
from thalweg.testbeds import TESTBEDS
from thalweg.training.objective import robust

TOLERANCES: tuple[float | Literal["auto"], ...] = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5, "auto")
STOPS = (5e-3, 1e-3, 1e-4, 1e-6)
PAIRS = 16


@dataclass(frozen=True)
class Solve:
    """The parameters' gradient of one structure."""

    gradient: Tensor
    products: int
    reason: str | None

    def apart(self, other: Solve) -> float:
        """Return the relative distance from another."""
        return float((self.gradient - other.gradient).norm() / other.gradient.norm())


def solve(potential: Potential, at: Structures, minimum: Structures, tolerance: float | Literal["auto"]) -> Solve:
    """Return the gradient of the robust loss (δ = 3 amu^½ Å) of X*."""
    leaf = at.positions.clone().requires_grad_()
    (right,) = torch.autograd.grad(robust(delta_q(at.with_positions(leaf), minimum), 3.0).sum(), leaf)
    settings = AdjointSettings(tolerance=tolerance, limit=0.2, max_iterations=2000)
    if tolerance == "auto":
        settings = AdjointSettings(tolerance="auto")
    adjoint = solve_adjoint(potential, at, right, coordinates=Positions(), settings=settings)
    parameters = list(potential.parameters())
    shares = adjoint.parameter_gradient(parameters)
    flat = [torch.zeros_like(p) if g is None else g for g, p in zip(shares, parameters, strict=True)]
    return Solve(torch.cat([g.flatten() for g in flat]), int(adjoint.iterations[0]), adjoint.reasons[0])


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    potential = trained().double()
    pairs = TESTBEDS["silicon"]().make(PAIRS, 2)
    path = replace(DemoSettings().tune.relaxation.path(), max_steps=3000)
    stopped: dict[float, list[tuple[float, int, bool]]] = {fmax: [] for fmax in STOPS}
    solved: dict[str, list[tuple[float, float, int]]] = {f"{t}": [] for t in TOLERANCES}
    caught = {f"{t}": 0 for t in TOLERANCES}
    for k in range(PAIRS):
        pair = pairs.select([k])
        exact = solve(potential, replace(path, fmax=1e-9).run(potential, pair.starts).structures, pair.minima, 1e-10)
        for fmax in STOPS:
            relaxation = replace(path, fmax=fmax).run(potential, pair.starts)
            best = solve(potential, relaxation.structures, pair.minima, 1e-9)
            refused = best.reason is not None
            error = float("nan") if refused or exact.reason is not None else best.apart(exact)
            stopped[fmax].append((error, int(relaxation.steps[0]), refused))
            if fmax == STOPS[0] and exact.reason is None:
                for tolerance in TOLERANCES:
                    found = solve(potential, relaxation.structures, pair.minima, tolerance)
                    if refused:
                        caught[f"{tolerance}"] += found.reason == "saddle"
                    else:
                        solved[f"{tolerance}"].append((found.apart(best), error, found.products))
        print(f"{k + 1} of {PAIRS}", flush=True)
    record = {
        "machine": f"{platform.machine()}, torch {torch.__version__}, one thread",
        "command": "python benchmarks/adjoint_tolerance.py",
        "pairs": PAIRS,
        "stopping": {f"{fmax:g}": stops(found) for fmax, found in stopped.items()},
        "solving": {t: {**errors(found), "saddles_caught": caught[t]} for t, found in solved.items()},
    }
    print(json.dumps(record, indent=1))
    out = FilePath(sys.argv[1]) if len(sys.argv) > 1 else FilePath(__file__).parent / "results/adjoint_tolerance.json"
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def stops(found: list[tuple[float, int, bool]]) -> dict[str, float]:
    """Return what stopping there costs."""
    known = [error for error, _, refused in found if not refused and error == error]
    return {
        "gradient_error_median": statistics.median(known),
        "gradient_error_worst": max(known),
        "steps": statistics.mean(steps for _, steps, _ in found),
        "refused_as_saddle": sum(refused for *_, refused in found),
    }


def errors(found: list[tuple[float, float, int]]) -> dict[str, float]:
    """Return what a tolerance leaves in the gradient, alone and over the error of stopping."""
    return {
        "gradient_error_median": statistics.median(e for e, _, _ in found),
        "gradient_error_worst": max(e for e, _, _ in found),
        "worst_over_error_of_stopping": max(e / stop for e, stop, _ in found),
        "products": statistics.mean(p for *_, p in found),
    }


if __name__ == "__main__":
    main()
