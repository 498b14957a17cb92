"""A tuning problem of seconds: vacancies and interstitials in small silicon cells on a Stillinger-Weber surface."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from ase.build import bulk

from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relaxation import LBFGS, relax
from thalweg.seeds import numpy_stream
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Frames, Pairs
from thalweg.training.loading import load_settings
from thalweg.training.settings import TuneSettings


def starts(count: int, seed: int) -> Structures:
    """Return cubic cells of silicon less one atom, rattled by 0.15 Å."""
    cells = []
    for k in range(count):
        stream = numpy_stream(seed, "small silicon", k)
        atoms = bulk("Si", cubic=True)
        del atoms[int(stream.integers(8))]
        atoms.positions += 0.15 * stream.standard_normal(atoms.positions.shape)
        atoms.info["id"] = f"small-{seed}-{k}"
        cells.append(atoms)
    return Structures.from_atoms(cells)


def pairs(count: int, seed: int) -> Pairs:
    """Return starts and their minima on the published surface."""
    begin = starts(count, seed)
    end = relax(StillingerWeber.from_published("Si"), begin, LBFGS(), fmax=1e-4, max_steps=500)
    return Pairs(begin, end.structures, begin.ids)


def frames(count: int, seed: int) -> Frames:
    """Return starts with energies and forces of the published surface."""
    structures = starts(count, seed)
    label = StillingerWeber.from_published("Si")(structures)
    return Frames(structures, label.energy, label.forces, structures.ids)


def base() -> StillingerWeber:
    """Return the published surface with every parameter off by some percent."""
    potential = StillingerWeber.from_published("Si")
    with torch.no_grad():
        for k, parameter in enumerate(potential.parameters()):
            parameter.add_(0.03 * (-1) ** k)
    return potential


def records(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a record file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def settings(out: Path, *overrides: str) -> TuneSettings:
    """Return settings for eight quick updates."""
    quick = [
        f"out={out}",
        "relaxation.steps=10",
        "route={kind: split, horizon: 3}",
        "optimiser={updates: 8, batch: 3, warmup: 2, learning_rate: 1e-2}",
        "validate_every=3",
        "stability_every=4",
        "minima=2",
        "device.accelerator=cpu",
    ]
    return load_settings(TuneSettings, None, [*quick, *overrides])
