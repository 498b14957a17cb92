"""How a relaxation ended, one value per structure; the text of each is advice a user can act on."""

from __future__ import annotations

from enum import IntEnum


class Outcome(IntEnum):
    """Exactly one of these per relaxed structure. Anything but CONVERGED stays in every denominator."""

    CONVERGED = 0
    OUT_OF_STEPS = 1
    EXPLODED = 2
    TOO_CLOSE = 3

    @property
    def label(self) -> str:
        """Its name in records and tables."""
        return self.name.lower()

    @property
    def advice(self) -> str:
        """What it means and what to do next."""
        return _ADVICE[self]


_ADVICE = {
    Outcome.CONVERGED: "every force is below fmax at the returned positions",
    Outcome.OUT_OF_STEPS: "forces were still above fmax when the steps ran out: raise max_steps or fmax",
    Outcome.EXPLODED: "positions became non-finite or moved beyond the bound: "
    "lower alpha, or train the potential on configurations like this one",
    Outcome.TOO_CLOSE: "atoms overlap: mend the start, or train the potential on short distances",
}
