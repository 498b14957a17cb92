"""Small models of other packages for the contract; where a package is not here, its cases are skipped."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from typing import Any

MODULES = {
    "mace": "mace",
    "nequip": "nequip",
    "sevennet": "sevenn",
    "chgnet": "chgnet",
    "orb": "orb_models",
    "orb-direct": "orb_models",
    "matgl": "matgl",
    "fairchem": "fairchem",
}
"""What each kind imports."""
_ORB = {
    "latent_dim": 16,
    "base_mlp_hidden_dim": 16,
    "base_mlp_depth": 1,
    "head_mlp_hidden_dim": 8,
    "num_message_passing_steps": 2,
}
_TENSOR_NET = {"units": 8, "nblocks": 1, "cutoff": 4.5, "num_rbf": 8}
M3GNET = {
    "dim_node_embedding": 8,
    "dim_edge_embedding": 8,
    "units": 8,
    "nblocks": 2,
    "cutoff": 4.5,
    "threebody_cutoff": 3.5,
    "use_smooth": True,
}
"""Options of a small M3GNet."""
SMALL_OF_PACKAGES: dict[str, dict[str, Any]] = {
    "mace": {"hidden_irreps": "2x0e+2x1o", "MLP_irreps": "4x0e", "radial_MLP": [8]},
    "nequip": {
        "cutoff": 4.2,
        "config": {
            "num_layers": 2,
            "l_max": 2,
            "num_features": 3,
            "radial_mlp_width": 8,
            "per_type_energy_scales": 2.0,
        },
    },
    "sevennet": {
        "cutoff": 4.2,
        "config": {
            "channel": 3,
            "lmax": 2,
            "num_convolution_layer": 2,
            "weight_nn_hidden_neurons": [8],
            "scale": 2e4,  # without it forces are 1e-5 eV/Å and curvatures 1e-4 eV/Å²: nothing would be tested
        },
    },
    "chgnet": {
        "options": {
            **{f"{what}_fea_dim": 8 for what in ("atom", "bond", "angle")},
            "num_radial": 5,
            "num_angular": 5,
            "n_conv": 3,
            "atom_conv_hidden_dim": 8,
            "bond_conv_hidden_dim": 8,
            "mlp_hidden_dims": [8, 8],
            "atom_graph_cutoff": 4.5,
            "bond_graph_cutoff": 3.2,
        }
    },
    "orb": {"options": _ORB},
    "orb-direct": {"options": _ORB},
    "matgl": {"architecture": "TensorNet", "options": _TENSOR_NET},
    "fairchem": {
        "options": {
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
    },
}
"""Settings of the smallest sizes, beside the species."""


def missing(kind: str) -> str | None:
    """Return why the models of a kind cannot be built here, or None."""
    if kind in MODULES and find_spec(MODULES[kind]) is None:
        return f"{MODULES[kind]} is not here: make adapters-{kind.partition('-')[0]}"
    if kind == "equivariant" and [int(part) for part in metadata.version("e3nn").split(".")[:2]] < [0, 5]:
        return "this e3nn has other signs: our own equivariant potential refuses it"
    return None
