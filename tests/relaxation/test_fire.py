"""FIRE: what it refuses; its steps are compared with ASE's elsewhere."""

from __future__ import annotations

import pytest

from thalweg.errors import SettingsError
from thalweg.relaxation import FIRE


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"dt": 0.0}, "dt is 0.0"),
        ({"maxstep": -1.0}, "maxstep is -1.0"),
        ({"dtmax": float("nan")}, "dtmax is nan"),
        ({"nmin": -1}, "nmin is -1"),
        ({"finc": 0.9}, "finc is 0.9"),
        ({"fdec": 1.5}, "fdec is 1.5"),
        ({"fa": 0.0}, "fa is 0.0"),
        ({"astart": 0.0}, "astart is 0.0"),
    ],
)
def test_settings_outside_their_range_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        FIRE(**wrong)
