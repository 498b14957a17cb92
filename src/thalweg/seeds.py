"""Random streams keyed by (root seed, purpose, key), never by the order in which batches come.

Two calls with the same key give the same numbers on every machine; a stream for one structure does not
depend on which other structures exist. Called by testbeds, training and verification.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def stream_seed(root: int, purpose: str, key: str | int = "") -> int:
    """Return the 63-bit seed of the stream (root, purpose, key): BLAKE2b of its text form."""
    digest = hashlib.blake2b(f"{root}/{purpose}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def numpy_stream(root: int, purpose: str, key: str | int = "") -> np.random.Generator:
    """Return a numpy generator for the stream (root, purpose, key)."""
    return np.random.default_rng(stream_seed(root, purpose, key))


def torch_stream(root: int, purpose: str, key: str | int = "") -> torch.Generator:
    """Return a CPU torch generator for the stream (root, purpose, key)."""
    return torch.Generator().manual_seed(stream_seed(root, purpose, key))
