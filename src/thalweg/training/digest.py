"""Digests of what a run works on, so that a run is never resumed with other structures or another start."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import torch
from torch import Tensor

from thalweg.potentials.contract import Potential
from thalweg.potentials.files import potential_header
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Frames, Pairs


def digest_pairs(*sets: Pairs | None) -> str:
    """Return a digest of pairs: structures and names, not labels, which tuning does not read."""
    account = hashlib.blake2b(digest_size=8)
    for pairs in sets:
        account.update(b"set")
        if pairs is not None:
            _structures(account, pairs.starts)
            _structures(account, pairs.minima)
    return account.hexdigest()


def digest_frames(*sets: Frames | None) -> str:
    """Return a digest of frames: structures, names, energies, forces and stresses."""
    account = hashlib.blake2b(digest_size=8)
    for frames in sets:
        account.update(b"set")
        if frames is not None:
            _structures(account, frames.structures)
            stress = [] if frames.stress is None else [frames.stress.double()]
            _tensors(account, [frames.energy.double(), frames.forces.double(), *stress])
    return account.hexdigest()


def digest_potential(potential: Potential) -> str:
    """Return a digest of a potential: kind, settings and tensors."""
    account = hashlib.blake2b(digest_size=8)
    account.update(json.dumps(potential_header(potential), sort_keys=True).encode())
    state = potential.state_dict()
    account.update(json.dumps(sorted(state)).encode())
    _tensors(account, [state[name] for name in sorted(state)])
    return account.hexdigest()


def _structures(account: hashlib.blake2b, structures: Structures) -> None:
    account.update(json.dumps(structures.ids).encode())
    floats = [structures.positions.double(), structures.cell.double()]
    _tensors(account, [*floats, structures.numbers, structures.pbc, structures.owner, structures.free])


def _tensors(account: hashlib.blake2b, tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        account.update(str(tuple(tensor.shape)).encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        account.update(flat.view(torch.uint8).numpy().tobytes())
