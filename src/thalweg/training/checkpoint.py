"""Checkpoints: all that a run needs to go on bit for bit, in one safetensors file that runs no code.

Tensors are `model.<name>` and `optimiser.<parameter>.<moment>`; the header is JSON: format, version, command,
identity of the run, number of updates done, scalars of the run, header of the potential. Random streams are
keyed by the update, so there is no generator state to keep. Written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from thalweg.errors import CheckpointError
from thalweg.potentials.contract import Potential
from thalweg.potentials.files import potential_header
from thalweg.storage import atomic_write
from thalweg.training.optimiser import Optimiser
from thalweg.training.run_folder import Identity

FORMAT = "thalweg checkpoint"
"""What the header calls such a file."""
VERSION = 1
"""Version of header and tensor names."""

_MODEL, _OPTIMISER = "model.", "optimiser."


@dataclass(frozen=True)
class Progress:
    """Where a run stands besides its tensors."""

    update: int
    """Updates of the parameters done."""
    scalars: dict[str, Any]
    """Everything else, of JSON types."""


def save_checkpoint(
    path: Path,
    *,
    command: str,
    identity: Identity,
    progress: Progress,
    potential: Potential,
    optimiser: Optimiser,
) -> None:
    """Write a checkpoint in place of the last one.

    Args:
        path: where to.
        command: `train` or `tune`.
        identity: what the run is.
        progress: updates done and scalars.
        potential: its present parameters.
        optimiser: its moments.

    Raises:
        OutputError: the file cannot be written; the last one stays as it was.
    """
    header = {
        "format": FORMAT,
        "version": VERSION,
        "command": command,
        "identity": asdict(identity),
        "update": progress.update,
        "scalars": progress.scalars,
        "potential": potential_header(potential),
    }
    tensors = {f"{_MODEL}{name}": tensor for name, tensor in potential.state_dict().items()}
    tensors |= {f"{_OPTIMISER}{name}": tensor for name, tensor in optimiser.state().items()}
    # clones: safetensors refuses tensors that share memory, and state_dict may hand out views
    owned = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    atomic_write(path, save(owned, {"header": json.dumps(header, allow_nan=False)}), overwrite=True)


def load_checkpoint(
    path: Path, *, command: str, identity: Identity, potential: Potential, optimiser: Optimiser
) -> Progress:
    """Read a checkpoint into a potential and its optimiser.

    Raises:
        CheckpointError: corrupt, of another version, command, run or potential.
    """
    header, tensors = _read(path)
    _check(path, header, command, identity, potential)
    model = {n.removeprefix(_MODEL): t for n, t in tensors.items() if n.startswith(_MODEL)}
    moments = {n.removeprefix(_OPTIMISER): t for n, t in tensors.items() if n.startswith(_OPTIMISER)}
    wanted = {name: tuple(tensor.shape) for name, tensor in potential.state_dict().items()}
    _same_shapes(path, {n: tuple(t.shape) for n, t in model.items()}, wanted)
    if moments:
        _same_shapes(path, {n: tuple(t.shape) for n, t in moments.items()}, optimiser.expected())
    potential.load_state_dict(model)
    optimiser.restore(moments)
    return Progress(update=header["update"], scalars=header["scalars"])


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = json.loads((file.metadata() or {})["header"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        reason = "it has no header" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise CheckpointError(f"{path}: the checkpoint is damaged ({reason}): begin anew with overwrite=true") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the checkpoint is damaged (no header): begin anew with overwrite=true")
    return header, tensors


def _check(path: Path, header: Mapping[str, Any], command: str, identity: Identity, potential: Potential) -> None:
    """Refuse what does not belong to this run."""
    advice = "choose another folder with out=... or begin anew with overwrite=true"
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: its header says {header.get('format')!r}, not {FORMAT!r}: {advice}")
    if header.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: checkpoint version {header.get('version')!r} cannot be read, this release reads {VERSION}: "
            "resume with the release that wrote it or begin anew with overwrite=true"
        )
    if header.get("command") != command:
        raise CheckpointError(f"{path}: it was written by {header.get('command')!r}, not {command!r}: {advice}")
    ours = potential_header(potential)
    theirs = header.get("potential")
    if theirs != ours:
        kind = theirs.get("kind") if isinstance(theirs, dict) else None
        raise CheckpointError(
            f"{path}: it holds another potential (a {kind} with other settings than this {ours['kind']}): {advice}"
        )
    for name, value in asdict(identity).items():
        stored = (header.get("identity") or {}).get(name)
        if stored != value:
            what = {"settings": "settings", "data": "structures", "start": "start potential"}[name]
            raise CheckpointError(f"{path}: it belongs to other {what} ({stored}, this run {value}): {advice}")
    if not isinstance(header.get("update"), int) or not isinstance(header.get("scalars"), dict):
        raise CheckpointError(f"{path}: the checkpoint is damaged (header incomplete): begin anew with overwrite=true")


def _same_shapes(path: Path, found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> None:
    for name in sorted(set(found) | set(wanted)):
        if found.get(name) != wanted.get(name):
            raise CheckpointError(
                f"{path}: tensor {name!r} has shape {found.get(name)}, but this potential needs "
                f"{wanted.get(name)}: begin anew with overwrite=true"
            )
