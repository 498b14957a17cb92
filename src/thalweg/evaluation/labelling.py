"""Labels of a reference for structures at hand: frames to train a base on. Called by `thalweg data label`."""

from __future__ import annotations

import torch

from thalweg.errors import StructureError
from thalweg.evaluation.basins import home, in_double
from thalweg.potentials.contract import Potential
from thalweg.structures.batch import Structures
from thalweg.structures.pairs import Frames


def label(reference: Potential, structures: Structures, *, stress: bool = False) -> Frames:
    """Evaluate a reference, in float64, one structure at a time.

    Args:
        reference: any potential or an ASE calculator (`AseReference`).
        structures: what to label; each is its own parent.
        stress: label stresses too.

    Raises:
        PotentialError: an element that the reference does not know, a stress that it does not give, or it fails.
        StructureError: a label that is not finite.
    """
    reference.check(structures)
    exact = in_double(reference)
    there = structures.to(home(exact, structures)[0], torch.float64)
    found = [exact(there.select([k]), stress=stress) for k in range(len(there))]
    energy, forces = (torch.cat([getattr(p, name) for p in found]).detach().cpu() for name in ("energy", "forces"))
    given = [p.stress for p in found if p.stress is not None]
    frames = Frames(
        structures=structures.detach().to("cpu", torch.float64),
        energy=energy,
        forces=forces,
        parents=structures.ids,
        stress=torch.cat(given).detach().cpu() if stress else None,
    )
    for what, values in (("energy", energy), ("stress", frames.stress)):
        if values is not None and not bool(values.isfinite().all()):
            first = int((~values.reshape(len(values), -1).isfinite().all(dim=1)).nonzero()[0])
            raise StructureError(
                f"structure {structures.ids[first]!r}: the reference gives {values[first].tolist()} as {what}; "
                "leave it out"
                + (", or label without stress: a cell without volume has none" if what == "stress" else "")
            )
    if not bool(forces.isfinite().all()):
        atom = int((~forces.isfinite().all(dim=1)).nonzero()[0])
        name = structures.ids[int(structures.owner[atom])]
        raise StructureError(f"structure {name!r}: the reference gives forces that are not finite; leave it out")
    return frames
