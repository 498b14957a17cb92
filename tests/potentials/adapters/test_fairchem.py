"""fairchem's eSEN: what is refused, and what calls leave alone."""

from __future__ import annotations

import pytest
import torch
from tests.contracts.crystals import compounds
from tests.contracts.package_models import SMALL_OF_PACKAGES

from thalweg.errors import PotentialError
from thalweg.potentials import build_potential
from thalweg.potentials.contract import Potential
from thalweg.potentials.opening import open_potential

pytest.importorskip("fairchem.core.models.uma.escn_md", reason="pip install 'thalweg[fairchem]'", exc_type=ImportError)


def small() -> Potential:
    """A fresh small eSEN in float64."""
    return build_potential("fairchem", {"species": [14, 48, 52], **SMALL_OF_PACKAGES["fairchem"]}).double()


def test_calls_leave_the_global_stream_alone() -> None:
    potential, before = small(), torch.get_rng_state()
    potential(compounds())
    assert torch.equal(torch.get_rng_state(), before)


def test_refused_settings_and_files_are_one_line() -> None:
    for settings, says in (
        ({"species": [100]}, "knows the elements 1 to 99"),
        ({"options": {"otf_graph": True}}, "sets itself"),
        ({"options": {"widths": 3}}, "fairchem cannot build"),
    ):
        with pytest.raises(PotentialError, match=says):
            build_potential("fairchem", settings)
    with pytest.raises(PotentialError, match="no such file"):
        open_potential("fairchem:absent.pt")
    with pytest.raises(PotentialError, match="has no option 'task'"):
        open_potential("fairchem:absent.pt?task=omat")
