"""Settings from a YAML file and `key=value` overrides; every fault is one line that names the full key.

Later wins: defaults, then the file, then overrides in the order given. Also the hash by which a run folder
knows its settings. Called by the command line and by `run_folder`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from thalweg.errors import SettingsError, nearest_known
from thalweg.training.route_settings import NestedError

_Model = TypeVar("_Model", bound=BaseModel)


def load_settings(model: type[_Model], path: str | Path | None = None, overrides: Sequence[str] = ()) -> _Model:
    """Read settings.

    Args:
        model: the settings class of the command.
        path: a YAML file; None for defaults alone.
        overrides: `a.b=value` with the value as YAML would read it, e.g. `route.horizon=10`.

    Raises:
        SettingsError: no such file, not YAML, an unknown key, a wrong type or a value outside its range.
    """
    values: dict[str, Any] = {} if path is None else read_mapping(Path(path))
    for override in overrides:
        _override(values, override)
    source = "settings" if path is None else str(path)
    return validate_settings(model, values, source=source)


def validate_settings(model: type[_Model], values: dict[str, Any], *, source: str = "settings") -> _Model:
    """Build settings from plain values.

    Args:
        model: the settings class.
        values: nested plain values, as YAML gives them.
        source: what to call them in errors.

    Raises:
        SettingsError: an unknown key, a wrong type or a value outside its range.
    """
    try:
        return model.model_validate(laid_over(model().model_dump(mode="json"), values))
    except ValidationError as error:
        raise SettingsError(f"{source}: {_fault(error, model)}") from None


def laid_over(defaults: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain defaults with the given values in their places.

    A nested group keeps the defaults that this command gives it, where nothing else is said; a group of another
    `kind` takes nothing from the default one.
    """
    result = dict(defaults)
    for name, value in given.items():
        before = defaults.get(name)
        result[name] = value
        if isinstance(before, dict) and isinstance(value, Mapping):
            same = value.get("kind", before.get("kind")) == before.get("kind")
            result[name] = laid_over(before, value) if same else value
    return result


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the nested mapping that overrides `key=value` spell, values typed as in YAML.

    Raises:
        SettingsError: an override that is not of that form.
    """
    values: dict[str, Any] = {}
    for override in overrides:
        _override(values, override)
    return values


def dump_settings(settings: BaseModel) -> str:
    """Return the settings as YAML text that `load_settings` reads back."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def settings_hash(settings: BaseModel) -> str:
    """Return a hash, 16 hexadecimal digits, of all that changes the result: not the folder, not the devices."""
    values = {"class": type(settings).__name__, **settings_of_result(settings)}
    text = json.dumps(values, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def settings_of_result(settings: BaseModel) -> dict[str, Any]:
    """Return the plain values of the settings that change the result."""
    values = settings.model_dump(mode="json")
    for name, field in type(settings).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("changes_result") is False:
            del values[name]
        elif isinstance(getattr(settings, name), BaseModel):
            values[name] = settings_of_result(getattr(settings, name))
    return values


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-3 is a number, and a key given twice is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse a key that occurs twice."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} occurs twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_EXPONENT = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # derived from the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
        raise SettingsError(f"{source}: not valid YAML{where}: {error.problem}") from None
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise SettingsError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """Return what a YAML file of settings holds, as plain values and unchecked.

    Raises:
        SettingsError: no such file, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(f"{path}: there is no such settings file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"{path}: the settings file cannot be read: {reason}") from None
    values = _parse(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: settings are a mapping of keys to values, not a {type(values).__name__}")
    return values


def _override(values: dict[str, Any], override: str) -> None:
    """Set one value in place."""
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise SettingsError(f"override {override!r} is not of the form key=value, e.g. optimiser.updates=50")
    target = values
    for depth, name in enumerate(names[:-1]):
        inner = target.setdefault(name, {})
        if not isinstance(inner, dict):
            raise SettingsError(
                f"override {override!r}: {'.'.join(names[: depth + 1])} is {inner!r}, which has no keys of its own"
            )
        target = inner
    target[names[-1]] = _parse(text, f"override {override!r}")


def _fault(error: ValidationError, model: type[BaseModel], prefix: tuple[str, ...] = ()) -> str:
    """Return the first fault in one line; unknown keys come first, because they explain missing ones."""
    faults = error.errors(include_url=False)
    first = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    here = _place(first)
    others = [f for f in faults if _place(f) == here and f is not first]  # the other types that a value may have
    wanted = "".join(f" or {_wanted(f).removeprefix('it should be ')}" for f in others)
    rest = len({_place(f) for f in faults}) - 1
    return _line(first, model, prefix) + wanted + (f" (and {rest} more)" if rest else "")


def _place(fault: Mapping[str, Any]) -> tuple[str, ...]:
    """Return where a fault is, without the type that pydantic adds where a value may have several."""
    place = tuple(str(part) for part in fault["loc"])
    tagged = len(place) > 1 and (place[-1] in ("float", "int", "str", "bool") or place[-1].startswith("literal["))
    return place[:-1] if tagged else place


def _line(fault: Mapping[str, Any], model: type[BaseModel], prefix: tuple[str, ...]) -> str:
    place = _place(fault)
    key = ".".join((*prefix, *place))
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, NestedError):
        return _fault(cause.error, cause.model, (*prefix, *place))
    if fault["type"] == "extra_forbidden":
        return f"{key} is not a setting; {nearest_known(place[-1], _known(model, place[:-1]))}"
    if fault["type"] == "missing":
        return f"{key} is missing: give it a value"
    if cause is not None:  # one of our own validators: its text is complete
        return f"{key}: {cause}" if key else str(cause)
    value = repr(fault["input"])
    short = value if len(value) <= 60 else f"{value[:57]}..."
    return f"{key} is {short}: {_wanted(fault)}"


def _wanted(fault: Mapping[str, Any]) -> str:
    """Return what a value should have been."""
    if fault["type"] in _WANTED:
        return _WANTED[fault["type"]].format(**fault.get("ctx", {}))
    return str(fault["msg"]).replace("Input should be", "it should be")


_WANTED = {
    "model_type": "it should be a mapping of keys to values",
    "path_type": "it should be a path",
    "int_type": "it should be a whole number",
    "float_type": "it should be a number",
    "bool_type": "it should be true or false",
    "string_type": "it should be text",
    "finite_number": "it should be finite",
    "greater_than": "allowed is above {gt:g}",
    "greater_than_equal": "allowed is {ge:g} or more",
    "less_than_equal": "allowed is {le:g} or less",
    "less_than": "allowed is below {lt:g}",
}


def _known(model: type[BaseModel], place: tuple[str, ...]) -> list[str]:
    """Return the names of the fields at a place inside a model."""
    for name in place:
        if name not in model.model_fields:  # the place within a list
            continue
        annotation = model.model_fields[name].annotation
        options = (annotation, *get_args(annotation))
        model = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return list(model.model_fields)
