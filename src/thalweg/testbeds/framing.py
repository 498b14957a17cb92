"""The five frames of a parent along its own relaxation: what a base is fitted to, whatever the testbed.

In turn: the parent bent by 0.02 to 0.2 Å; its start; the start after 1 to 10 steps of the descent and after 11 to
all of them, both rattled by up to 0.1 Å; its minimum rattled by 0.01 to 0.1 Å. What is held stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from thalweg.potentials.contract import Potential
from thalweg.structures.batch import Structures
from thalweg.testbeds.drawing import shaken
from thalweg.testbeds.settling import Settling


def frames_along(
    starts: Structures,
    reference: Potential,
    settling: Settling,
    streams: Sequence[np.random.Generator],
    bend: Callable[[int, float], Float[np.ndarray, "atoms 3"]],
) -> list[list[Float[np.ndarray, "atoms 3"]]]:
    """Return the positions of the five frames of each start, Å.

    Args:
        starts: one start of each parent.
        reference: the surface they are relaxed on.
        settling: how.
        streams: the generator of each parent, drawn from in order.
        bend: given the index of a parent and a standard deviation (Å), its positions rattled by that.
    """
    end = settling.run(reference, starts, keep_trace=True)
    trace = end.trace if end.trace is not None else (starts,)
    last = settling.descent_steps
    found = []
    for k, stream in enumerate(streams):
        own = slice(starts.offsets[k], starts.offsets[k + 1])
        free = starts.free[own].numpy().astype(float)
        steps = (int(stream.integers(1, 11)), int(stream.integers(11, max(last, 11) + 1)))
        path = [trace[min(step, len(trace) - 1)].positions[own].numpy() for step in (0, *steps)]
        bent = bend(k, stream.uniform(0.02, 0.2))
        early, late = (shaken(p, free, stream.uniform(0.0, 0.1), stream) for p in path[1:])
        minimum = shaken(end.structures.positions[own].numpy(), free, stream.uniform(0.01, 0.1), stream)
        found.append([bent, path[0], early, late, minimum])
    return found
