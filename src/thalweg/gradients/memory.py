"""Memory accounts: bytes saved for backward, counted exactly, and the peak of the device or the process.

Bytes saved are counted with saved-tensor hooks: every storage that a graph keeps alive is counted once, from the
moment it is saved until the graph lets go of it; the account reports the largest sum. The count depends on the
computation alone, not on the allocator or the machine. Parameters and other tensors named at the start are not
counted, because they exist anyway.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import psutil
import torch
from torch import Tensor


class _Kept:
    """A saved tensor as the graph holds it; dying tells the account."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class SavedBytes:
    """Counts the bytes that graphs built inside the `with` block keep for backward.

    Covers graphs built during backward too (recomputation, Hessian products). Enter it around the forward and
    the backward pass; read `peak` afterwards.
    """

    def __init__(self, ignore: Iterable[Tensor] = ()) -> None:
        """Start an account that does not count the storages of `ignore` (the parameters)."""
        self._ignored = {tensor.untyped_storage().data_ptr() for tensor in ignore}
        self._holders: dict[int, int] = {}  # storage → number of saved tensors on it
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
        self.current = 0
        """Bytes kept at this moment."""
        self.peak = 0
        """Largest number of bytes kept at once."""

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hooks.__exit__(kind, error, traceback)

    def _pack(self, tensor: Tensor) -> _Kept:
        # detached: an output saved by its own node would otherwise keep that node alive for ever
        kept = _Kept(tensor.detach())
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if key not in self._ignored and size > 0:
            holders = self._holders.get(key, 0)
            self._holders[key] = holders + 1
            if holders == 0:
                self.current += size
                self.peak = max(self.peak, self.current)
            weakref.finalize(kept, self._release, key, size).atexit = False
        return kept

    def _release(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if self._holders[key] == 0:
            del self._holders[key]
            self.current -= size

    @staticmethod
    def _unpack(kept: _Kept) -> Tensor:
        return kept.tensor


class PeakMemory:
    """Peak memory of the device, or of the process where there is none, inside the `with` block.

    On a CUDA device: `torch.cuda.max_memory_allocated`, after a reset. On CPU: the resident set of the process,
    sampled every `interval` seconds by a thread, so a spike shorter than that can be missed.
    """

    def __init__(self, device: torch.device | str = "cpu", *, interval: float = 0.005) -> None:
        """Prepare for a device; `interval` in seconds applies to CPU."""
        self._device = torch.device(device)
        self._interval = interval
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.before = 0
        """Bytes in use when the block was entered."""
        self.peak = 0
        """Largest number of bytes in use inside the block."""

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            self.before = self.peak = torch.cuda.memory_allocated(self._device)
        else:
            process = psutil.Process()
            self.before = self.peak = process.memory_info().rss
            self._thread = threading.Thread(target=self._sample, args=(process,), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._thread is None:
            torch.cuda.synchronize(self._device)
            self.peak = torch.cuda.max_memory_allocated(self._device)
        else:
            self._stop.set()
            self._thread.join()

    def _sample(self, process: psutil.Process) -> None:
        while True:
            self.peak = max(self.peak, process.memory_info().rss)
            if self._stop.wait(self._interval):
                return
