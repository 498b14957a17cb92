"""Random rotations in training: nothing to an equivariant potential, something to one that is not, resumable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.potentials.pinned import fitted, sites
from tests.training import problems

from thalweg.errors import StructureError
from thalweg.potentials.files import load_potential
from thalweg.structures.pairs import Pairs
from thalweg.training.force_matching import train
from thalweg.training.loading import load_settings
from thalweg.training.processes import Report
from thalweg.training.run import RunResult
from thalweg.training.settings import TrainSettings
from thalweg.training.tuning import tune

FRAMES = problems.frames(8, 1)
KINDS = {
    "painn": "potential={kind: painn, channels: 6, layers: 1, radial_functions: 5}",
    "transformer": "potential={kind: transformer, width: 16, feed_forward: 16, layers: 1, heads: 2}",
}


class StoppedError(Exception):
    """Stands for a kill between two lines of metrics."""


def fit(
    out: Path, kind: str, augment: str, progress: Callable[[Report], None] | None = None, every: int = 4
) -> RunResult:
    told = load_settings(
        TrainSettings,
        None,
        [
            f"out={out}",
            f"augment={augment}",
            KINDS[kind],
            "optimiser={updates: 12, batch: 3, warmup: 2}",
            f"validate_every={every}",
            "checkpoint_every=5",
            "device={accelerator: cpu, dtype: float64}",
        ],
    )
    return train(told, FRAMES, progress=progress)


def stop_at(update: int) -> Callable[[Report], None]:
    def stop(report: Report) -> None:
        if report.update == update:
            raise StoppedError

    return stop


def spread(first: RunResult, second: RunResult) -> float:
    """Return the largest difference between the parameters of two models."""
    one, two = (load_potential(r.model).state_dict() for r in (first, second))
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def test_turning_frames_is_nothing_to_an_equivariant_potential(tmp_path: Path) -> None:
    """Only if positions, cell and forces turn together does the loss stay as it is."""
    assert spread(fit(tmp_path / "a", "painn", "none"), fit(tmp_path / "b", "painn", "rotation")) < 1e-9


def test_turning_frames_is_something_to_a_cell_blind_one(tmp_path: Path) -> None:
    ends = fit(tmp_path / "a", "transformer", "none"), fit(tmp_path / "b", "transformer", "rotation")
    assert spread(*ends) > 1e-3


def test_an_interrupted_fit_draws_the_rotations_it_would_have_drawn(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", "transformer", "rotation")
    with pytest.raises(StoppedError):
        fit(tmp_path / "cut", "transformer", "rotation", stop_at(8))
    assert fit(tmp_path / "cut", "transformer", "rotation").model.read_bytes() == whole.model.read_bytes()


def test_turning_pairs_is_nothing_to_an_equivariant_potential(tmp_path: Path) -> None:
    pairs = problems.pairs(3, 1)

    def end(name: str, *overrides: str) -> RunResult:
        few = ("relaxation.alpha=0.03", "optimiser={updates: 3, batch: 2, warmup: 0, learning_rate: 1e-2}")
        return tune(problems.settings(tmp_path / name, *few, *overrides), problems.base(), pairs)

    plain = end("plain")
    assert spread(plain, end("turned", "augment=rotation")) < 1e-7
    assert spread(plain, end("other", "seed=1")) > 1e-4


def test_a_cell_blind_potential_is_tuned_through_relaxation_by_descent(tmp_path: Path) -> None:
    """Towards minima a little beside its own: the equilibrium gradient of direct forces shortens the way."""
    starts = sites(3, 0.05, "tuned")
    target = sites(3, 0.0, "home").positions + 0.03 * torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    pairs = Pairs(starts, starts.with_positions(target), starts.ids)
    told = problems.settings(
        tmp_path,
        "relaxation={finish: descent, alpha: 0.02}",
        "route={kind: implicit}",
        "optimiser={updates: 6, batch: 3, warmup: 0, learning_rate: 1e-7, schedule: constant}",
    )
    result = tune(told, fitted(), pairs)
    losses = [line["equilibrium"] for line in problems.records(tmp_path / "metrics.jsonl")]
    certificates = problems.records(result.folder / "certificates.jsonl")
    assert all(c["took_part"] and c["asymmetry"] > 0.05 and c["lowest_curvature"] > 0 for c in certificates)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.6 * losses[0]


def test_atoms_fixed_in_part_are_refused_before_any_work(tmp_path: Path) -> None:
    pairs = problems.pairs(3, 1)
    pairs.starts.free[4, 0] = False
    with pytest.raises(StructureError, match="augment: none"):
        tune(problems.settings(tmp_path / "run", "augment=rotation"), problems.base(), pairs)
    assert not (tmp_path / "run").exists()
