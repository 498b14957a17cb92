"""Backbones: the settings with which the demonstration runs on each architecture, at about 20,000 parameters.

    painn        20,129   the demonstration's own
    equivariant  19,369   features up to l = 2, products of two sums
    transformer  19,539   direct forces, fractional coordinates and a bias by minimum-image distance

The transformer is no gradient of an energy and knows no rotations: its frames and pairs are turned at random, its
relaxations end by descent rather than by L-BFGS, and it learns with a third of the rate. What differs beyond size
is a choice made before any result and the same for every seed.
"""

from __future__ import annotations

from thalweg.errors import SettingsError, nearest_known

BACKBONES: dict[str, tuple[str, ...]] = {
    "painn": (),
    "equivariant": ("base.potential={kind: equivariant, channels: 24}",),
    "transformer": (
        "base.potential={kind: transformer, width: 32, feed_forward: 64, layers: 2, heads: 4, length: 5.0, "
        "coordinates: fractional, distance_bias: minimum-image}",
        "base.optimiser.learning_rate=1e-3",
        "base.augment=rotation",
        "tune.augment=rotation",
        "tune.relaxation.finish=descent",
    ),
}
"""Overrides of the demonstration's settings by kind of potential."""


def backbone_overrides(kind: str) -> list[str]:
    """Return the overrides of `DemoSettings` for a backbone.

    Raises:
        SettingsError: no such backbone.
    """
    if kind not in BACKBONES:
        raise SettingsError(
            f"there are no settings of the demonstration for {kind!r}; {nearest_known(kind, BACKBONES)}; "
            "any other kind runs with base.potential.kind=KIND and its own settings"
        )
    return list(BACKBONES[kind])
