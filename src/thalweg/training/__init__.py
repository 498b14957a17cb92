"""Training: force matching makes the base (`train`), tuning trains it through relaxation (`tune`).

Both take a settings object and data in memory, keep a run folder, and resume bit for bit.
"""

from __future__ import annotations

from thalweg.training.force_matching import train
from thalweg.training.loading import dump_settings, load_settings, settings_hash
from thalweg.training.processes import Report
from thalweg.training.run import RunResult
from thalweg.training.settings import TrainSettings, TuneSettings
from thalweg.training.tuning import tune

__all__ = [
    "Report",
    "RunResult",
    "TrainSettings",
    "TuneSettings",
    "dump_settings",
    "load_settings",
    "settings_hash",
    "train",
    "tune",
]
