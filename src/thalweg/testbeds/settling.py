"""The path that every reference minimum is reached by: plain descent first, then L-BFGS to a tight tolerance.

Descent chooses the basin with the update that routes unroll; L-BFGS brings the precision. A model that is
judged against a testbed must be relaxed by the same path, because a basin belongs to (surface, update, α).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from thalweg.errors import SettingsError, nearest_known
from thalweg.potentials.contract import Potential
from thalweg.relaxation.lbfgs import LBFGS
from thalweg.relaxation.loop import Relaxation
from thalweg.relaxation.path import Path
from thalweg.relaxation.update import Descent
from thalweg.structures.batch import Structures


@dataclass(frozen=True)
class Settling:
    """Descent for a number of steps, then L-BFGS."""

    alpha: float = 0.03
    """Step size of the descent, Å²/eV. Curvatures at silicon interstitials on the Stillinger–Weber surface
    reach 43 eV/Å², so it oscillates above 0.046: at 0.05 half of them still have 4.5 eV/Å after 75 steps."""
    cap: float = 0.2
    """Largest displacement of an atom in one step of the descent, Å."""
    descent_steps: int = 75
    """Steps of the descent."""
    fmax: float = 1e-4
    """Largest force at the end, eV/Å."""
    max_steps: int = 1000
    """Most steps of L-BFGS."""
    memory: int = 30
    """Pairs that L-BFGS remembers."""

    def __post_init__(self) -> None:
        Descent(self.alpha, self.cap), LBFGS(memory=self.memory)  # each checks its own
        for name in ("descent_steps", "max_steps"):
            if getattr(self, name) < 0:
                raise SettingsError(f"settling {name} is {getattr(self, name)}: allowed is 0 or more steps")
        if not self.fmax > 0:
            raise SettingsError(f"settling fmax is {self.fmax}: allowed is a force above 0 eV/Å, e.g. 0.0001")

    @staticmethod
    def from_settings(settings: Mapping[str, Any]) -> Settling:
        """Build from some or all of its fields.

        Raises:
            SettingsError: an unknown key, a wrong type or a value outside its range.
        """
        require_known(settings, {f.name: type(f.default) for f in fields(Settling)}, "settling")
        return Settling(**settings)

    def run(self, potential: Potential, structures: Structures, *, keep_trace: bool = False) -> Relaxation:
        """Relax a batch.

        Returns:
            What `Path.run` returns.
        """
        return self.path().run(potential, structures, keep_trace=keep_trace)

    def path(self) -> Path:
        """Return the path these settings describe."""
        return Path(
            update=Descent(self.alpha, self.cap),
            steps=self.descent_steps,
            finish=LBFGS(memory=self.memory),
            fmax=self.fmax,
            max_steps=self.max_steps,
        )


def require_known(settings: Mapping[str, Any], known: Mapping[str, type], where: str) -> None:
    """Refuse keys that are not known and values of another type; a whole number is a float too.

    Raises:
        SettingsError: naming the key, the value and what is allowed.
    """
    for key, value in settings.items():
        if key not in known:
            raise SettingsError(f"{where} has no setting {key!r}; {nearest_known(str(key), known)}")
        allowed = (int, float) if known[key] is float else known[key]
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise SettingsError(f"{where} {key} is {value!r}: give a value of type {known[key].__name__}")
