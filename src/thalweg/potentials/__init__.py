"""Interatomic potentials by name: adding one means one file here and one line in `POTENTIALS`."""

from __future__ import annotations

from typing import Any

from thalweg.errors import PotentialError, nearest_known
from thalweg.potentials.adapters import ADAPTERS
from thalweg.potentials.contract import Potential
from thalweg.potentials.equivariant import Equivariant
from thalweg.potentials.fully_connected import FullyConnected
from thalweg.potentials.painn import PaiNN
from thalweg.potentials.rigid_ion import RigidIon
from thalweg.potentials.schnet import SchNet
from thalweg.potentials.second_moment import SecondMoment
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.potentials.transformer import Transformer

_KINDS: tuple[type[Potential], ...] = (
    PaiNN,
    Equivariant,
    SchNet,
    StillingerWeber,
    SecondMoment,
    RigidIon,
    Transformer,
    FullyConnected,
    *ADAPTERS,
)

POTENTIALS: dict[str, type[Potential]] = {potential.kind: potential for potential in _KINDS}
"""Every potential this library builds, by the `kind` that settings and files carry."""


def build_potential(kind: str, settings: dict[str, Any]) -> Potential:
    """Build a potential with fresh parameters.

    Args:
        kind: a key of `POTENTIALS`.
        settings: what `from_settings` of that potential takes.

    Raises:
        PotentialError: an unknown kind, or settings that it refuses.
    """
    if kind not in POTENTIALS:
        raise PotentialError(f"potential {kind!r} is not known: {nearest_known(kind, POTENTIALS)}")
    return POTENTIALS[kind].from_settings(settings)
