"""Running a study: arms times seeds, each a resumable run in a process of its own, as many at once as asked for.

    registration → data → per seed: base → arms, the longest first → a record each

Seed 0 is complete first. Killed at any moment, the same command goes on where it was; a record makes its arm done,
also where everything else is gone. One failed arm does not end the others. Called by the command line.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from thalweg.console import one_line
from thalweg.errors import SettingsError, ThalwegError, nearest_known
from thalweg.evaluation.data import PAIRS, Sizes, labels_of, make_data
from thalweg.evaluation.jobs import Job, run_jobs
from thalweg.evaluation.protocol import ArmPlan, Protocol
from thalweg.evaluation.provenance import code_version
from thalweg.evaluation.registration import Registration, checked
from thalweg.evaluation.study_arm import run_probe, run_study_arm, train_base
from thalweg.evaluation.study_folder import StudyFolder, make_folder
from thalweg.gradients import Implicit, Phantom, Split, Unrolled
from thalweg.potentials.files import save_potential
from thalweg.storage import atomic_write
from thalweg.structures.extended_xyz import read_pairs, write_frames

_PROBE = "probe"


@dataclass(frozen=True)
class Part:
    """What of a study one call runs."""

    workers: int = 2
    """Arms at once, one thread each."""
    only: tuple[str, ...] = ()
    """Names of arms; none means all."""
    seeds: tuple[int, ...] = ()
    """Seeds; none means all."""
    minutes: float | None = None
    """After this long no further arm is started; None for no limit."""


@dataclass(frozen=True)
class Standing:
    """How far a study is."""

    finished: int
    """Records of arms there are, of the part asked for."""
    total: int
    """Arms times seeds of that part."""
    failed: tuple[str, ...]
    """What failed in this call: arm and reason in a line each."""
    left: tuple[str, ...]
    """What was not started."""


def run_study(path: str | Path, part: Part | None = None, *, say: Callable[[str], None]) -> Standing:
    """Run what is missing of a registered study.

    Args:
        path: its folder.
        part: how many processes, and which arms and seeds.
        say: told one line at each stage and when an arm is finished.

    Raises:
        SettingsError: not registered, a protocol changed since, or an arm or seed it does not have.
        RunFolderError: records or work of another registration.
        CheckpointError: a record is damaged.
        OutputError: the folder cannot be written.
    """
    folder, part = StudyFolder(Path(path)), part or Part()
    if part.workers < 1:
        raise SettingsError(f"--workers is {part.workers}: allowed is 1 or more")
    registration = checked(folder.path)
    protocol = registration.protocol
    arms, seeds = _chosen(protocol, part)
    if registration.code.source != code_version().source:
        say(f"note: the code is not that of the registration ({registration.date}); each record names its own")
    asked = [(seed, arm.name) for seed in seeds for arm in arms]
    done = set(folder.finished(registration.hash)).intersection(asked)
    missing = [(seed, name) for seed, name in asked if (seed, name) not in done]
    probing = protocol.probe is not None and not part.only and protocol.seeds[0] in seeds and not folder.probe.exists()
    if not missing and not probing:
        say(f"{folder.path}: all {len(asked)} arms are finished")
        return Standing(len(asked), len(asked), (), ())
    torch.set_num_threads(1)  # as in the processes that will use it
    _prepare(folder, registration, say)
    for seed in dict.fromkeys([*(seed for seed, _ in missing), *(protocol.seeds[:1] if probing else ())]):
        _make_data(folder, protocol, seed, [protocol.arm(name) for at, name in missing if at == seed], say)
    return _run(folder, registration, _jobs(folder, protocol, missing, probing, part.workers), asked, done, part, say)


def _chosen(protocol: Protocol, part: Part) -> tuple[list[ArmPlan], list[int]]:
    names = [arm.name for arm in protocol.arms]
    for name in part.only:
        if name not in names:
            raise SettingsError(f"--only {name}: the protocol has no such arm; {nearest_known(name, names)}")
    for seed in part.seeds:
        if seed not in protocol.seeds:
            raise SettingsError(f"--seeds {seed}: the protocol has the seeds {', '.join(map(str, protocol.seeds))}")
    arms = [arm for arm in protocol.arms if arm.name in part.only or not part.only]
    return arms, [seed for seed in protocol.seeds if seed in part.seeds or not part.seeds]


def _prepare(folder: StudyFolder, registration: Registration, say: Callable[[str], None]) -> None:
    """Make the folder of work and the reference where they are not there; refuse the work of another registration."""
    make_folder(folder.work)
    stamp = folder.work / "registration.txt"
    if not stamp.exists():
        atomic_write(stamp, registration.hash + "\n", overwrite=True)
        atomic_write(folder.work / ".gitignore", "*\n", overwrite=True)
    if stamp.read_text(encoding="utf-8").strip() != registration.hash:
        raise SettingsError(f"{folder.work} is of another registration: remove it, it can be made again")
    if not folder.reference.exists():
        save_potential(folder.reference, registration.protocol.data.family().reference())


def _make_data(
    folder: StudyFolder, protocol: Protocol, seed: int, arms: Sequence[ArmPlan], say: Callable[[str], None]
) -> None:
    """Make the data of a seed and the labels of its controls where they are not there."""
    plan = protocol.data
    testbed, place = plan.family(), folder.data(plan, seed)
    make_folder(place)
    sizes = Sizes(plan.frames, plan.pairs, plan.held_out, plan.frames_held_out)
    make_data(place, testbed, sizes, plan.root(seed), say=say)
    for arm in arms:
        if arm.matching is None or folder.labels(plan, seed, arm.matching).exists():
            continue
        say(f"labelling what the training pairs cost: {arm.matching.labels}")
        labels = labels_of(testbed, read_pairs(place / PAIRS), arm.matching.labels, arm.matching.every)
        write_frames(folder.labels(plan, seed, arm.matching), labels)


def _jobs(
    folder: StudyFolder, protocol: Protocol, missing: Sequence[tuple[int, str]], probing: bool, workers: int
) -> list[Job]:
    """Return the jobs seed by seed, each base before its arms and those the longest first; the probe last."""
    jobs: list[Job] = []
    first = protocol.seeds[0]
    for seed in protocol.seeds:
        arms = [protocol.arm(name) for at, name in missing if at == seed]
        if not arms and not (probing and seed == first):
            continue
        base = f"seed {seed}, fitting the base"
        if not (folder.base(seed) / "results.json").exists():
            jobs.append(Job(base, partial(train_base, folder.path, seed)))
        for arm in sorted(arms, key=lambda arm: -_length(arm, protocol)):
            work = partial(run_study_arm, folder.path, seed, arm.name, workers)
            jobs.append(Job(_named(seed, arm.name), work, after=base))
    if probing:
        jobs.append(Job(_PROBE, partial(run_probe, folder.path, workers), after=f"seed {first}, fitting the base"))
    return jobs


def _length(arm: ArmPlan, protocol: Protocol) -> float:
    """Return roughly how long an arm takes, in steps of a relaxation: only the order matters."""
    route, steps = arm.route, protocol.tune.relaxation.steps
    relaxing = 1.5 * steps
    if isinstance(route, Split):
        return 3.0 * route.horizon + relaxing + 40
    if isinstance(route, Unrolled):
        return 3.0 * (route.horizon or steps)
    if isinstance(route, Phantom):
        return 3.0 * route.updates + relaxing
    if isinstance(route, Implicit):
        return relaxing + 40
    return 0.0 if arm.matching is None else 1.0


def _named(seed: int, name: str) -> str:
    return f"seed {seed}, {name}"


def _run(
    folder: StudyFolder,
    registration: Registration,
    jobs: list[Job],
    asked: Sequence[tuple[int, str]],
    done: set[tuple[int, str]],
    part: Part,
    say: Callable[[str], None],
) -> Standing:
    places = {_named(seed, name): (seed, name) for seed, name in asked}
    failures: list[str] = []
    began = time.monotonic()

    def finished(job: Job, record: dict[str, Any] | None) -> None:
        if job.name not in places or record is None:
            say(f"{job.name}: done")
            return
        done.add(places[job.name])
        found = record["evaluation"]
        right = f"{found['basins_right']} of {found['basins_total']} in the right basin"
        say(f"{job.name}: {right}, {record['seconds']:.0f} s ({len(done)} of {len(asked)} arms)")

    def failed(job: Job, error: Exception) -> None:
        reason = _reason(error)
        failures.append(f"{job.name}: {reason}")
        say(f"{job.name}: failed: {reason}")
        if job.name in places:
            seed, name = places[job.name]
            content = {"seed": seed, "arm": name, "failed": reason}
            folder.write(folder.failure(seed, name), registration.hash, content, workers=part.workers)
        if not isinstance(error, ThalwegError | BrokenProcessPool):
            trace = "".join(traceback.format_exception(error))
            atomic_write(folder.work / f"{job.name.replace(', ', '-').replace(' ', '-')}.txt", trace, overwrite=True)

    def more() -> bool:
        return part.minutes is None or time.monotonic() - began < 60 * part.minutes

    left = run_jobs(jobs, workers=part.workers, finished=finished, failed=failed, more=more)
    return Standing(len(done), len(asked), tuple(failures), tuple(job.name for job in left))


def _reason(error: Exception) -> str:
    """Return one line."""
    if isinstance(error, BrokenProcessPool):
        return "its process was killed, perhaps for want of memory: fewer workers need less"
    return one_line(error) if isinstance(error, ThalwegError) else one_line(f"{type(error).__name__}: {error}")
