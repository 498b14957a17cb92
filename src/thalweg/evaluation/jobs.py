"""Jobs in processes of their own: as many at once as asked for, some after others, one failure not the end of all.

    first job in the list whose forerunner is done → a process of its own → told as finished or failed

A process each, so that peak memory is the job's own and a killed process takes nobody along. An interrupt ends all
of them at once: jobs are expected to resume. Called by the demo, the dial and studies.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

from thalweg.console import show_plain_warnings


@dataclass(frozen=True)
class Job:
    """One piece of work for a process."""

    name: str
    """Unique."""
    work: Callable[[], Any]
    """What it does; travels to the process, as does what it returns."""
    after: str | None = None
    """Name of the job that must be finished first; None where there is none or it is not in the list."""


def run_jobs(
    jobs: Sequence[Job],
    *,
    workers: int,
    finished: Callable[[Job, Any], None],
    failed: Callable[[Job, Exception], None],
    more: Callable[[], bool] = lambda: True,
) -> list[Job]:
    """Run jobs in the order given, `workers` at once; each begins when its forerunner is finished.

    Args:
        jobs: the longest first, so that none is left to run alone at the end.
        workers: processes at once.
        finished: told each job with what it returned.
        failed: told each job with what it ran into; `BrokenProcessPool` where its process was killed. What this
            raises ends the run once the jobs already running are finished.
        more: asked before a job is started; False starts no more.

    Returns:
        The jobs that were not started: those after a failed one, and all that `more` left out.
    """
    others = set(multiprocessing.active_children())
    waiting, running, done = list(jobs), dict[Future[Any], tuple[Job, ProcessPoolExecutor]](), set[str]()
    listed = {job.name for job in jobs}
    try:
        while True:
            while len(running) < workers and (job := _next(waiting, done, listed)) is not None and more():
                waiting.remove(job)
                with _interrupts_held():
                    pool = ProcessPoolExecutor(
                        1, mp_context=multiprocessing.get_context("spawn"), initializer=_begin_process
                    )
                    running[pool.submit(job.work)] = (job, pool)
            if not running:
                return waiting
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, pool = running.pop(future)
                error = future.exception()
                pool.shutdown()
                if error is None:
                    done.add(job.name)
                    finished(job, future.result())
                elif isinstance(error, Exception):
                    failed(job, error)
                else:
                    raise error
    except BaseException as error:
        if not isinstance(error, Exception):  # interrupted: every job resumes, so nothing is waited for
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
        for _, pool in running.values():
            pool.shutdown(cancel_futures=True)
        raise


def _next(waiting: Sequence[Job], done: set[str], listed: set[str]) -> Job | None:
    """Return the first job that need not wait."""
    return next((job for job in waiting if job.after is None or job.after not in listed or job.after in done), None)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Block interrupts from the keyboard while processes are started, which inherit that for life.

    The terminal sends one to every process; only the one that started the others is to answer.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_process() -> None:
    """Show warnings as the command line does, and end with the process that started this one.

    An orphan would go on writing into the folder in which the next run resumes the same job.
    """
    show_plain_warnings()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
