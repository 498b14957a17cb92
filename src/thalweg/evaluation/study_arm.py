"""One arm of one seed of a study, as it runs in a process of its own; the same for the base and the probe.

What they need is read from the folder, so that a job is its names alone. Called by `study`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from thalweg.allocator import keep_freed_memory
from thalweg.errors import ThalwegError
from thalweg.evaluation.arms import Arm, Contest, Fit, certificate_totals, run_arm
from thalweg.evaluation.data import FRAMES, HELD_OUT, PAIRS, UNSEEN
from thalweg.evaluation.dial import affordable, both_ways, measure_routes
from thalweg.evaluation.protocol import ArmPlan, Protocol
from thalweg.evaluation.registration import checked
from thalweg.evaluation.study_folder import StudyFolder, make_folder
from thalweg.gradients import Route
from thalweg.potentials.files import load_potential
from thalweg.structures.extended_xyz import read_frames, read_pairs
from thalweg.training.digest import digest_pairs, digest_potential
from thalweg.training.force_matching import train

_TOLD = ("updates", "skipped_updates", "seconds", "parameters", "alpha", "unstable_checks", "saved_bytes", "peak_bytes")
"""What a record repeats of the results of training, where training has it."""


def train_base(path: Path, seed: int) -> None:
    """Fit the base of a seed; resumes or skips what is there."""
    _begin()
    folder, registration = StudyFolder(path), checked(path)
    with _alone(folder.seed(seed) / "base.lock"):
        settings = registration.protocol.base_of(seed).model_copy(update={"out": folder.base(seed)})
        train(settings, read_frames(folder.data(registration.protocol.data, seed) / FRAMES))


def run_study_arm(path: Path, seed: int, name: str, workers: int) -> dict[str, Any]:
    """Train and judge an arm of a seed and write its record, which is returned; resumes what is there."""
    _begin()
    folder, registration = StudyFolder(path), checked(path)
    with _alone(folder.seed(seed) / f"{name}.lock"):
        done = folder.read(folder.record(seed, name), registration.hash)
        if done is not None:
            return done
        plan = registration.protocol.arm(name)
        contest = contest_of(folder, registration.protocol, plan, seed)
        made = run_arm(contest, _arm(folder, registration.protocol, plan, seed))
        record = _record(plan, seed, contest, made, registration.protocol.data.frames)
        folder.write(folder.record(seed, name), registration.hash, record, workers=workers)
        folder.failure(seed, name).unlink(missing_ok=True)
        return record


def run_probe(path: Path, workers: int) -> None:
    """Measure memory and time of every arm's route with the base of the first seed, and write the record."""
    _begin()
    folder, registration = StudyFolder(path), checked(path)
    protocol, probe = registration.protocol, registration.protocol.probe
    if probe is None:
        return
    seed = protocol.seeds[0]
    potential = load_potential(folder.base(seed) / "model.safetensors")
    pairs = read_pairs(folder.data(protocol.data, seed) / PAIRS)
    starts = pairs.select(range(min(probe.structures, len(pairs)))).starts
    starts = starts.to(dtype=next(potential.parameters()).dtype)
    walk = protocol.tune.relaxation.path()
    left_out: list[str] = []
    routes: list[Route] = []
    allowed = affordable(potential, starts, walk, say=left_out.append)
    for arm in protocol.arms:
        for route in [] if arm.route is None else both_ways(arm.route):
            if route not in routes and allowed(route):
                routes.append(route)
    points = measure_routes(potential, starts, walk, routes, repetitions=probe.repetitions)
    content = {
        "seed": seed,
        "structures": len(starts),
        "points": [asdict(point) for point in points],
        "left_out": left_out,
    }
    folder.write(folder.probe, registration.hash, content, workers=workers)


def contest_of(folder: StudyFolder, protocol: Protocol, plan: ArmPlan, seed: int) -> Contest:
    """Return what the arms of a seed share, with the settings of one of them."""
    tune, data = protocol.tune_of(plan, seed), folder.data(protocol.data, seed)
    return Contest(
        folder.seed(seed),
        folder.base(seed) / "model.safetensors",
        data / PAIRS,
        data / HELD_OUT,
        tune,
        protocol.rule,
        folder.reference,
        frames_held_out=data / UNSEEN,
        testbed=protocol.data.family(),
        replay=data / FRAMES if tune.replay.on else None,
    )


def _begin() -> None:
    keep_freed_memory()
    torch.set_num_threads(1)  # two threads on small cells were seen 50 times slower than one on a busy machine


def _arm(folder: StudyFolder, protocol: Protocol, plan: ArmPlan, seed: int) -> Arm:
    if plan.matching is None:
        return Arm(plan.name, plan.route)
    frames = (
        folder.data(protocol.data, seed) / FRAMES,
        folder.labels(protocol.data, seed, plan.matching),
    )
    return Arm(plan.name, None, Fit(protocol.fit_of(plan.matching, seed), frames))


def _record(plan: ArmPlan, seed: int, contest: Contest, made: dict[str, Any], frames: int) -> dict[str, Any]:
    """Return what is kept of an arm; `frames` is how many the base was fitted to."""
    training = made["training"]
    summary = None if training is None else {key: training[key] for key in _TOLD if key in training}
    place = contest.folder / "arms" / plan.name
    return {
        "seed": seed,
        "arm": plan.name,
        "route": made["route"],
        "matching": None if plan.matching is None else plan.matching.model_dump(mode="json"),
        "tune": plan.tune,
        "training": summary,
        "extra_labels": training["frames"] - frames if plan.matching is not None else 0,
        "certificates": certificate_totals(place / "certificates.jsonl"),
        # digests of what it began from: arms of one seed must agree
        "start": digest_potential(load_potential(contest.base)),
        "data": digest_pairs(read_pairs(contest.pairs), read_pairs(contest.held_out)),
        "seconds": made["seconds"],
        "cost": made["cost"],
        "evaluation": made["evaluation"],
    }


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, so that two runs never write into one run folder.

    Raises:
        ThalwegError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    make_folder(path.parent)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ThalwegError(
                f"another process is at work on {path.stem} in {path.parent}: wait for it, then run again"
            ) from None
        yield
