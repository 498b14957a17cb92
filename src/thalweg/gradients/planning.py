"""The memory planner: what a route will keep for backward and how long a gradient takes, before it is run.

One relaxation without a graph, and short probes along it (single updates, and four in a row), give the costs of a
batch; every horizon follows from those. With g_t the bytes of the graph of update t (the neighbours change on the
way, and their number with them), l_t those of its kept neighbour list (none where c < K), c the states kept, and the
rest what the objective adds:

    plain       b(K) = Σ_t g_t + rest                         t < K
    recomputed  b(K) = max_t g_t + kept + rest,           kept = min(K, c) · b_state + Σ_t l_t
    implicit    b = b_adjoint
    split       plain: b(K) + b_adjoint,    recomputed: kept + max(max_t g_t + rest, b_adjoint)

Bytes are those of `SavedBytes`: what lives only within a call of the potential comes on top. Called by the memory
dial; worth calling before a long run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from thalweg.errors import SettingsError
from thalweg.gradients.adjoint import AdjointSettings
from thalweg.gradients.binomial import fewest_forward_steps
from thalweg.gradients.certificate import begin
from thalweg.gradients.equilibrium import attach_implicit
from thalweg.gradients.guidance import check_horizon
from thalweg.gradients.implicit import Implicit
from thalweg.gradients.kept_edges import KeptEdges, keep_edges
from thalweg.gradients.memory import SavedBytes
from thalweg.gradients.phantom import Phantom
from thalweg.gradients.route import Route
from thalweg.gradients.split import Split
from thalweg.gradients.unrolled import Unrolled
from thalweg.potentials.contract import Potential
from thalweg.relaxation.loop import Relaxation, relax
from thalweg.relaxation.path import Path
from thalweg.structures.batch import Structures

_SHORT, _LONG = 1, 4  # updates of the timed probes
_SAMPLES = (0, 1, 2, 3, 6, 12, 24, 48, 96, 192, 384, 768)  # updates whose graphs are counted; the last one always is
_TYPICAL = 12  # the update at which probes are timed: the first ones have neighbours that soon leave
_REPETITIONS = 3  # of each timed probe, interleaved; the median is taken


@dataclass(frozen=True)
class Forecast:
    """What one gradient of a batch will cost by a route."""

    route: Route
    saved_bytes: int
    """Largest number of bytes kept for backward at once."""
    seconds: float
    """Wall time, forward and backward."""


@dataclass(frozen=True)
class Costs:
    """What the probes of one batch found; bytes and seconds."""

    graphs: tuple[int, ...]
    """Bytes of the graph of each update, T + 1 entries."""
    lists: tuple[int, ...]
    """Bytes that the neighbour list of each update adds, as recomputation keeps it."""
    rest: int
    """Bytes that an unroll keeps besides its graphs and kept states."""
    state: int
    """Bytes of a kept state."""
    adjoint: int
    """Bytes of the adjoint at the minimum; 0 where it was not probed."""
    plain_seconds: tuple[float, float]
    """Seconds of the first update and of each further one, plain."""
    recomputed_seconds: tuple[float, float]
    """The same, recomputed."""
    free_seconds: float
    """Seconds of an update without a graph."""
    relaxation_seconds: float
    """Seconds of the whole relaxation without a graph; 0 where it was not probed."""
    shortcut_seconds: float
    """Seconds of the finisher from an early update on; 0 where it was not probed."""
    adjoint_seconds: float
    """Seconds of the adjoint; 0 where it was not probed."""

    def forecast(self, route: Route, path: Path) -> Forecast:
        """Return what a gradient by a route costs.

        Raises:
            SettingsError: a horizon beyond the path, or a route that the planner does not know.
        """
        if isinstance(route, Implicit):
            return Forecast(route, self.adjoint, self.relaxation_seconds + self.adjoint_seconds)
        if isinstance(route, Phantom):
            updates = route.updates
            at_the_end = replace(self, graphs=self.graphs[-1:] * updates, lists=self.lists[-1:] * updates)
            saved, seconds = at_the_end._unroll(updates, route.recompute, None, beside=0)
            return Forecast(route, saved, self.relaxation_seconds + seconds)
        if isinstance(route, Split):
            count = check_horizon(route.horizon, path)
            saved, seconds = self._unroll(count, route.recompute, route.states, beside=self.adjoint)
            whole = max(self.relaxation_seconds - count * self.free_seconds, 0.0)
            rest = self.shortcut_seconds if route.shortcut else whole
            return Forecast(route, saved, seconds + rest + self.adjoint_seconds)
        if isinstance(route, Unrolled):
            count = check_horizon(route.horizon, path)
            return Forecast(route, *self._unroll(count, route.recompute, route.states, beside=0))
        raise SettingsError(
            f"the memory planner does not know route {route.kind!r}: known: implicit, phantom, split, unrolled"
        )

    def _unroll(self, count: int, recompute: bool, states: int | None, *, beside: int) -> tuple[int, float]:
        """Return bytes and seconds of `count` updates; `beside` are bytes of another graph needed before theirs."""
        if not recompute:
            first, further = self.plain_seconds
            return sum(self.graphs[:count]) + self.rest + beside, first + (count - 1) * further
        kept = count if states is None else min(count, states)
        first, further = self.recomputed_seconds
        again = fewest_forward_steps(count + 1, kept) - count
        forward = max(further - self.plain_seconds[1], 0.0)
        held = kept * self.state + (sum(self.lists[:count]) if kept == count else 0)
        return held + max(max(self.graphs[:count]) + self.rest, beside), first + (count - 1) * further + again * forward


@dataclass(frozen=True)
class Plan:
    """The route that fits a budget, and what it was chosen from."""

    chosen: Forecast
    """The fastest that fits; the leanest where none does."""
    fits: bool
    """Whether it fits."""
    budget: int
    """Bytes allowed for backward."""
    options: tuple[Forecast, ...]
    """The same route in all ways considered, from the fastest to the leanest."""
    longest_plain: int
    """Longest horizon whose graphs could all be stored within the budget; 0 where none or without a horizon."""
    structures: int
    """Size of the batch."""

    @property
    def sentence(self) -> str:
        """What was chosen and why, in one line."""
        of = f"of {_count(self.structures, 'structure')}"
        taken = f"{_words(self.chosen.route)}: {_size(self.chosen.saved_bytes)} kept for backward and "
        taken += f"{self.chosen.seconds:.2g} s a gradient {of}"
        if not self.fits:
            share = self.budget * self.structures // self.chosen.saved_bytes
            advice = f"take batches of {share}" if share else "one structure is too much: take a smaller potential"
            return f"{taken}, which does not fit {_size(self.budget)}; {advice}"
        told = f"{taken}, within {_size(self.budget)}"
        plain = self.options[0]
        if plain is self.chosen or not isinstance(plain.route, Split | Unrolled):
            return told
        return f"{told}; stored whole it would keep {_size(plain.saved_bytes)} ({self._reach()})"

    def _reach(self) -> str:
        return f"K = {self.longest_plain} would fit" if self.longest_plain else "not even K = 1 would fit"


def plan_memory(potential: Potential, starts: Structures, path: Path, route: Route, *, budget: float) -> Plan:
    """Choose how to run a route within a budget: stored whole where that fits, else recomputed, else from few states.

    The horizon is left as asked: recomputed, it hardly costs memory.

    Args:
        potential: what is differentiated; its gradients are left as they are.
        starts: one batch, as in training.
        path: the relaxation.
        route: what is wanted; its `recompute` and `states` are chosen anew.
        budget: MB (10⁶ bytes) that may be kept for backward.

    Raises:
        SettingsError: a budget that is not above 0, no structures, or a horizon beyond the path.
    """
    if not 0 < budget < float("inf"):
        raise SettingsError(f"budget is {budget}: allowed are MB above 0, e.g. 2000")
    costs = measure_costs(potential, starts, path, equilibrium=not isinstance(route, Unrolled))
    allowed = int(budget * 1e6)
    return choose_way(costs, path, route, allowed, len(starts))


def choose_way(costs: Costs, path: Path, route: Route, allowed: int, structures: int) -> Plan:
    """Choose as `plan_memory` does, from costs already measured.

    Args:
        costs: of one batch.
        path: the relaxation.
        route: what is wanted; its `recompute` and `states` are chosen anew.
        allowed: bytes that may be kept for backward.
        structures: size of that batch.

    Raises:
        SettingsError: a horizon beyond the path, or a route that the planner does not know.
    """
    ways: list[Route] = [route]
    longest = 0
    if isinstance(route, Split | Unrolled):
        count = check_horizon(route.horizon, path)
        plain = replace(route, recompute=False, states=None)
        horizons = range(1, path.steps + 1)
        within = [k for k in horizons if costs.forecast(replace(plain, horizon=k), path).saved_bytes <= allowed]
        longest = max(within, default=0)
        ways = [plain, replace(route, recompute=True, states=None)]
        if count > 1:
            one = costs.forecast(replace(route, recompute=True, states=1), path).saved_bytes
            fewer = min(1 + (allowed - one) // costs.state, count - 1)  # states that fit
            ways += [replace(route, recompute=True, states=fewer)] if fewer >= 1 else []
    elif isinstance(route, Phantom):
        ways = [replace(route, recompute=False), replace(route, recompute=True)]
    options = tuple(costs.forecast(way, path) for way in ways)
    fitting = [option for option in options if option.saved_bytes <= allowed]
    chosen = fitting[0] if fitting else min(options, key=lambda option: option.saved_bytes)
    return Plan(chosen, bool(fitting), allowed, options, longest, structures)


def measure_costs(potential: Potential, starts: Structures, path: Path, *, equilibrium: bool = True) -> Costs:
    """Measure the costs of a batch with short probes.

    Args:
        potential: what is differentiated; its gradients are left as they are.
        starts: one batch, in any floating type.
        path: the relaxation.
        equilibrium: also relax once and solve one adjoint, which every route but the unrolled one needs.

    Raises:
        SettingsError: no structures.
    """
    if len(starts) == 0:
        raise SettingsError("there are no structures to plan for: give at least one batch")
    starts = starts.to(dtype=next(potential.parameters()).dtype).detach()
    with _untouched(potential):
        began = time.perf_counter()
        walk = path if equilibrium else replace(path, max_steps=0)
        relaxation = walk.run(potential, starts, keep_trace=True)
        relaxing = time.perf_counter() - began
        graphs, lists, rest = _probe_graphs(potential, relaxation, path)
        typical = _state_at(relaxation, min(_TYPICAL, path.steps))
        plain, recomputed, free = _probe_seconds(potential, typical, path)
        adjoint, solving = _probe_adjoint(potential, starts, relaxation, path) if equilibrium else (0, 0.0)
        began = time.perf_counter()
        if equilibrium:
            path.run(potential, typical, skip=path.steps, reference=starts)
        finishing = time.perf_counter() - began
    return Costs(
        graphs=graphs,
        lists=lists,
        rest=rest,
        state=_state_bytes(starts, path),
        adjoint=adjoint,
        plain_seconds=plain,
        recomputed_seconds=recomputed,
        free_seconds=free,
        relaxation_seconds=relaxing if equilibrium else 0.0,
        shortcut_seconds=finishing if equilibrium else 0.0,
        adjoint_seconds=solving,
    )


def gradient(potential: Potential, starts: Structures, path: Path, route: Route) -> None:
    """Take one gradient of the sum of squared displacements: what is asked hardly changes what it costs.

    Args:
        potential: its parameters receive the gradients.
        starts: one batch, in the floating type of the potential.
        path: the relaxation.
        route: how it is differentiated.
    """
    result = route.differentiate(potential, starts, path)
    reached = [found for found in (result.guided, result.equilibrium) if found is not None]
    losses = [(found.positions - starts.positions).square().sum() for found in reached]
    sum(losses[1:], losses[0]).backward()


def saved_bytes(potential: Potential, starts: Structures, path: Path, route: Route) -> int:
    """Return the largest number of bytes that `gradient` keeps for backward, counted exactly."""
    with SavedBytes(potential.parameters()) as account:
        gradient(potential, starts, path, route)
    return account.peak


def _state_bytes(structures: Structures, path: Path) -> int:
    rows = path.coordinates.rows(structures)
    return rows.numel() * rows.element_size()


def _state_at(relaxation: Relaxation, update: int) -> Structures:
    """Return the batch before an update; relaxations that ended earlier stand where they ended."""
    trace = relaxation.trace or (relaxation.structures,)
    return trace[min(update, len(trace) - 1)]


def _probe_graphs(
    potential: Potential, relaxation: Relaxation, path: Path
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Return bytes of the graph (linear between those counted) and list of each update, and the rest of an unroll.

    Of m updates in a row, m graphs and the rest are kept; of m updates one by one, m of both.
    """
    four = replace(path, steps=_LONG)
    places = sorted({t for t in _SAMPLES if t < path.steps} | {0, 1, 2, 3, path.steps})
    stations = [_state_at(relaxation, t) for t in places]
    single = [saved_bytes(potential, station, four, Unrolled(1, recompute=False)) for station in stations]
    in_a_row = saved_bytes(potential, stations[0], four, Unrolled(_LONG, recompute=False))
    rest = (sum(single[:_LONG]) - in_a_row) // (_LONG - 1)
    graphs = tuple(int(saved) - rest for saved in np.interp(range(path.steps + 1), places, single))
    return graphs, _list_bytes(potential, relaxation, path), rest


def _list_bytes(potential: Potential, relaxation: Relaxation, path: Path) -> tuple[int, ...]:
    """Return what the neighbour list of each update adds; a part equal to that of the update before adds nothing."""
    sizes: list[int] = []
    before: KeptEdges | None = None
    for t in range(path.steps + 1):
        station = _state_at(relaxation, t)
        packed = keep_edges(potential.edges(station), len(station.numbers), before)
        known = set() if before is None else {id(tensor) for tensor in before}
        sizes.append(sum(int(tensor.nbytes) for tensor in packed if id(tensor) not in known))
        before = packed
    return tuple(sizes)


def _probe_seconds(
    potential: Potential, structures: Structures, path: Path
) -> tuple[tuple[float, float], tuple[float, float], float]:
    """Return seconds of the first and each further update, plain and recomputed, and of one without a graph."""
    four = replace(path, steps=_LONG)
    ways = {(k, recompute): Unrolled(k, recompute) for k in (_SHORT, _LONG) for recompute in (False, True)}
    runs: dict[object, Callable[[], object]] = {
        way: partial(gradient, potential, structures, four, route) for way, route in ways.items()
    }
    runs["free"] = partial(relax, potential, structures, path.update, fmax=path.fmax, max_steps=_LONG)
    seconds = _timed(runs)
    plain, recomputed = (
        (seconds[_SHORT, way], (seconds[_LONG, way] - seconds[_SHORT, way]) / (_LONG - _SHORT)) for way in (False, True)
    )
    return plain, recomputed, seconds["free"] / (_LONG + 1)


def _probe_adjoint(potential: Potential, starts: Structures, relaxation: Relaxation, path: Path) -> tuple[int, float]:
    """Return bytes and seconds of the adjoint at the end of the relaxation."""

    def solve() -> None:
        end = attach_implicit(
            potential,
            relaxation.structures,
            begin(relaxation),
            coordinates=path.coordinates,
            settings=AdjointSettings(),
        )
        (end.positions - starts.positions).square().sum().backward()

    began = time.perf_counter()
    solve()
    solving = time.perf_counter() - began
    with SavedBytes(potential.parameters()) as account:
        solve()
    return account.peak, solving


def _timed(runs: dict[object, Callable[[], object]]) -> dict[object, float]:
    """Return the median seconds of each run; repetitions are interleaved, so that a slow spell meets all alike."""
    seconds: dict[object, list[float]] = {name: [] for name in runs}
    for _ in range(_REPETITIONS):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in seconds.items()}


@contextmanager
def _untouched(potential: Potential) -> Iterator[None]:
    """Give back the gradients that the parameters came with."""
    before = [(p, p.grad) for p in potential.parameters()]
    potential.zero_grad(set_to_none=True)
    try:
        yield
    finally:
        for parameter, kept in before:
            parameter.grad = kept


def _words(route: Route) -> str:
    if isinstance(route, Split | Unrolled):
        horizon = "all updates" if route.horizon is None else f"K = {route.horizon}"
        states = "" if route.states is None else f" from {_count(route.states, 'state')}"
        return f"{route.kind}, {horizon}, " + (f"recomputed{states}" if route.recompute else "stored whole")
    return route.kind


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _size(count: float) -> str:
    size = count / 1e6
    return f"{size:.2g} MB" if size < 9.95 else f"{size:,.0f} MB"
