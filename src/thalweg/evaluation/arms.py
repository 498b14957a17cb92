"""Arms: several ways to tune one base, on the same pairs with the same budget, judged on the same held-out pairs.

Each arm runs in a process of its own, so that its peak memory is its own, and as many at once as asked for, one
thread each. An arm is a folder: killed, it resumes; finished, it is skipped. The base is an arm without a route.

Called by the demo; a study is arms times seeds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from thalweg.errors import CheckpointError, ThalwegError
from thalweg.evaluation.jobs import Job, run_jobs
from thalweg.gradients import Route
from thalweg.storage import atomic_write
from thalweg.testbeds.testbed import Testbed
from thalweg.training.settings import TrainSettings, TuneSettings


@dataclass(frozen=True)
class Fit:
    """More of what made the base: force matching goes on from it."""

    settings: TrainSettings
    """How; `out` is the arm's own."""
    frames: tuple[Path, ...]
    """Files of labelled frames, fitted together."""


@dataclass(frozen=True)
class Arm:
    """One way to change the base."""

    name: str
    """Its name in tables and its folder."""
    route: Route | None
    """How relaxations are differentiated; None tunes nothing."""
    fit: Fit | None = None
    """Ordinary fitting instead of tuning; None, without a route, leaves the base as it is."""


@dataclass(frozen=True)
class Contest:
    """What all arms share."""

    folder: Path
    """Where `arms/NAME` are made."""
    base: Path
    """Model file that every arm starts from."""
    pairs: Path
    """Training pairs."""
    held_out: Path
    """Pairs that every arm is judged on, and none learns from."""
    tune: TuneSettings
    """Budget, objective and relaxation; `route` and `out` are the arm's own."""
    rule: str
    """Same-basin rule."""
    reference: Path | str | None
    """Model file of the reference surface, or the words that open it, where the rule needs one."""
    frames_held_out: Path | None = None
    """Labelled frames that no arm learns from, for errors of energies and forces."""
    testbed: Testbed | None = None
    """As the pairs were made; every arm is measured on its perfect crystal."""
    replay: Path | None = None
    """Labelled frames that arms replay, as the settings say; None for none."""

    def place(self, arm: Arm) -> Path:
        """Return the folder of an arm."""
        return self.folder / "arms" / arm.name


def run_arms(
    contest: Contest, arms: Sequence[Arm], *, workers: int, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Run every arm that is not finished and return their records by name.

    Args:
        contest: what they share.
        arms: the longest first, so that none is left to run alone at the end.
        workers: processes at once.
        say: told one line when an arm is finished.

    Raises:
        ThalwegError: what an arm ran into, or that its process was killed; arms already running are finished first.
    """
    records: dict[str, dict[str, Any]] = {}

    def finished(job: Job, record: dict[str, Any]) -> None:
        records[job.name] = record
        found = record["evaluation"]
        say(f"{job.name}: {found['basins_right']} of {found['basins_total']} in the right basin")

    def failed(job: Job, error: Exception) -> None:
        if isinstance(error, BrokenProcessPool):
            raise ThalwegError(
                f"the process of an arm in {contest.folder} was killed, perhaps for want of memory: run the same "
                f"command again, it goes on where it was; with fewer workers (now {workers}) it needs less memory"
            ) from None
        raise error

    jobs = [Job(arm.name, partial(run_arm, contest, arm)) for arm in arms]
    run_jobs(jobs, workers=workers, finished=finished, failed=failed)
    return {arm.name: records[arm.name] for arm in arms}


def run_arm(contest: Contest, arm: Arm) -> dict[str, Any]:
    """Tune and judge one arm in this process; return what the finished arm's record says.

    The record holds `route`, `training` (results of the run, None for the base), `seconds`, `cost` (as `cost_record`
    gives it, None where nothing was asked for) and `evaluation`.
    """
    import torch

    from thalweg.allocator import keep_freed_memory
    from thalweg.evaluation.cost import cost_record
    from thalweg.evaluation.evaluate import evaluate
    from thalweg.potentials.files import load_potential
    from thalweg.potentials.opening import open_potential
    from thalweg.structures.extended_xyz import read_frames, read_pairs
    from thalweg.training.route_settings import route_values

    keep_freed_memory()
    torch.set_num_threads(1)  # two threads on small cells were seen 50 times slower than one on a busy machine
    place = contest.place(arm)
    place.mkdir(parents=True, exist_ok=True)
    finished = read_record(place / "evaluation.json")
    if finished is not None and (place / "arm.json").exists():
        return {**_required(place / "arm.json"), "evaluation": finished}

    began = time.perf_counter()
    model, training = contest.base, None
    if arm.fit is not None:
        model, training = _fitted(contest, arm.fit, place)
    elif arm.route is not None:
        model, training = _tuned(contest, arm, place)
    potential = load_potential(model)
    alpha = contest.tune.relaxation.alpha if training is None or arm.route is None else training["alpha"]
    evaluation = evaluate(
        potential,
        read_pairs(contest.held_out),
        contest.tune.relaxation.path(alpha),
        rule=contest.rule,
        reference=None if contest.reference is None else open_potential(str(contest.reference), reference=True),
    )
    route = None if arm.route is None else route_values(arm.route)
    frames = None if contest.frames_held_out is None else read_frames(contest.frames_held_out)
    cost = cost_record(potential, frames, contest.testbed)
    record = {"route": route, "training": training, "seconds": time.perf_counter() - began, "cost": cost}
    atomic_write(place / "evaluation.json", json.dumps(evaluation.record(), indent=1), overwrite=True)
    atomic_write(place / "arm.json", json.dumps(record, indent=1), overwrite=True)
    return {**record, "evaluation": evaluation.record()}


def _tuned(contest: Contest, arm: Arm, place: Path) -> tuple[Path, dict[str, Any]]:
    """Tune the base by the arm's route; return the model file and the results of the run."""
    from thalweg.potentials.files import load_potential
    from thalweg.structures.extended_xyz import read_frames, read_pairs
    from thalweg.training.processes import Report
    from thalweg.training.tuning import tune

    def report(step: Report) -> None:
        if step.update % 10 == 0 and step.record.get("loss") is not None:
            line = f"{arm.name}: update {step.update} of {step.updates}, loss {step.record['loss']:.2f}"
            print(line, flush=True)

    settings = contest.tune.model_copy(update={"route": arm.route, "out": place})
    replay = None if contest.replay is None else read_frames(contest.replay)
    pairs = read_pairs(contest.pairs)
    result = tune(settings, load_potential(contest.base), pairs, replay=replay, progress=report)
    return result.model, result.results


def _fitted(contest: Contest, fit: Fit, place: Path) -> tuple[Path, dict[str, Any]]:
    """Go on fitting the base; return the model file and the results of the run."""
    from thalweg.potentials.files import load_potential
    from thalweg.structures.extended_xyz import read_frames
    from thalweg.structures.pairs import Frames
    from thalweg.training.force_matching import train

    frames = Frames.concatenate([read_frames(path) for path in fit.frames])
    settings = fit.settings.model_copy(update={"out": place})
    result = train(settings, frames, start=load_potential(contest.base))
    return result.model, result.results


def read_record(path: Path) -> dict[str, Any] | None:
    """Return a JSON record, None if there is no such file.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); remove it to have it made again") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path}: holds no record; remove it to have it made again")
    return record


def certificate_totals(path: Path) -> dict[str, Any] | None:
    """Return what the certificates of all updates in a record come to; None if there is no such file."""
    if not path.exists():
        return None
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    inside = [line for line in lines if line["took_part"]]
    reasons: dict[str, int] = {}
    for line in lines:
        if line["reason"] is not None:
            reasons[line["reason"]] = reasons.get(line["reason"], 0) + 1
    residuals = [line["adjoint_residual"] for line in inside if line["adjoint_residual"] is not None]
    curvatures = [line["lowest_curvature"] for line in inside if line["lowest_curvature"] is not None]
    return {
        "took_part": len(inside),
        "total": len(lines),
        "worst_residual": max(residuals, default=None),
        "lowest_curvature": min(curvatures, default=None),
        "reasons": reasons,
    }


def _required(path: Path) -> dict[str, Any]:
    record = read_record(path)
    if record is None:
        raise CheckpointError(f"{path}: is missing; remove the folder to have it made again")
    return record
