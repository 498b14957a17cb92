"""Jobs in processes: order, forerunners, and one failure that is not the end of all."""

from __future__ import annotations

import os
import time
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from operator import add, truediv
from typing import Any

import pytest

from thalweg.evaluation.jobs import Job, run_jobs


class Heard:
    """What was told."""

    def __init__(self) -> None:
        self.finished: dict[str, Any] = {}
        self.failed: dict[str, Exception] = {}

    def run(self, jobs: list[Job], **options: Any) -> list[str]:
        def finished(job: Job, value: Any) -> None:
            self.finished[job.name] = value

        def failed(job: Job, error: Exception) -> None:
            self.failed[job.name] = error

        return [job.name for job in run_jobs(jobs, finished=finished, failed=failed, **options)]


def test_a_job_waits_for_its_forerunner_and_others_do_not() -> None:
    heard = Heard()
    jobs = [
        Job("late", partial(add, 1, 1), after="slow"),
        Job("slow", partial(time.sleep, 0.2)),
        Job("free", partial(add, 2, 2), after="not in the list"),
    ]
    assert heard.run(jobs, workers=1) == []
    assert heard.finished == {"late": 2, "slow": None, "free": 4}
    assert list(heard.finished).index("slow") < list(heard.finished).index("late")


def test_a_failure_or_a_killed_process_leaves_the_others_alone_and_its_successors_unstarted() -> None:
    heard = Heard()
    jobs = [
        Job("wrong", partial(truediv, 1, 0)),
        Job("killed", partial(os._exit, 9)),
        Job("after wrong", partial(add, 1, 1), after="wrong"),
        Job("right", partial(add, 1, 1)),
    ]
    assert heard.run(jobs, workers=2) == ["after wrong"]
    assert heard.finished == {"right": 2}
    assert isinstance(heard.failed["wrong"], ZeroDivisionError)
    assert isinstance(heard.failed["killed"], BrokenProcessPool)


def test_no_job_is_started_once_there_is_to_be_no_more() -> None:
    heard = Heard()
    jobs = [Job(name, partial(add, 1, 1)) for name in "abc"]
    assert heard.run(jobs, workers=1, more=lambda: not heard.finished) == ["b", "c"]
    assert heard.finished == {"a": 2}


def test_what_the_listener_raises_ends_the_run() -> None:
    def failed(job: Job, error: Exception) -> None:
        raise RuntimeError(job.name) from error

    started: list[Job] = []
    jobs = [Job("wrong", partial(truediv, 1, 0)), Job("never", partial(add, 1, 1))]
    with pytest.raises(RuntimeError, match="wrong"):
        run_jobs(jobs, workers=1, finished=lambda job, _: started.append(job), failed=failed)
    assert started == []
