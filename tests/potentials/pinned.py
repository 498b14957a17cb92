"""A cell-blind transformer fitted to a crystal in a trap: direct forces that vanish somewhere, stably.

The forces to learn are those of Stillinger–Weber and a spring to each site, −k (x − x₀). Forces of a random
direct head vanish nowhere near. Only the force head is fitted, by least squares on the tokens of a random
network: a tenth of a second, and the same result everywhere.
"""

from __future__ import annotations

from functools import cache

import torch
from ase.build import bulk
from torch import Tensor

from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.potentials.transformer import Transformer
from thalweg.seeds import torch_stream
from thalweg.structures.batch import Structures

SPRING = 12.0
"""k, eV/Å²: translations are then stiff enough for a rough fit to keep the equilibrium."""


def sites(count: int, amplitude: float, key: str) -> Structures:
    """Return cubic cells of silicon (8 atoms) rattled by `amplitude` (Å)."""
    cells = Structures.from_atoms([bulk("Si", cubic=True)] * count, ids=[f"{key}-{k}" for k in range(count)])
    noise = torch.randn(cells.positions.shape, generator=torch_stream(5, "pinned", key), dtype=torch.float64)
    return cells.with_positions(cells.positions + amplitude * noise)


def trapped_forces(structures: Structures) -> Tensor:
    """Return the forces to learn, eV/Å."""
    home = sites(len(structures), 0.0, "home").positions
    forces = StillingerWeber.from_published("Si")(structures).forces
    return forces - SPRING * (structures.positions - home)


@cache
def fitted() -> Transformer:
    """Return the fitted transformer, in float64; callers must not change it."""
    settings = {
        "species": [14], "width": 256, "feed_forward": 64, "layers": 2, "heads": 4, "length": 0.5, "seed": 1
    }  # fmt: skip
    potential = Transformer.from_settings(settings).double()
    seen: list[Tensor] = []
    handle = potential.push.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    batch = sites(300, 0.1, "fit")
    potential(batch)
    handle.remove()
    tokens = torch.cat([seen[0], torch.ones_like(seen[0][:, :1])], 1)
    normal = tokens.T @ tokens
    normal += 1e-6 * normal.diagonal().mean() * torch.eye(len(normal), dtype=normal.dtype)
    found = torch.linalg.solve(normal, tokens.T @ trapped_forces(batch))
    with torch.no_grad():
        potential.push.weight.copy_(found[:-1])
        assert potential.push.bias is not None
        potential.push.bias.copy_(found[-1])
    return potential
