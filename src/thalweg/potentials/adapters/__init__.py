"""Other people's potentials under our contract: adding an adapter means one file here and one line in `ADAPTERS`.

What learns is a `ConservativePotential` and is in the list. What only answers, an ASE calculator, is a reference
(`ase_reference`): it has no parameters and is no kind that settings could build.
"""

from __future__ import annotations

from thalweg.potentials.adapters.chgnet import CHGNetPotential
from thalweg.potentials.adapters.fairchem import FairchemPotential
from thalweg.potentials.adapters.matgl import MatGLPotential
from thalweg.potentials.adapters.orb import OrbConservative, OrbDirect
from thalweg.potentials.adapters.torch_energy import TorchEnergy
from thalweg.potentials.contract import Potential

ADAPTERS: tuple[type[Potential], ...] = (
    TorchEnergy,
    CHGNetPotential,
    FairchemPotential,
    MatGLPotential,
    OrbConservative,
    OrbDirect,
)
"""Every adapter whose parameters learn."""
