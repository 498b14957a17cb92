"""The implicit gradient and the relaxation beside torchdeq's solvers, on the same potential, starts and fixed points.

    python benchmarks/against_torchdeq.py [--quick] [--only Stillinger–Weber|PaiNN] [--base MODEL]

torchdeq (Geng & Kolter 2023) solves z = f(z); here f(X) = X + α F(X). Its backward pass solves y = J_fᵀ y + g by
fixed-point iteration, Anderson mixing or Broyden's method, which with y = λ/α is the adjoint system H λ = g. Every
right-hand side is normalised by structure, so that its stopping rule is our relative residual, and all run until the
worst structure is at 1e-4; true residuals are taken afterwards. Both sides make products with one and the same graph of
the forces. Silicon interstitials (65 atoms, float64, batch 1 and 16), Stillinger–Weber with learnable parameters and
the demonstration's PaiNN.

Counted are evaluations of forces (plain or with a graph) and vector-Jacobian products, each times the structures in it,
those of our preconditioner and tests included; as force-call equivalents they are weighted by their measured seconds.
A relaxation is done when ‖F‖ of every structure is 1e-4 of the least ‖F‖ at the starts.

All variants of torchdeq run once, with at most 300 products and 600 force calls (for a batch 200 and 400); the one with
the fewest equivalents that reached the target (else the one with the lowest residual) is then timed against ours in
turns, in CPU seconds. Written to benchmarks/results/against_torchdeq.json after every comparison (--quick writes
nothing); what is there of the other potential stays. --base takes a trained base instead of training the
demonstration's again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path as FilePath

import torch
from engine import record, trained
from torch import Tensor

from thalweg.allocator import keep_freed_memory
from thalweg.evaluation.demo import DemoSettings
from thalweg.gradients import AdjointSettings
from thalweg.gradients.adjoint import solve_adjoint
from thalweg.potentials.contract import Potential, Prediction
from thalweg.potentials.opening import open_potential
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relaxation import LBFGS, Path, relax
from thalweg.relaxation.coordinates import Positions
from thalweg.relaxation.relaxer import dot
from thalweg.relaxation.stability import Curvature
from thalweg.structures.batch import Structures
from thalweg.structures.displacement import delta_q
from thalweg.testbeds import TESTBEDS
from thalweg.training.objective import robust

try:
    from torchdeq.solver import get_solver
except ImportError:
    print("torchdeq is not installed: pip install torchdeq (or the extra: pip install 'thalweg[benchmarks]')")
    sys.exit(2)

RESULTS = FilePath(__file__).parent / "results" / "against_torchdeq.json"
ALPHA, TARGET, MOST, FORWARD_MOST = 0.03, 1e-4, 300, 600
POTENTIALS = ("Stillinger–Weber", "PaiNN")
VARIANTS: dict[str, tuple[str, dict[str, float]]] = {
    "fixed point": ("fixed_point_iter", {}),
    "Anderson m=6": ("anderson", {}),
    "Anderson m=20, lam=1e-8": ("anderson", {"m": 20, "lam": 1e-8}),
    "Broyden": ("broyden", {}),
    "Broyden, tolerance / 3": ("broyden", {"tol": 1 / 3}),
}
"""torchdeq's solvers with their defaults; Anderson with a longer memory and less damping; and Broyden asked for a third
of the tolerance, because it gives up within three times what it is asked for. `tol` is a factor."""


@dataclass
class Tally:
    """Evaluations, each times the structures in it."""

    plain: int = 0
    graphs: int = 0
    products: int = 0

    def equivalents(self, costs: dict[str, float]) -> float:
        """Return the force calls that would take as long."""
        return self.plain + self.graphs * costs["graph"] + self.products * costs["product"]


@dataclass
class Run:
    """One way to solve one problem."""

    way: str
    forces: float
    products: float
    equivalents: float
    residual: float
    seconds: float
    reached: bool
    note: str = ""
    energy: float | None = None
    """Mean energy of where a relaxation ended, eV: a root finder may end on a saddle."""


@dataclass(frozen=True)
class Row:
    """One comparison."""

    what: str
    ours: float
    theirs: float
    ratio: float
    target: str
    met: bool
    unit: str
    wall_ratio: float | None = None


@dataclass
class Found:
    """All that is written."""

    rows: list[Row] = field(default_factory=list)
    variants: dict[str, list[Run]] = field(default_factory=dict)
    began: float = 0.0
    written: bool = True

    def write(self) -> None:
        """Write what is known so far, beside what the file says of the other potential."""
        if not self.written:
            return
        mine = {name for name in POTENTIALS if any(name in what for what in self.variants)}
        rows, variants = [], {}
        if RESULTS.exists():
            before = json.loads(RESULTS.read_text(encoding="utf-8"))
            rows = [one for one in before["rows"] if not any(name in one["what"] for name in mine)]
            variants = {w: runs for w, runs in before["variants"].items() if not any(name in w for name in mine)}
        told = record(self.rows, time.perf_counter() - self.began)
        told["rows"] = [*rows, *told["rows"]]
        told["variants"] = variants | {what: [asdict(run) for run in runs] for what, runs in self.variants.items()}
        RESULTS.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def counting(potential: Potential) -> Iterator[Tally]:
    """Count the evaluations of a potential and the products with its Hessian."""
    tally, product = Tally(), Curvature.__call__

    def seen(_: torch.nn.Module, words: tuple[Structures, ...], named: dict[str, bool], __: Prediction) -> None:
        if named.get("graph", False):
            tally.graphs += len(words[0])
        else:
            tally.plain += len(words[0])

    def counted(curvature: Curvature, v: Tensor) -> Tensor:
        tally.products += len(curvature.reference)
        return product(curvature, v)

    handle = potential.register_forward_hook(seen, with_kwargs=True)
    Curvature.__call__ = counted
    try:
        yield tally
    finally:
        handle.remove()
        Curvature.__call__ = product


def costs_of(potential: Potential, structures: Structures) -> dict[str, float]:
    """Return seconds of a graph of the forces and of a product over those of a plain call."""
    curvature = Curvature(potential, structures)
    v = torch.randn_like(structures.positions)
    ways = {
        "plain": lambda: potential(structures),
        "graph": lambda: Curvature(potential, structures),
        "product": lambda: curvature(v),
    }
    times = clock(ways, 5)
    return {name: found[0] / times["plain"][0] for name, found in times.items()}


def clock(ways: dict[str, Callable[[], object]], repetitions: int) -> dict[str, tuple[float, float]]:
    """Return the median CPU and wall seconds of each way, run in turns."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            found[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        name: (statistics.median(c for c, _ in seen), statistics.median(w for _, w in seen))
        for name, seen in found.items()
    }


def residuals(curvature: Curvature, solution: Tensor, right: Tensor, structures: Structures) -> Tensor:
    """Return ‖b − H λ‖ / ‖b‖ of each structure."""
    missing, n = right - curvature(solution), len(structures)
    return (dot(missing, missing, structures.owner, n) / dot(right, right, structures.owner, n)).sqrt()


def most(structures: int, alone: int) -> int:
    """Return the most iterations of torchdeq: two thirds of those of a single structure for a batch."""
    return alone if structures == 1 else 2 * alone // 3


def backward_ours(potential: Potential, at: Structures, right: Tensor) -> Tensor:
    """Return λ of the package's adjoint solve, with its tests and its preconditioner."""
    settings = AdjointSettings(tolerance=TARGET, max_iterations=MOST)
    return solve_adjoint(potential, at, right, coordinates=Positions(), settings=settings).solution


def backward_theirs(potential: Potential, at: Structures, right: Tensor, variant: str) -> Tensor:
    """Return λ = α y of torchdeq's backward solve, from zero as it does; cells are of one size."""
    name, words = VARIANTS[variant]
    tol = TARGET * words.get("tol", 1.0)
    words = {key: value for key, value in words.items() if key != "tol"}
    n = len(at)
    curvature = Curvature(potential, at)  # the graph at the fixed point, as torchdeq keeps it
    g = right.view(n, -1)

    def f(y: Tensor) -> Tensor:
        return y - ALPHA * curvature(y.reshape(-1, 3)).view(n, -1) + g

    y, _, _ = get_solver(name)(f, torch.zeros_like(g), max_iter=most(n, MOST), tol=tol, stop_mode="abs", **words)
    return ALPHA * y.reshape(-1, 3)


def forward_ours(potential: Potential, starts: Structures, tolerance: float) -> Structures:
    """Relax with L-BFGS until every force is below what bounds the residual's norm in every structure."""
    fmax = tolerance / int(starts.counts.max()) ** 0.5
    return relax(potential, starts, LBFGS(), fmax=fmax, max_steps=FORWARD_MOST).structures


def forward_theirs(potential: Potential, starts: Structures, tolerance: float, variant: str) -> Structures:
    """Solve X = X + α F(X) by one of torchdeq's solvers from the same start, until ‖F‖ is below the tolerance."""
    name, words = VARIANTS[variant]
    tol = ALPHA * tolerance * words.get("tol", 1.0)
    words = {key: value for key, value in words.items() if key != "tol"}
    n = len(starts)

    def f(z: Tensor) -> Tensor:
        x = z.reshape(-1, 3)
        return (x + ALPHA * potential(starts.with_positions(x)).forces).view(n, -1)

    start = starts.positions.view(n, -1)
    with torch.no_grad():
        z, _, _ = get_solver(name)(f, start, max_iter=most(n, FORWARD_MOST), tol=tol, stop_mode="abs", **words)
    return starts.with_positions(z.reshape(-1, 3))


def try_once(
    way: str, potential: Potential, costs: dict[str, float], solve: Callable[[], object], judge: Callable[..., float]
) -> Run:
    """Run one way once, counted; a way that breaks down says how."""
    began = time.process_time()
    note, residual = "", float("inf")
    with counting(potential) as tally:
        try:
            out = solve()
        except (RuntimeError, ValueError) as error:
            out, note = None, str(error).splitlines()[0][:120]
    seconds = time.process_time() - began
    energy = None
    if out is not None:
        residual = judge(out)
        energy = float(potential(out).energy.mean()) if isinstance(out, Structures) else None
    residual = residual if residual == residual else float("inf")
    reached = residual <= 1.05 * TARGET
    print(f"    {way:28} residual {residual:.1e} products {tally.products} graphs {tally.graphs} "
          f"forces {tally.plain} {seconds:.2f} s {note}", flush=True)  # fmt: skip
    calls, equivalents = tally.plain + tally.graphs, tally.equivalents(costs)
    return Run(way, calls, tally.products, equivalents, residual, seconds, reached, note, energy)


def contest(
    what: str,
    found: Found,
    potential: Potential,
    costs: dict[str, float],
    ours: Callable[[], object],
    theirs: Callable[[str], object],
    judge: Callable[..., float],
    repetitions: int,
) -> None:
    """Run all ways once and counted, then ours and the best of theirs in turns."""
    print(f"  {what}", flush=True)
    mine = try_once("thalweg", potential, costs, ours, judge)
    others = [try_once(variant, potential, costs, lambda v=variant: theirs(v), judge) for variant in VARIANTS]
    found.variants[what] = [mine, *others]
    there = [run for run in others if run.reached]
    best = min(there, key=lambda r: r.equivalents) if there else min(others, key=lambda r: r.residual)
    name = f"torchdeq's {best.way}" if there else f"torchdeq's {best.way}, which stopped at {best.residual:.1e}"
    times = clock({"ours": ours, "theirs": lambda: theirs(best.way)}, repetitions)
    wall = times["ours"][1] / times["theirs"][1]
    rows = [
        row(f"force-call equivalents, {what}, over {name}", mine.equivalents, best.equivalents, "calls", mine.reached),
        row(f"CPU seconds, {what}, over {name}", times["ours"][0], times["theirs"][0], "s", mine.reached),
    ]
    rows[1] = replace(rows[1], wall_ratio=wall)
    for one in rows:
        print(f"    {one.ours:10.4g} {one.theirs:10.4g} {one.ratio:7.3f} {'met' if one.met else 'MISSED'}  {one.what}")
    found.rows += rows
    found.write()


def row(what: str, ours: float, theirs: float, unit: str, reached: bool) -> Row:
    """Return a comparison; ours must have reached the residual and be below theirs."""
    return Row(what, ours, theirs, ours / theirs, "below 1 at residual 1e-4", reached and ours < theirs, unit)


def problem(potential: Potential, count: int) -> tuple[Structures, Structures, Tensor]:
    """Return starts, their fixed points and normalised ∂L/∂X* for structures that a sound adjoint accepts."""
    pairs = TESTBEDS["silicon"]().make(2 * count, 3)
    path: Path = replace(DemoSettings().tune.relaxation.path(), fmax=1e-7, max_steps=2000)
    end = path.run(potential, pairs.starts).structures
    leaf = end.positions.clone().requires_grad_()
    (right,) = torch.autograd.grad(robust(delta_q(end.with_positions(leaf), pairs.minima), 3.0).sum(), leaf)
    right = right - (end.total(right) / end.counts[:, None])[end.owner]
    settings = AdjointSettings(tolerance=1e-6, max_iterations=2000)
    usable = solve_adjoint(potential, end, right, coordinates=Positions(), settings=settings).usable
    moved = dot(right, right, end.owner, len(end)) > 1e-12
    keep = (usable & moved).nonzero().squeeze(1)[:count]
    right = right[end.atoms_of(keep)]
    end = end.select(keep)
    norm = dot(right, right, end.owner, len(end)).sqrt()
    return pairs.starts.select(keep), end, right / norm[end.owner, None]


def measure(name: str, potential: Potential, batches: tuple[int, ...], repetitions: int, found: Found) -> None:
    """Compare backward and forward on one potential."""
    starts, ends, rights = problem(potential, max(batches))
    for count in batches:
        start, end = starts.select(range(count)), ends.select(range(count))
        measure_batch(name, potential, (start, end, rights[: len(end.positions)]), repetitions, found)


def measure_batch(
    name: str, potential: Potential, batch: tuple[Structures, Structures, Tensor], repetitions: int, found: Found
) -> None:
    """Compare both on one batch: its starts, where they end, and the right-hand side there."""
    start, end, right = batch
    costs = costs_of(potential, end)
    curvature = Curvature(potential, end)
    where = f"{name}, batch {len(start)}"
    print(f"{where}: graph {costs['graph']:.2f}, product {costs['product']:.2f} force calls", flush=True)
    contest(
        f"adjoint solve, {where}",
        found,
        potential,
        costs,
        lambda: backward_ours(potential, end, right),
        lambda v: backward_theirs(potential, end, right, v),
        lambda x: float(residuals(curvature, x, right, end).max()),
        repetitions,
    )
    first = potential(start).forces
    begin = dot(first, first, start.owner, len(start)).sqrt()
    tolerance = TARGET * float(begin.min())

    def judge(reached: Structures) -> float:
        forces = potential(reached).forces
        left = dot(forces, forces, reached.owner, len(reached)).sqrt()  # per structure
        return float(left.max()) / tolerance * TARGET

    contest(
        f"relaxation from the start, {where}",
        found,
        potential,
        costs,
        lambda: forward_ours(potential, start, tolerance),
        lambda v: forward_theirs(potential, start, tolerance, v),
        judge,
        repetitions,
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="Stillinger–Weber, batch 1 and 2; nothing is written")
    parser.add_argument("--only", choices=POTENTIALS, help="one potential alone")
    parser.add_argument("--base", help="model file of the PaiNN")
    told = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    found = Found(began=time.perf_counter(), written=not told.quick)
    batches = (1, 2) if told.quick else (1, 16)
    wanted = (told.only,) if told.only else POTENTIALS[:1] if told.quick else POTENTIALS
    if POTENTIALS[0] in wanted:
        measure(POTENTIALS[0], StillingerWeber.from_published("Si"), batches, 1 if told.quick else 3, found)
    if POTENTIALS[1] in wanted:
        base = trained() if told.base is None else open_potential(told.base)
        measure(POTENTIALS[1], base.double(), batches, 2, found)
    print(f"{sum(r.met for r in found.rows)} of {len(found.rows)} met")


if __name__ == "__main__":
    main()
