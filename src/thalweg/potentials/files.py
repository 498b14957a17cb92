"""Model files: a potential in one `.safetensors` file, whose metadata say how to build it again.

The header (format, version, kind, settings, dtype) is JSON text, the rest are the tensors of the state
dictionary; nothing in it is executed. Training checkpoints embed the same header and tensors. A file is
written beside its place and moved there when complete, so that a file that exists is whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from thalweg.errors import CheckpointError, PotentialError, nearest_known
from thalweg.potentials import POTENTIALS, build_potential
from thalweg.potentials.contract import Potential
from thalweg.storage import atomic_write

FORMAT = "thalweg potential"
"""What the header calls such a file."""
VERSION = 1
"""Version of the header and of the names of the tensors."""

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def potential_header(potential: Potential) -> dict[str, Any]:
    """Return the header of a potential: format, version, kind, settings and dtype, all of JSON types.

    Raises:
        CheckpointError: floating types that differ among its tensors or are neither float32 nor float64.
    """
    found = {tensor.dtype for tensor in potential.state_dict().values() if tensor.is_floating_point()}
    names = [name for name, dtype in _DTYPES.items() if found == {dtype}]
    if not names:
        raise CheckpointError(
            f"this {potential.kind} potential holds tensors of {sorted(map(str, found))}: "
            f"files hold one of {', '.join(_DTYPES)}, convert with .to(dtype=...)"
        )
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": potential.kind,
        "settings": potential.settings,
        "dtype": names[0],
    }


def potential_from_header(
    header: Mapping[str, Any], tensors: Mapping[str, Tensor], *, source: str = "header"
) -> Potential:
    """Build the potential a header describes and give it its tensors.

    Args:
        header: what `potential_header` returned.
        tensors: its state dictionary.
        source: what to call it in errors, e.g. the path of the file.

    Raises:
        CheckpointError: another format or version, an unknown kind, refused settings, or tensors that are
            missing, too many, or of another shape or floating type.
    """
    _check_header(header, source)
    try:
        potential = build_potential(header["kind"], header["settings"])
    except PotentialError as error:
        raise CheckpointError(f"{source}: {error}") from None
    potential = potential.to(_DTYPES[header["dtype"]])
    wanted = potential.state_dict()
    for name, tensor in wanted.items():
        if name not in tensors:
            raise CheckpointError(f"{source}: tensor {name!r} is missing; the file is damaged or of another version")
        given = tensors[name]
        if given.shape != tensor.shape or given.dtype != tensor.dtype:
            raise CheckpointError(
                f"{source}: tensor {name!r} is {given.dtype} {tuple(given.shape)}, but its settings ask for "
                f"{tensor.dtype} {tuple(tensor.shape)}"
            )
        if given.is_floating_point() and not bool(given.isfinite().all()):
            raise CheckpointError(
                f"{source}: tensor {name!r} has values that are not finite, so no energy would be; make it again"
            )
    strange = sorted(set(tensors) - set(wanted))
    if strange:
        raise CheckpointError(f"{source}: tensor {strange[0]!r} does not belong to a {header['kind']} potential")
    potential.load_state_dict(dict(tensors))
    return potential


def save_potential(path: str | Path, potential: Potential) -> None:
    """Write a potential to a file; an older file of that name is replaced only when the new one is complete.

    Raises:
        CheckpointError: floating types that a file cannot hold.
        OutputError: the folder cannot be written.
    """
    header = potential_header(potential)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in potential.state_dict().items()}
    atomic_write(path, save(tensors, {"header": json.dumps(header)}), overwrite=True)


def load_potential(path: str | Path) -> Potential:
    """Read a potential from a file, on the CPU and in the floating type it was saved in.

    Raises:
        CheckpointError: no such file, or one that is corrupt or of another format or version.
    """
    if Path(path).is_dir():
        raise CheckpointError(f"{path}: this is a folder; give the model file in it, e.g. {path}/model.safetensors")
    if not Path(path).is_file():
        raise CheckpointError(
            f"{path}: there is no such model file; give one that thalweg train or tune wrote, a .sw file or "
            "stillinger-weber:NAME"
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = json.loads((file.metadata() or {})["header"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        reason = "it has no header" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{path}: this is not a model file or it is damaged ({reason}); make it again") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header is {header!r}, not a mapping; save the potential again")
    return potential_from_header(header, tensors, source=str(path))


def _check_header(header: Mapping[str, Any], source: str) -> None:
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{source}: the header does not say {FORMAT!r}; give a file that thalweg train or tune wrote"
        )
    if header.get("version") != VERSION:
        raise CheckpointError(
            f"{source}: format version {header.get('version')!r} cannot be read, this release reads "
            f"{VERSION}: use the release that wrote it"
        )
    if not isinstance(header.get("kind"), str) or not isinstance(header.get("settings"), dict):
        raise CheckpointError(f"{source}: the header lacks the kind or the settings of the potential; save it again")
    if header["kind"] not in POTENTIALS:
        raise CheckpointError(
            f"{source}: potential {header['kind']!r} is not known to this release: "
            f"{nearest_known(header['kind'], POTENTIALS)}"
        )
    if header.get("dtype") not in _DTYPES:
        raise CheckpointError(
            f"{source}: floating type {header.get('dtype')!r} is not one of {', '.join(_DTYPES)}; save it again"
        )
