"""`thalweg export`: a potential for other people's programs, as a file or as the lines of Python that open it there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.options import Model, Overwrite, open_model, refuse_existing
from thalweg.cli.terminal import say
from thalweg.errors import OutputError, PotentialError, nearest_known

TARGETS = ("ase", "torch-sim", "metatomic")
"""Where a potential can go."""


def export(
    model: Model,
    to: Annotated[str, typer.Option("--to", help=f"One of {', '.join(TARGETS)}.")],
    out: Annotated[Path | None, typer.Option("--out", help="Model file to write, for metatomic (.pt).")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Take a potential to another program: write a metatomic file, or say how ASE or torch-sim opens the model.

    Example: thalweg export tuned/model.safetensors --to metatomic --out tuned.pt
    """
    if to not in TARGETS:
        raise PotentialError(f"nothing is exported to {to!r}: {nearest_known(to, TARGETS)}")
    if to == "metatomic":
        if out is None:
            raise OutputError("a metatomic model is a file: say which with --out, e.g. --out model.pt")
        from thalweg.potentials.exports.metatomic_model import write_metatomic

        refuse_existing(out, overwrite)
        potential = open_model(model)
        write_metatomic(out, potential, overwrite=overwrite)
        say(f"wrote {out}")
        say(f"LAMMPS: pair_style metatomic {out} device cpu")
        say(f"        pair_coeff * * {' '.join(map(str, potential.species))}  (the atomic number of each atom type)")
        say(f"i-PI:   <pes> metatomic </pes> <parameters> {{ template: start.extxyz, model: {out} }} </parameters>")
        say("whole inputs for both: docs/exports.md")
        return
    if out is not None:
        raise OutputError(f"{to} opens the model as it is, nothing is written to {out}: leave out --out")
    potential = open_model(model)
    if to == "ase":
        say("from thalweg.potentials.exports.ase_calculator import ase_calculator")
        say(f"atoms.calc = ase_calculator({model!r})")
    else:
        say("from thalweg.potentials.exports.torch_sim_model import torch_sim_model")
        say(f"model = torch_sim_model({model!r}{'' if potential.conservative else ', stress=False'})")
