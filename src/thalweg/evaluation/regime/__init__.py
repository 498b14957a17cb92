"""The regime map: will training through relaxation pay with this potential on these pairs? Four measured coordinates.

One file a question (`forces`, `valleys`, `landing`, `decision`), one for all limits and the verdict (`verdict`).
"""

from __future__ import annotations

from thalweg.evaluation.regime.coordinate import Answer, Coordinate, Figure, Measurement
from thalweg.evaluation.regime.decision import UPDATES
from thalweg.evaluation.regime.measure import measure_map
from thalweg.evaluation.regime.regime_map import Decision, RegimeMap
from thalweg.evaluation.regime.settings import MapSettings
from thalweg.evaluation.regime.verdict import MapLimits

__all__ = [
    "UPDATES",
    "Answer",
    "Coordinate",
    "Decision",
    "Figure",
    "MapLimits",
    "MapSettings",
    "Measurement",
    "RegimeMap",
    "measure_map",
]
