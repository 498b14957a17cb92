"""The type checker that conftest installs on every function and dataclass of thalweg.

Two departures from plain beartype. Functions are decorated one by one, where `Self` has no class to mean, so
it is not checked. An int may stand where a float is annotated, as PEP 484 says and type checkers hold.
"""

from __future__ import annotations

from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({Self: Any})))
