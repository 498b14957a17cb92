"""FIRE: damped dynamics that speeds up while it runs downhill and stops dead when it would run uphill.

    P = F·v
    P > 0:  v ← (1 − a) v + a |v| F/|F|; after `nmin` such steps  dt ← min(finc dt, dtmax), a ← fa a
    P ≤ 0:  v ← 0, dt ← fdec dt, a ← astart
    v ← v + dt F;  x ← x + dt v, the whole step of a structure scaled to length `maxstep` if it is longer

Every scalar belongs to one structure. Source: Bitzek, Koskinen, Gähler, Moseler and Gumbsch 2006; order of
the updates and defaults as in ASE, with unit masses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thalweg.errors import SettingsError
from thalweg.relaxation.relaxer import Relaxer, State, dot


@dataclass(frozen=True)
class FIRE(Relaxer):
    """The fast inertial relaxation engine; the defaults are those of ASE."""

    dt: float = 0.1
    """First time step, Å/(eV/Å²)^½ with unit masses."""
    maxstep: float = 0.2
    """Largest length of the step of a whole structure (norm over all its rows), Å."""
    dtmax: float = 1.0
    """Largest time step."""
    nmin: int = 5
    """Downhill steps to wait before the time step grows."""
    finc: float = 1.1
    """Growth of the time step."""
    fdec: float = 0.5
    """Cut of the time step after an uphill step."""
    astart: float = 0.1
    """Mixing of force into velocity, at the start and after an uphill step."""
    fa: float = 0.99
    """Decay of the mixing."""
    kind: ClassVar[str] = "fire"

    def __post_init__(self) -> None:
        for name in ("dt", "maxstep", "dtmax", "astart"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"FIRE {name} is {getattr(self, name)}: allowed is a number above 0")
        if self.nmin < 0:
            raise SettingsError(f"FIRE nmin is {self.nmin}: allowed is 0 or more steps, e.g. 5")
        if not self.finc >= 1:
            raise SettingsError(f"FIRE finc is {self.finc}: allowed is a factor of at least 1, e.g. 1.1")
        for name in ("fdec", "fa"):
            if not 0 < getattr(self, name) <= 1:
                raise SettingsError(f"FIRE {name} is {getattr(self, name)}: allowed is a factor in (0, 1]")

    def start(self, rows: Float[Tensor, "rows 3"], owner: Int[Tensor, " rows"], structures: int) -> State:
        """Return rest: no velocity, first time step and mixing."""
        scalars = rows.new_zeros(structures)
        return State(
            by_row={"velocity": torch.zeros_like(rows)},
            by_structure={
                "dt": scalars + self.dt,
                "a": scalars + self.astart,
                "downhill": scalars.long() - 1,  # −1 marks the first step, which judges no velocity
            },
        )

    def step(
        self,
        state: State,
        rows: Float[Tensor, "rows 3"],
        forces: Float[Tensor, "rows 3"],
        owner: Int[Tensor, " rows"],
    ) -> tuple[Float[Tensor, "rows 3"], State]:
        """Return the next coordinates and the new velocity, time step and mixing."""
        v = state.by_row["velocity"]
        dt, a, downhill = (state.by_structure[name] for name in ("dt", "a", "downhill"))
        n = len(dt)
        first = downhill < 0
        good = dot(forces, v, owner, n) > 0
        ratio = (dot(v, v, owner, n) / dot(forces, forces, owner, n)).sqrt()  # |v|/|F|
        mixed = (1 - a)[owner, None] * v + (a * ratio)[owner, None] * forces
        v = torch.where(good[owner, None], mixed, 0.0)
        grow = good & (downhill > self.nmin)
        kept = first | good
        dt = torch.where(grow, (dt * self.finc).clamp(max=self.dtmax), torch.where(kept, dt, dt * self.fdec))
        a = torch.where(grow, a * self.fa, torch.where(kept, a, self.astart))
        downhill = torch.where(good, downhill + 1, 0)

        v = v + dt[owner, None] * forces
        d = dt[owner, None] * v
        length = dot(d, d, owner, n).sqrt()
        scale = torch.where(length > self.maxstep, self.maxstep / length, 1.0)
        memory = State({"velocity": v}, {"dt": dt, "a": a, "downhill": downhill})
        return rows + d * scale[owner, None], memory
