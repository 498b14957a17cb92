"""Other people's code by name: `module:factory`, the options it is called with, and the consent to run it.

To import a module is to run it. What a user types or calls is run because they named it; what stands in a model
file or in settings is run only if its name was allowed, by `allow_code` or in the environment variable
`THALWEG_ALLOW_CODE`, which processes started from this one inherit. A pickle is code: another package's file of
weights is read as tensors and plain values, and unpickled only if its path was typed or allowed likewise.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml

from thalweg.errors import PotentialError, nearest_known

VARIABLE = "THALWEG_ALLOW_CODE"
"""Environment variable with the names of allowed factories and files, separated by commas."""


def allowed_code() -> frozenset[str]:
    """Return the names of the factories that files and settings may have run."""
    return frozenset(name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip())


def allow_code(name: str) -> None:
    """Consent to run one factory wherever a file or settings name it, in this process and those it starts.

    Args:
        name: `module:factory` or `path.py:factory`, spelt as the file spells it.

    Raises:
        PotentialError: not such a name.
    """
    split_name(name)
    os.environ[VARIABLE] = ",".join(sorted(allowed_code() | {name}))


def require_consent(name: str) -> None:
    """Refuse a factory that was not allowed.

    Raises:
        PotentialError: naming the factory and how to allow it.
    """
    if name not in allowed_code():
        raise PotentialError(
            f"this asks to run the code {name!r}, which was not allowed: if you trust it, set the environment variable "
            f"{VARIABLE}={name} (in Python: thalweg.potentials.adapters.code.allow_code({name!r}))"
        )


def allow_file(path: Path) -> None:
    """Consent to unpickle a file, or those of a folder, in this process and those it starts.

    Args:
        path: as it will be opened.

    Raises:
        PotentialError: a comma in it.
    """
    if "," in str(path):
        raise PotentialError(f"{path}: a path with a comma cannot be allowed ({VARIABLE} is a list): rename it")
    os.environ[VARIABLE] = ",".join(sorted(allowed_code() | {str(path)}))


def read_pickled(path: Path) -> Any:
    """Read a file that torch wrote, on the CPU: as tensors and plain values, or whole if that was allowed.

    Raises:
        PotentialError: it holds more than tensors and plain values, and neither it nor its folder was allowed.
        Exception: whatever torch or the pickle raises on a file that cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not {str(path), str(path.parent)} & {str(Path(name)) for name in allowed_code()}:
            raise PotentialError(
                f"{path} holds more than tensors, and to read it is to run what it says, which was not allowed: if "
                f"you trust it, set the environment variable {VARIABLE}={path} (in Python: "
                f"thalweg.potentials.adapters.code.allow_file)"
            ) from None
    return torch.load(path, map_location="cpu", weights_only=False)


def split_name(name: str) -> tuple[str, str]:
    """Return module (dotted, or the path of a .py file) and factory of `module:factory`.

    Raises:
        PotentialError: one of them is missing, or a comma in it.
    """
    module, colon, factory = name.rpartition(":")
    if not (colon and module and factory.isidentifier()) or "," in name:
        raise PotentialError(
            f"{name!r} does not name a factory: allowed is module:factory with a dotted module or the path of a .py "
            "file without a comma, e.g. mymodels:make or models/mine.py:make"
        )
    return module, factory


def parse_words(words: str) -> tuple[str, dict[str, Any]]:
    """Return name and options of `module:factory?key=value&key=value`; values are read as YAML.

    Raises:
        PotentialError: an option that is not key=value, or given twice.
    """
    name, _, query = words.partition("?")
    split_name(name)
    return name, parse_options(query, name)


def parse_options(query: str, name: str) -> dict[str, Any]:
    """Return the options of `key=value&key=value`; values are read as YAML.

    Args:
        query: what follows the question mark.
        name: what they are options of, for errors.

    Raises:
        PotentialError: an option that is not key=value, or given twice.
    """
    options: dict[str, Any] = {}
    for part in query.split("&") if query else []:
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier() or key in options:
            raise PotentialError(
                f"option {part!r} of {name!r} cannot be used: allowed is key=value, each key once, joined by &"
            )
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise PotentialError(f"option {key!r} of {name!r} is {value!r}: quote it as YAML would ask for") from None
    return options


def find_factory(name: str) -> Callable[..., Any]:
    """Import the module and return the factory; this runs the module.

    Raises:
        PotentialError: no such module, file or name in it, a module that fails, or a name that cannot be called.
    """
    module, factory = split_name(name)
    loaded = _from_file(Path(module), name) if module.endswith(".py") else _dotted(module, name)
    found = getattr(loaded, factory, None)
    if not callable(found):
        known = [n for n, value in vars(loaded).items() if callable(value) and not n.startswith("_")]
        raise PotentialError(
            f"{name!r}: {module} has no function or class {factory!r}; {nearest_known(factory, known)}"
        )
    return found


def call_factory(name: str, options: dict[str, Any]) -> Any:
    """Import a factory and return what it makes of the options.

    Raises:
        PotentialError: as `find_factory`, or the factory fails.
    """
    factory = find_factory(name)
    try:
        return factory(**options)
    except Exception as error:  # foreign code raises whatever it likes
        told = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise PotentialError(
            f"{name!r} called with ({told}) fails: {one_line(error)}; mend it or its options"
        ) from error


def one_line(error: BaseException) -> str:
    """Return what an exception says, with its type, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _dotted(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        raise PotentialError(
            f"{name!r}: there is no module {missing!r}: install it, or put its folder on PYTHONPATH"
        ) from None
    except Exception as error:
        raise PotentialError(f"{name!r}: importing {module} fails: {one_line(error)}; mend the module") from error


def _from_file(path: Path, name: str) -> ModuleType:
    if not path.is_file():
        raise PotentialError(f"{name!r}: there is no file {path}: give the path from the folder you are in")
    where = path.resolve()
    unique = f"thalweg_code_{where.stem}_{hashlib.blake2b(str(where).encode(), digest_size=4).hexdigest()}"
    if unique in sys.modules:
        return sys.modules[unique]
    spec = importlib.util.spec_from_file_location(unique, where)
    if spec is None or spec.loader is None:
        raise PotentialError(f"{name!r}: {path} cannot be imported as Python; give a .py file")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[unique] = loaded
    try:
        spec.loader.exec_module(loaded)
    except Exception as error:
        del sys.modules[unique]
        raise PotentialError(f"{name!r}: importing {path} fails: {one_line(error)}; mend the file") from error
    return loaded
