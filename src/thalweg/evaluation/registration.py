"""Freezing a protocol before it is run: what was decided, when, and by which code, in `registration.json`.

    protocol.yaml → content as written, protocol with every default filled in → hash, date, code version

The hash is over both, so comments and layout may change and a decision may not; and since the study runs what the
registration holds, a default that another version changes does not change the study. Called by `study`.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thalweg.errors import RunFolderError, SettingsError
from thalweg.evaluation.protocol import Protocol
from thalweg.evaluation.provenance import Code, code_version
from thalweg.storage import atomic_write
from thalweg.training.loading import read_mapping, validate_settings

PROTOCOL, REGISTRATION = "protocol.yaml", "registration.json"


@dataclass(frozen=True)
class Registration:
    """A frozen protocol."""

    hash: str
    """Of the content and of the protocol."""
    date: str
    """When it was registered, UTC."""
    code: Code
    """By which code."""
    content: dict[str, Any]
    """The protocol as written."""
    protocol: Protocol
    """The same with every default filled in: what is run."""


def register(path: str | Path) -> tuple[Registration, bool]:
    """Freeze a protocol: write `registration.json` beside it.

    Args:
        path: the protocol, a file called `protocol.yaml` in a folder of its own.

    Returns:
        The registration, and whether it was there already.

    Raises:
        SettingsError: the file has another name, is no protocol, or another protocol is registered here.
        OutputError: the folder cannot be written.
    """
    path = Path(path)
    if path.name != PROTOCOL:
        raise SettingsError(
            f"{path}: a protocol is called {PROTOCOL} and has a folder of its own, e.g. study/{PROTOCOL}"
        )
    content = read_mapping(path)
    protocol = validate_settings(Protocol, content, source=str(path))
    if (path.parent / REGISTRATION).exists():
        return checked(path.parent), True
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    dumped = protocol.model_dump(mode="json")
    found = Registration(_hash(content, dumped), date, code_version(), content, protocol)
    record = {
        "schema": 1,
        "hash": found.hash,
        "date": date,
        "code": asdict(found.code),
        "content": _plain(content),
        "protocol": dumped,
    }
    atomic_write(path.parent / REGISTRATION, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return found, False


def checked(folder: Path) -> Registration:
    """Return the registration of a folder whose protocol still says what was registered.

    Raises:
        SettingsError: nothing is registered, or the protocol was changed since; the message names the keys.
        RunFolderError: the registration cannot be read or was edited.
    """
    found = read_registration(folder)
    if found is None:
        raise SettingsError(
            f"{folder} has no {REGISTRATION}: freeze the protocol first, with "
            f"thalweg study register {folder / PROTOCOL}"
        )
    content = read_mapping(folder / PROTOCOL)
    if _plain(content) != found.content:
        here, there = _plain(content), found.content
        keys = [key for key in sorted({*here, *there}) if here.get(key) != there.get(key)]
        raise SettingsError(
            f"{folder / PROTOCOL} is not what was registered on {found.date} ({', '.join(keys)} changed): put it back, "
            "or copy it into a folder of its own and register it there as another study"
        )
    return found


def read_registration(folder: Path) -> Registration | None:
    """Return the registration of a folder, None if there is none.

    Raises:
        RunFolderError: it cannot be read, or what it holds does not have its hash.
    """
    path = folder / REGISTRATION
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        content, dumped = record["content"], record["protocol"]
        told, date, code = record["hash"], record["date"], Code(**record["code"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path}: cannot be read ({error!r}); restore the file as it was registered") from None
    if told != _hash(content, dumped):
        raise RunFolderError(f"{path}: was edited after it was registered; restore the file as it was registered")
    return Registration(told, date, code, content, validate_settings(Protocol, dumped, source=str(path)))


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content as JSON gives it back."""
    plain: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return plain


def _hash(content: dict[str, Any], protocol: dict[str, Any]) -> str:
    text = json.dumps([_plain(content), protocol], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
