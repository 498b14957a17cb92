"""Rotating everything that rotates: positions, cell, forces, stress; both structures of a pair alike.

    x → R x,   a_k → R a_k (lattice vectors),   F → R F,   σ → R σ Rᵀ

about the origin. The cell turns along, or distances across its faces would change: forgetting it teaches a
potential false labels. Rotations are drawn uniformly, each from a stream of its own, so that a run that
resumes draws what it would have drawn. Called by training, to teach potentials that are not equivariant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.errors import StructureError
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Frames, Pairs


def random_rotations(seed: int, purpose: str, keys: Sequence[str]) -> Float[Tensor, "keys 3 3"]:
    """Return one rotation matrix per key, uniform over SO(3), in float64.

    A unit quaternion (w, r) of four normal deviates gives R = (w² − r²) 1 + 2 r rᵀ + 2 w [r]×, uniform because
    the deviates prefer no direction (Shoemake 1992).

    Args:
        seed: root seed.
        purpose: name of the streams.
        keys: each gets the rotation of its own stream, whatever the others are.
    """
    drawn = [torch.from_numpy(numpy_stream(seed, purpose, key).standard_normal(4)) for key in keys]
    q = torch.stack(drawn) if drawn else torch.zeros((0, 4), dtype=torch.float64)
    q = q / q.norm(dim=1, keepdim=True)
    w, r = q[:, 0, None, None], q[:, 1:]
    x, y, z = r.unbind(1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(-1, 3, 3)
    size = r.square().sum(dim=1)[:, None, None]
    return (w.square() - size) * torch.eye(3, dtype=q.dtype) + 2 * r[:, :, None] * r[:, None, :] + 2 * w * cross


def rotate(structures: Structures, rotations: Float[Tensor, "structures 3 3"]) -> Structures:
    """Return the structures turned about the origin, each by its own rotation; differentiable.

    Raises:
        StructureError: an atom fixed in some components only, whose turned constraint no mask can hold.
    """
    refuse_partly_fixed(structures)
    turns = rotations.to(structures.positions)
    return structures.with_positions(_turned(structures.positions, structures, turns)).with_cell(
        structures.cell @ turns.transpose(1, 2)
    )


def rotate_frames(frames: Frames, rotations: Float[Tensor, "frames 3 3"]) -> Frames:
    """Return the frames turned with their forces and stresses; energies stay.

    Raises:
        StructureError: see `rotate`.
    """
    turns = rotations.to(frames.forces)
    stress = frames.stress
    return replace(
        frames,
        structures=rotate(frames.structures, rotations),
        forces=_turned(frames.forces, frames.structures, turns),
        stress=None if stress is None else turns @ stress @ turns.transpose(1, 2),
    )


def rotate_pairs(pairs: Pairs, rotations: Float[Tensor, "pairs 3 3"]) -> Pairs:
    """Return the pairs with start, minimum and forces at the start turned alike; energies and ΔQ stay.

    Raises:
        StructureError: see `rotate`.
    """
    forces = pairs.forces_start
    return replace(
        pairs,
        starts=rotate(pairs.starts, rotations),
        minima=rotate(pairs.minima, rotations),
        forces_start=None if forces is None else _turned(forces, pairs.starts, rotations.to(forces)),
    )


def refuse_partly_fixed(structures: Structures) -> None:
    """Refuse structures that cannot be turned.

    Raises:
        StructureError: naming the structure and the atom that is fixed in some components only.
    """
    partly = structures.free.any(dim=1) & ~structures.free.all(dim=1)
    if bool(partly.any()):
        atom = int(partly.nonzero()[0])
        k = int(structures.owner[atom])
        raise StructureError(
            f"structure {structures.ids[k]!r}: atom {atom - structures.offsets[k]} is fixed in some components only, "
            "which cannot be turned: fix it wholly, free it, or do without rotations (augment: none)"
        )


def _turned(
    rows: Float[Tensor, "atoms 3"], structures: Structures, rotations: Float[Tensor, "structures 3 3"]
) -> Float[Tensor, "atoms 3"]:
    return torch.einsum("acd,ad->ac", rotations[structures.owner], rows)
