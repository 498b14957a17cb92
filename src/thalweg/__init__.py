"""Train interatomic potentials through the structural relaxation they will be used for."""

__version__ = "0.1.0"
