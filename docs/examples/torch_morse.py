"""A torch module of somebody else, as `torch:docs/examples/torch_morse.py:make?species=Si&cutoff=4.2` opens it."""

import torch
from torch import Tensor, nn


class PairNetwork(nn.Module):
    """E = ½ Σ_pairs Σ_k w_k exp(−(d − μ_k)²/σ²) (1 − (d/r_c)²)⁴: smooth, additive, blind to the element."""

    centres: Tensor

    def __init__(self, cutoff: float, width: int) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.weights = nn.Parameter(0.1 * torch.randn(width))
        self.register_buffer("centres", torch.linspace(1.5, cutoff, width))

    def forward(self, vectors: Tensor, centre: Tensor, owner: Tensor, cell: Tensor) -> Tensor:
        """Return the energy of each structure, eV; the arguments are named as the adapter gives them."""
        distance = vectors.square().sum(dim=1).add(1e-6).sqrt()
        inside = (1 - (distance / self.cutoff) ** 2).clamp(min=0.0) ** 4
        waves = torch.exp(-2.0 * (distance[:, None] - self.centres) ** 2)
        return cell.new_zeros(len(cell)).index_add(0, owner[centre], 0.5 * inside * (waves @ self.weights))


def make(cutoff: float = 4.2, width: int = 6) -> PairNetwork:
    """Return a fresh module; what is typed after the name as key=value arrives here."""
    return PairNetwork(cutoff, width)
