"""The contract of a testbed: a frozen settings value that makes pairs and frames on a surface of its own.

Everything it makes is drawn from streams keyed by (seed, purpose, index): entry k is the same however many
are asked for. Pairs and frames never share a parent, whatever the seeds, so a base fitted to frames has seen
no pair. Called by training, studies and the command line; `thalweg.testbeds.TESTBEDS` lists them all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from thalweg.potentials.contract import Potential
from thalweg.relaxation.outcome import Outcome
from thalweg.relaxation.path import Path
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Frames, Pairs


@dataclass(frozen=True, eq=False)
class Drawn:
    """Pairs as drawn, and what did not become one."""

    pairs: Pairs
    """Every draw whose reference relaxation converged, in order."""
    lost: tuple[tuple[str, Outcome], ...]
    """Id and end of every draw whose reference relaxation did not converge; none of them is in `pairs`."""


@dataclass(frozen=True)
class Testbed(ABC):
    """A family of pairs made offline on an analytic reference surface."""

    __test__: ClassVar[bool] = False  # not a test, whatever its name says to pytest
    kind: ClassVar[str]
    """Its name in settings files."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The plain values (JSON types) from which `from_settings` builds it again."""

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Build a testbed from `settings`.

        Raises:
            SettingsError: an unknown key, a wrong type or a value outside its range.
        """

    @abstractmethod
    def reference(self) -> Potential:
        """Return the surface that starts are relaxed on and frames are labelled with, in float64."""

    @abstractmethod
    def path(self) -> Path:
        """Return the path that takes every start to its minimum on the reference surface."""

    @abstractmethod
    def draw(self, count: int, seed: int) -> Drawn:
        """Draw starts 0 to `count` − 1 of a seed and relax each on the reference surface.

        Start k and its minimum depend on (settings, seed, k) only; the minimum up to rounding, which the
        composition of a batch may change.

        Raises:
            SettingsError: `count` below 1.
        """

    def make(self, count: int, seed: int) -> Pairs:
        """Return the pairs among the first `count` draws; see `draw`, which also tells which were lost."""
        return self.draw(count, seed).pairs

    @abstractmethod
    def frames(self, count: int, seed: int) -> Frames:
        """Return frames 0 to `count` − 1 of a seed, with energies and forces of the reference.

        Raises:
            SettingsError: `count` below 1.
        """

    def crystal(self) -> Structures | None:
        """Return the perfect crystal behind the family, one cubic cell with its axes along x, y and z, in float64.

        None, which is the default, where there is no such crystal.
        """
        return None
