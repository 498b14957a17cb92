"""Routes in settings files: a mapping with `kind` and that route's own fields, to the frozen value and back.

    route: {kind: split, horizon: 20, adjoint: {tolerance: 1.0e-4}}   ⇄   Split(horizon=20, adjoint=…)

The fields, their types and defaults are read off the dataclass of each route in `ROUTES`, so a new route needs
nothing here. Called by `settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from thalweg.errors import nearest_known
from thalweg.gradients import ROUTES, Route, Split


class NestedError(ValueError):
    """A fault inside a value that has a model of its own; `loading` reports it under the full key."""

    def __init__(self, error: ValidationError, model: type[BaseModel]) -> None:
        """Keep the original error and the model that raised it."""
        super().__init__(str(error))
        self.error = error
        self.model = model


def read_route(value: Any) -> Route:
    """Return the route that a mapping describes (a split where it has no `kind`); a route is returned as it is.

    Raises:
        ValueError: not a mapping, or a `kind` that is unknown.
        NestedError: an unknown field, a wrong type, or a missing value.
        SettingsError: a value outside the range that the route allows.
    """
    if isinstance(value, Route):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"allowed is a mapping with a kind; known: {', '.join(sorted(ROUTES))}")
    kind = value.get("kind", Split.kind)
    if not isinstance(kind, str) or kind not in ROUTES:
        raise ValueError(f"route {str(kind)[:60]!r} is not known; {nearest_known(str(kind), ROUTES)}")
    model = _model(ROUTES[kind])
    try:
        found = model.model_validate({name: v for name, v in value.items() if name != "kind"})
    except ValidationError as error:
        raise NestedError(error, model) from None
    route: Route = _build(ROUTES[kind], found)
    return route


def route_values(route: Route) -> dict[str, Any]:
    """Return the mapping that `read_route` reads back."""
    return {"kind": route.kind, **asdict(route)}


@cache
def _model(kind: type) -> type[BaseModel]:
    """Return a model with the fields of a dataclass; fields that are dataclasses become models."""
    hints = get_type_hints(kind)
    definitions: dict[str, Any] = {}
    for field in fields(kind):
        hint = hints[field.name]
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if is_dataclass(hint) and isinstance(hint, type):
            hint = _model(hint)
            if is_dataclass(default) and not isinstance(default, type):
                default = hint.model_validate(asdict(default))
        definitions[field.name] = (hint, ... if default is MISSING else default)
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return create_model(kind.__name__, __config__=config, **definitions)


def _build(kind: type, found: BaseModel) -> Any:
    """Return the dataclass from its checked model."""
    hints = get_type_hints(kind)
    values = {name: getattr(found, name) for name in type(found).model_fields}
    nested = {name: _build(hints[name], v) for name, v in values.items() if isinstance(v, BaseModel)}
    return kind(**{**values, **nested})
