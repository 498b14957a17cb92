"""The smallest inputs that every command takes: 7-atom cells of silicon, a base of two updates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.terminal import thalweg
from tests.training import problems
from thalweg.structures.extended_xyz import write_frames, write_pairs

SHORT = (
    *("optimiser.updates=2", "optimiser.warmup=0", "optimiser.batch=2"),
    *("relaxation.steps=6", "relaxation.max_steps=100", "route.horizon=3"),
)
"""A tuning run of half a second."""
SMALL = ("potential.channels=4", "potential.layers=1", "potential.cutoff=3.5")


@dataclass(frozen=True)
class Inputs:
    """Paths of inputs that commands take; nothing writes there."""

    folder: Path

    @property
    def pairs(self) -> Path:
        return self.folder / "pairs.extxyz"

    @property
    def held_out(self) -> Path:
        return self.folder / "held-out.extxyz"

    @property
    def frames(self) -> Path:
        return self.folder / "frames.extxyz"

    @property
    def model(self) -> Path:
        return self.folder / "base" / "model.safetensors"


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Pairs, held-out pairs, frames and a base, made by the commands themselves where they can be that small."""
    made = Inputs(tmp_path_factory.mktemp("inputs"))
    write_pairs(made.pairs, problems.pairs(4, 1))
    write_pairs(made.held_out, problems.pairs(2, 2))
    write_frames(made.frames, problems.frames(4, 3))
    done = thalweg(
        "train", made.frames, f"out={made.folder / 'base'}", *SMALL, "optimiser.updates=2", "optimiser.warmup=1"
    )
    assert done.status == 0, done.err
    return made
