"""Other people's potentials under our contract: adding an adapter means one file here and one line in `ADAPTERS`.

What learns is in the list: by its `kind` settings build it, model files name it and words such as `mace:FILE` open it,
through `from_words`. What only answers, an ASE calculator, is a reference (`ase_reference`): it has no parameters and
is no kind that settings could build.
"""

from __future__ import annotations

from thalweg.potentials.adapters.chgnet import CHGNet
from thalweg.potentials.adapters.fairchem import Fairchem
from thalweg.potentials.adapters.mace import Mace
from thalweg.potentials.adapters.matgl import MatGL
from thalweg.potentials.adapters.metatomic_energy import MetatomicEnergy
from thalweg.potentials.adapters.nequip import NequIP
from thalweg.potentials.adapters.orb import OrbConservative, OrbDirect
from thalweg.potentials.adapters.packages import PackageModel
from thalweg.potentials.adapters.sevennet import SevenNet
from thalweg.potentials.adapters.torch_energy import TorchEnergy

ADAPTERS: tuple[type[TorchEnergy] | type[PackageModel] | type[MetatomicEnergy], ...] = (
    TorchEnergy,
    Mace,
    NequIP,
    SevenNet,
    CHGNet,
    OrbConservative,
    OrbDirect,
    MatGL,
    Fairchem,
    MetatomicEnergy,
)
"""Every adapter whose parameters learn."""
