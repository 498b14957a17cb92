"""Units: lengths in Å, energies in eV, forces in eV/Å, stresses in eV/Å³, masses in amu.

ΔQ is in amu^½ Å, curvatures (eigenvalues of the Hessian) in eV/Å², step sizes α in Å²/eV.
"""

GPA_PER_EV_PER_A3 = 160.21766208
"""1 eV/Å³ in GPa (CODATA 2014, as in ASE)."""

FORCE_TOLERANCE = 0.005
"""Default fmax, eV/Å: the largest norm of a force on an atom that counts as relaxed."""
