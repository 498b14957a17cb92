"""fairchem's eSEN under the contract, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.contracts import potential_checks as checks
from tests.contracts.test_potentials import Claims, checks_of, compounds

from thalweg.errors import PotentialError
from thalweg.potentials import build_potential
from thalweg.potentials.contract import Potential
from thalweg.potentials.opening import open_potential

pytest.importorskip("fairchem.core.models.uma.escn_md", reason="pip install 'thalweg[fairchem]'", exc_type=ImportError)

SMALL: dict[str, Any] = {
    "sphere_channels": 8,
    "lmax": 2,
    "mmax": 2,
    "cutoff": 4.5,
    "edge_channels": 8,
    "num_distance_basis": 8,
    "num_layers": 2,
    "hidden_channels": 8,
    "use_dataset_embedding": False,
}


def small() -> Potential:
    """A fresh small eSEN in float64."""
    return build_potential("fairchem", {"species": [14, 48, 52], "options": SMALL}).double()


@pytest.mark.parametrize("check", checks_of(Claims(equivariant=False, smooth=False)), ids=lambda check: check.__name__)
def test_esen_keeps(check: checks.Check) -> None:
    check(small(), compounds())


def test_calls_leave_the_global_stream_alone() -> None:
    potential, before = small(), torch.get_rng_state()
    potential(compounds())
    assert torch.equal(torch.get_rng_state(), before)


def test_refused_settings_and_files_are_one_line() -> None:
    for settings, says in (
        ({"species": [100]}, "knows the elements 1 to 99"),
        ({"options": {"otf_graph": True}}, "sets itself"),
        ({"options": {"widths": 3}}, "cannot build this module"),
    ):
        with pytest.raises(PotentialError, match=says):
            build_potential("fairchem", settings)
    with pytest.raises(PotentialError, match="no such file"):
        open_potential("fairchem:absent.pt")
    with pytest.raises(PotentialError, match="allowed is dataset=NAME"):
        open_potential("fairchem:absent.pt?task=omat")
