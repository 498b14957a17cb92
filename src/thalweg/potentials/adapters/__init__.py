"""Other people's potentials under our contract: adding an adapter means one file here and one line in `ADAPTERS`.

What learns is a `ConservativePotential` and is in the list. What only answers, an ASE calculator, is a reference
(`ase_reference`): it has no parameters and is no kind that settings could build.
"""

from __future__ import annotations

from thalweg.potentials.adapters.metatomic_energy import MetatomicEnergy
from thalweg.potentials.adapters.torch_energy import TorchEnergy

ADAPTERS: tuple[type[TorchEnergy] | type[MetatomicEnergy], ...] = (TorchEnergy, MetatomicEnergy)
"""Every adapter whose parameters learn."""
