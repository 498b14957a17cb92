"""Small checkpoints of eSEN, written by fairchem's own code from its own kinds of configuration."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

_UMA = "fairchem.core.models.uma"
_UNIT = "fairchem.core.units.mlip_unit.mlip_unit"
_NORMALISATION = "fairchem.core.modules.normalization"
_BACKBONE: dict[str, Any] = {
    "max_num_elements": 100,
    "sphere_channels": 8,
    "lmax": 2,
    "mmax": 2,
    "otf_graph": True,
    "max_neighbors": 300,
    "cutoff": 4.2,
    "edge_channels": 8,
    "distance_function": "gaussian",
    "num_distance_basis": 8,
    "regress_forces": True,
    "regress_stress": True,
    "direct_forces": False,
    "num_layers": 2,
    "hidden_channels": 8,
    "norm_type": "rms_norm_sh",
    "act_type": "gate",
}
_NO_EXPERTS = {"num_experts": 0, "moe_dropout": 0.05, "moe_layer_type": "pytorch", "use_composition_embedding": True}


def backbone(shape: str, **changes: Any) -> dict[str, Any]:
    """Return the configuration of a backbone: `plain`, or `no experts` with an embedding of two data sets."""
    if shape == "plain":
        return {"model": f"{_UMA}.escn_md.eSCNMDBackbone", "use_dataset_embedding": False, **_BACKBONE, **changes}
    shared = {"chg_spin_emb_type": "rand_emb", "ff_type": "spectral", "dataset_list": ["oc20", "omat", "omol"]}
    return {"model": f"{_UMA}.escn_moe.eSCNMDMoeBackbone", **_NO_EXPERTS, **_BACKBONE, **shared, **changes}


def head(shape: str) -> dict[str, Any]:
    """Return the configuration of a head: `plain`, `wrapped` for three data sets, or `linear` maps for each of them."""
    if shape == "plain":
        return {"module": f"{_UMA}.escn_md.MLP_EFS_Head"}
    wrapper = "DatasetSpecificMoEWrapper" if shape == "linear" else "DatasetSpecificSingleHeadWrapper"
    names = ["oc20", "omat", "omol"]
    inner = {"head_cls": f"{_UMA}.escn_md.MLP_EFS_Head", "head_kwargs": {"wrap_property": False}}
    return {"module": f"{_UMA}.escn_moe.{wrapper}", **inner, "dataset_names": names}


def task(name: str, prefix: str = "", quantity: str = "energy", rmsd: float = 1.5) -> dict[str, Any]:
    """Return the configuration of a task of one data set with the scale `rmsd`; references differ with the prefix."""
    references = [round(-0.1 * z - 0.01 * len(prefix), 3) for z in range(100)]
    values = {"_target_": "torch.DoubleTensor", "_args_": [references]}
    told: dict[str, Any] = {
        "_target_": f"{_UNIT}.Task",
        "name": f"{prefix}{quantity}",
        "level": "atom" if quantity == "forces" else "system",
        "property": quantity,
        "out_spec": {"dim": [3] if quantity == "forces" else [1], "dtype": "float32"},
        "normalizer": {"_target_": f"{_NORMALISATION}.normalizer.Normalizer", "mean": 0.0, "rmsd": rmsd},
        "datasets": [name],
    }
    if quantity == "energy":
        kind = f"{_NORMALISATION}.element_references.ElementReferences"
        told["element_references"] = {"_target_": kind, "element_references": values}
    return told


def write_checkpoint(folder: Path, model: dict[str, Any], heads: dict[str, Any], tasks: list[dict[str, Any]]) -> Path:
    """Let fairchem build a model with random weights, checkpoint it as in training, and convert that for inference.

    The running average differs from the last weights, as after training.
    """
    import hydra
    from fairchem.core.units.mlip_unit.mlip_unit import convert_train_checkpoint_to_inference_checkpoint
    from omegaconf import OmegaConf
    from torch.distributed import checkpoint

    told = {
        "_target_": "fairchem.core.models.base.HydraModel",
        "backbone": model,
        "pass_through_head_outputs": True,
        "heads": heads,
    }
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # one process, no distributed training
        torch.manual_seed(3)
        last = hydra.utils.instantiate(told)
        average = torch.optim.swa_utils.AveragedModel(last)
        with torch.no_grad():
            for parameter in last.parameters():
                parameter.mul_(1.1)
        states = {"model": last.state_dict(), "ema": average.state_dict()}
        config = OmegaConf.create({"runner": {"train_eval_unit": {"model": told, "tasks": tasks}}})
        checkpoint.save({"unit_state": states, "config": config}, checkpoint_id=str(folder / "training"), no_dist=True)
        path = folder / "inference_ckpt.pt"
        convert_train_checkpoint_to_inference_checkpoint(str(folder / "training"), str(path))
    return path
