"""Devices and processes: one function run on one device, or on several that share every batch.

Several processes are Lightning Fabric's: it picks the devices, starts a process on each and joins them. The
potential is not wrapped: routes differentiate it twice and through functions of their own, which wrappers of
modules do not survive. Each process takes its share of a batch instead, and gradients are summed; the loss is
divided by the size of the whole batch, so the sum is the gradient of the whole. One device starts nothing and
imports nothing. Called by `train` and `tune`.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import torch
from torch import Tensor

from thalweg.console import show_plain_warnings
from thalweg.errors import SettingsError, ThalwegError
from thalweg.training.settings import DeviceSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.fabric import Fabric

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Report:
    """What a progress callback is told."""

    update: int
    """Updates of the parameters done."""
    updates: int
    """Updates to be done in all."""
    record: dict[str, Any]
    """The newest line of metrics."""


@dataclass(frozen=True, eq=False)
class Job:
    """What is run: its fields travel to other processes, so they must be picklable."""

    progress: Callable[[Report], None] | None
    """Called with each line of metrics, in the process that launched."""


_Job = TypeVar("_Job", bound=Job)


@dataclass(frozen=True, eq=False)
class Processes:
    """The processes of a run, seen from one of them."""

    device: torch.device
    """The device of this process."""
    rank: int = 0
    """Number of this process; 0 writes the records."""
    world: int = 1
    """Number of processes."""
    fabric: Fabric | None = None
    """What joins them; None for one."""

    @property
    def main(self) -> bool:
        """Whether this process writes the records."""
        return self.rank == 0

    def share(self, items: Sequence[_Item]) -> list[_Item]:
        """Return this process's share: every `world`-th item."""
        return list(items[self.rank :: self.world])

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors over all processes, in place, in one message."""
        if self.fabric is None or not tensors:
            return
        flat: Any = self.fabric.all_reduce(torch.cat([t.flatten() for t in tensors]), reduce_op="sum")
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, items: list[_Item]) -> list[_Item]:
        """Return the items of all processes, those of 0 first, on every process."""
        if self.fabric is None:
            return items
        parts: list[list[_Item] | None] = [None] * self.world
        torch.distributed.all_gather_object(parts, items)
        return [item for part in parts if part is not None for item in part]

    def from_main(self, function: Callable[[], _Result]) -> _Result:
        """Call a function on process 0 and return its result on all."""
        if self.fabric is None:
            return function()
        sent: Any = function() if self.main else None
        result: _Result = self.fabric.broadcast(sent)
        return result


def launch(settings: DeviceSettings, function: Callable[[Processes, _Job], _Result], job: _Job) -> _Result:
    """Run a function on the devices asked for and return what process 0 returned.

    Raises:
        SettingsError: there are no such devices.
        ThalwegError: whatever the function raised in any process.
    """
    kind = _accelerator(settings)
    if settings.devices == 1:
        return function(Processes(torch.device(kind)), job)
    from lightning.fabric import Fabric

    outside = "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_NTASKS" in os.environ
    fabric = Fabric(accelerator=kind, devices=settings.devices, strategy="ddp" if outside else "ddp_spawn")
    logging.getLogger("torch.multiprocessing").setLevel(logging.ERROR)  # the error itself is raised below
    with _Relay.listening(job.progress) as relay:
        sent = replace(job, progress=relay)
        try:
            box: _Box[_Result] = fabric.launch(partial(_inside, function=function, job=sent, relay=relay))
        except Exception:
            relay.raise_error()
            raise
    return box.value


class _Box(Generic[_Result]):
    """Hides a result from the launcher, which would look into it for tensors and stumble over frozen values."""

    def __init__(self, value: _Result) -> None:
        self.value = value


def _inside(fabric: Fabric, function: Callable[[Processes, _Job], _Result], job: _Job, relay: _Relay) -> _Box[_Result]:
    processes = Processes(fabric.device, fabric.global_rank, fabric.world_size, fabric)
    if multiprocessing.parent_process() is not None:
        show_plain_warnings()
    try:
        result = function(processes, job)
        fabric.barrier()
    except ThalwegError as error:
        relay.send(error)  # the launcher would know only its traceback
        raise
    finally:  # a process that exits with a group still open was seen to abort
        torch.distributed.destroy_process_group()
    return _Box(result)


class _Relay:
    """Carries reports and errors from process 0 to the process that launched it."""

    def __init__(self) -> None:
        self._queue = multiprocessing.get_context("spawn").SimpleQueue()
        self._error: ThalwegError | None = None

    def __call__(self, report: Report) -> None:
        """Send a report."""
        self.send(report)

    def send(self, message: Report | ThalwegError | None) -> None:
        """Send a message; None ends the conversation."""
        self._queue.put(message)

    def raise_error(self) -> None:
        """Raise the first error of the project that a process met, if there was one."""
        self._finish()
        if self._error is not None:
            raise self._error from None

    @classmethod
    @contextmanager
    def listening(cls, progress: Callable[[Report], None] | None) -> Iterator[Self]:
        """Return a relay whose reports reach `progress` while the block runs."""
        relay = cls()
        relay._thread = threading.Thread(target=relay._listen, args=(progress,), daemon=True)
        relay._thread.start()
        try:
            yield relay
        finally:
            relay._finish()

    def __getstate__(self) -> dict[str, Any]:
        return {"_queue": self._queue, "_error": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # here because a relay arrives in a new process before Lightning tells how it joined the others
        for name in ("lightning.fabric", "lightning.pytorch"):
            logging.getLogger(name).setLevel(logging.WARNING)

    def _finish(self) -> None:
        if self._thread.is_alive():
            self.send(None)
            self._thread.join()

    _thread: threading.Thread

    def _listen(self, progress: Callable[[Report], None] | None) -> None:
        while True:
            message = self._queue.get()
            if message is None:
                return
            if isinstance(message, ThalwegError):
                self._error = self._error or message
            elif progress is not None:
                progress(message)


def _accelerator(settings: DeviceSettings) -> str:
    available = torch.cuda.is_available()
    if settings.accelerator == "cuda" and not available:
        raise SettingsError(
            "device.accelerator is 'cuda', but this machine has no CUDA device that torch can use: take 'cpu' or 'auto'"
        )
    kind = "cuda" if available and settings.accelerator != "cpu" else "cpu"
    if kind == "cuda" and settings.devices > torch.cuda.device_count():
        raise SettingsError(
            f"device.devices is {settings.devices}, but there are {torch.cuda.device_count()} CUDA devices: lower it"
        )
    return kind
