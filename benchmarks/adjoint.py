"""What the adjoint solve costs: products with the Hessian and CPU seconds, plain and preconditioned, in a tuning run.

    python benchmarks/adjoint.py [OUT.json]

Silicon interstitials in 65-atom cells, batch 8, a base force-matched as in the demonstration, two epochs of 32 pairs
with its schedule (Adam, 5 updates of warm-up to 1e-3, clipping at 1). At every update the system H λ = ∂L/∂X* of the
structures that take part is solved to the same true relative residual, 1e-4, by conjugate gradients, by MINRES and
by preconditioned MINRES, in turns. The product that fits the preconditioner is counted as one of its products, and
its assembly and factors are in its seconds. A second table says what the tolerance does to the gradient, in
the first two updates of the second epoch.
"""

from __future__ import annotations

import copy
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path as FilePath

import torch
from torch import Tensor

from thalweg.evaluation.demo import DemoSettings
from thalweg.gradients import AdjointSettings, Implicit, Route, Split
from thalweg.gradients.adjoint import ProjectedCurvature, null_modes, solve_adjoint
from thalweg.gradients.krylov import minres
from thalweg.potentials.contract import Potential
from thalweg.potentials.files import load_potential
from thalweg.relaxation.coordinates import Positions
from thalweg.relaxation.path import Path
from thalweg.relaxation.relaxer import dot
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Pairs
from thalweg.testbeds import TESTBEDS
from thalweg.training.force_matching import train
from thalweg.training.objective import objective

TOLERANCE, TARGET = 1e-4, 0.4
PAIRS, BATCH, EPOCHS, WARMUP, RATE = 32, 8, 2, 5, 1e-3
METHODS = ("conjugate gradients", "MINRES", "preconditioned MINRES")


@dataclass
class Tally:
    """Sums over the solves of one method in one epoch."""

    products: float = 0.0
    structures: int = 0
    seconds: float = 0.0
    worst: float = 0.0


def conjugate_gradients(operator: ProjectedCurvature, right: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Return solution and products of each structure: textbook CG with scalars by structure."""
    owner, n = operator.owner, operator.structures
    x, r, p = torch.zeros_like(right), right, right
    rr = dot(r, r, owner, n)
    target, products = tolerance**2 * rr, torch.zeros(n, dtype=torch.long)
    for _ in range(200):
        going = rr > target
        if not bool(going.any()):
            break
        products[going] += 1
        q = operator(p)
        step = torch.where(going, rr / dot(p, q, owner, n), 0.0)[owner, None]
        x, r = x + step * p, r - step * q
        rr_new = dot(r, r, owner, n)
        p = torch.where(going[owner, None], r + (rr_new / rr)[owner, None] * p, p)
        rr = rr_new
    return x, products


def solve(method: str, operator: ProjectedCurvature, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return solution and products of each structure."""
    if method == METHODS[0]:
        return conjugate_gradients(operator, right, TOLERANCE)
    if method == METHODS[1]:
        found = minres(operator, right, tolerance=TOLERANCE, max_iterations=200)
        return found.solution, found.iterations
    m = operator.preconditioner()
    found = minres(operator, right, tolerance=TOLERANCE, max_iterations=200, preconditioner=m)
    return found.solution, found.iterations + 1


def compare(potential: Potential, structures: Structures, right: Tensor, tallies: dict[str, Tally]) -> None:
    """Solve one batch by every method, twice in turns."""
    coordinates = Positions()
    plain = ProjectedCurvature(potential, structures, coordinates)
    operator = plain.projecting(null_modes(plain, potential, structures, coordinates))  # its probe is paid for here
    right = operator.project(right)
    owner, n = operator.owner, operator.structures
    norm = dot(right, right, owner, n).sqrt()
    for repetition in range(2):
        for method in METHODS:
            began = time.process_time()
            x, products = solve(method, operator, right)
            tally = tallies[method]
            tally.seconds += time.process_time() - began
            if repetition == 0:
                missing = right - operator(x)
                residual = dot(missing, missing, owner, n).sqrt() / norm
                tally.products += float(products.sum())
                tally.structures += n
                tally.worst = max(tally.worst, float(residual.max()))


def systems(
    potential: Potential, pairs: Pairs, route: Route, path: Path, each: Callable[[int, Structures, Tensor], None]
) -> None:
    """Tune for two epochs and hand out every system: epoch, structures at X*, ∂L/∂X*."""
    settings = DemoSettings().tune
    optimiser = torch.optim.Adam(potential.parameters(), lr=RATE)
    stream = torch.Generator().manual_seed(0)
    update = 0
    for epoch in range(1, EPOCHS + 1):
        for chosen in torch.randperm(len(pairs), generator=stream).split(BATCH):
            part = pairs.select(chosen.tolist())
            optimiser.zero_grad()
            result = route.differentiate(potential, part.starts, path)
            loss = objective(result, part.minima, settings.objective, batch=BATCH)
            (right,) = torch.autograd.grad(loss.total, result.equilibrium.positions, retain_graph=True)
            loss.total.backward()
            inside = [k for k, certificate in enumerate(result.certificates) if certificate.took_part]
            structures = result.equilibrium.detach()
            each(epoch, structures.select(inside), right[structures.atoms_of(inside)])
            torch.nn.utils.clip_grad_norm_(potential.parameters(), 1.0)
            update += 1
            for group in optimiser.param_groups:
                group["lr"] = RATE * min(1.0, update / WARMUP)
            optimiser.step()


def gradient_errors(potential: Potential, structures: Structures, right: Tensor) -> dict[str, tuple[float, float]]:
    """Return, by tolerance, the relative error of the parameters' gradient against 1e-8 in float64, and products."""

    def gradient(model: Potential, batch: Structures, b: Tensor, tolerance: float) -> tuple[Tensor, float]:
        settings = AdjointSettings(tolerance=tolerance)
        adjoint = solve_adjoint(model, batch, b, coordinates=Positions(), settings=settings)
        shares = adjoint.parameter_gradient(list(model.parameters()))
        flat = [torch.zeros_like(p) if g is None else g for g, p in zip(shares, model.parameters(), strict=True)]
        return torch.cat([g.double().flatten() for g in flat]), float(adjoint.iterations.double().mean())

    exact = copy.deepcopy(potential).double()
    reference, _ = gradient(exact, structures.to(dtype=torch.float64), right.double(), 1e-8)
    found = {}
    for tolerance in (1e-2, 1e-3, 1e-4):
        value, products = gradient(potential, structures, right, tolerance)
        found[f"{tolerance:g}"] = (float((value - reference).norm() / reference.norm()), products)
    return found


def tally_route(
    potential: Potential, pairs: Pairs, route: Implicit | Split, path: Path
) -> tuple[dict[tuple[int, str], Tally], dict[str, list[tuple[float, float]]]]:
    """Tune by a route; return products by epoch and method, and errors and products by tolerance."""
    tallies = {(epoch, m): Tally() for epoch in range(1, EPOCHS + 1) for m in METHODS}
    errors: dict[str, list[tuple[float, float]]] = {}

    def each(epoch: int, structures: Structures, right: Tensor) -> None:
        compare(potential, structures, right, {m: tallies[epoch, m] for m in METHODS})
        if epoch == EPOCHS and len(errors.get("0.01", [])) < 2:
            for tolerance, found in gradient_errors(potential, structures, right).items():
                errors.setdefault(tolerance, []).append(found)

    systems(potential, pairs, replace(route, adjoint=AdjointSettings()), path, each)
    return tallies, errors


def run(out: FilePath) -> None:
    """Measure, print and write."""
    torch.set_num_threads(1)
    demo, testbed = DemoSettings(), TESTBEDS["silicon"]()
    with tempfile.TemporaryDirectory() as folder:
        told = demo.base.model_copy(update={"out": FilePath(folder)})
        base = load_potential(train(told, testbed.frames(demo.frames, 0)).model)
    pairs = testbed.make(PAIRS, 2).to("cpu", torch.float32)
    path = demo.tune.relaxation.path()
    rows, tolerances = [], {}
    for name, route in {"implicit": Implicit(), "split K=20": Split(horizon=20)}.items():
        tallies, errors = tally_route(copy.deepcopy(base), pairs, route, path)
        tolerances[name] = {
            t: {
                "gradient_error_median": _median([e for e, _ in v]),
                "gradient_error_worst": max(e for e, _ in v),
                "products": sum(p for _, p in v) / len(v),
            }
            for t, v in errors.items()
        }
        for epoch in range(1, EPOCHS + 1):
            ours = tallies[epoch, METHODS[2]]
            for other in METHODS[:2]:
                theirs = tallies[epoch, other]
                where = f"{name}, epoch {epoch}, against {other}"
                a, b = ours.products / ours.structures, theirs.products / theirs.structures
                rows.append(_row(f"Hessian products per structure, {where}", a, b, TARGET))
                a, b = ours.seconds / 2 / ours.structures, theirs.seconds / 2 / theirs.structures
                rows.append(_row(f"CPU seconds per structure, {where}", a, b, None))
            worst = ", ".join(f"{m} {tallies[epoch, m].worst:.1e}" for m in METHODS)
            print(f"{name}, epoch {epoch}: worst true residual {worst}", flush=True)
        _write(out, rows, tolerances)  # a long run that is cut short leaves the routes it finished
    for row in rows:
        verdict = "" if row["met"] is None else ("  met" if row["met"] else "  NOT met")
        print(f"{row['what']:88s} {row['ours']:8.4f} {row['theirs']:8.4f}  ratio {row['ratio']:.3f}{verdict}")
    print(json.dumps(tolerances, indent=1))


def _write(out: FilePath, rows: list[dict[str, object]], tolerances: dict[str, dict[str, dict[str, float]]]) -> None:
    machine = f"{platform.machine()}, torch {torch.__version__}, one thread"
    record = {"machine": machine, "command": "python benchmarks/adjoint.py", "rows": rows, "tolerances": tolerances}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _median(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).median())


def _row(what: str, ours: float, theirs: float, target: float | None) -> dict[str, object]:
    ratio = ours / theirs
    met = None if target is None else ratio <= target
    return {"what": what, "ours": ours, "theirs": theirs, "ratio": ratio, "target": target, "met": met}


if __name__ == "__main__":
    run(FilePath(sys.argv[1]) if len(sys.argv) > 1 else FilePath(__file__).parent / "results" / "adjoint.json")
