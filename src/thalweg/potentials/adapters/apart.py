"""Letting another package work without leaving traces in the process."""

from __future__ import annotations

import importlib
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import torch

from thalweg.errors import PotentialError
from thalweg.potentials.adapters.code import one_line
from thalweg.seeds import torch_stream


def imported(module: str, extra: str) -> Any:
    """Import a module of another package.

    Args:
        module: dotted name.
        extra: what to install for it.

    Raises:
        PotentialError: it is not there, or its import fails.
    """
    try:
        with apart():
            return importlib.import_module(module)
    except Exception as error:  # e.g. ImportError, or another package's version refused
        raise PotentialError(
            f"this needs the package {module.partition('.')[0]} ({one_line(error)}): pip install 'thalweg[{extra}]', "
            "in an environment of its own (see docs/other-packages.md)"
        ) from error


@contextmanager
def apart(seed: int | None = None) -> Iterator[None]:
    """Let a package work without leaving traces in the process, and without generated code being compiled.

    What is put back: random streams of torch, NumPy and Python, the default floating type (float64 meanwhile),
    environment variables, warnings, what is printed, and what e3nn compiles by default (nothing meanwhile:
    compiled code was not made to be differentiated again).

    Args:
        seed: root seed of what torch draws meanwhile.
    """
    dtype, environment = torch.get_default_dtype(), dict(os.environ)
    drawn, python = np.random.get_state(), random.getstate()  # noqa: NPY002 (only kept and put back)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), redirect_stdout(StringIO()), _eager():
        warnings.simplefilter("ignore")
        torch.set_default_dtype(torch.float64)
        if seed is not None:
            torch.default_generator.manual_seed(torch_stream(seed, "model of another package").initial_seed())
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            np.random.set_state(drawn)  # noqa: NPY002
            random.setstate(python)
            for key in set(os.environ) - set(environment):
                del os.environ[key]
            os.environ.update(environment)


@contextmanager
def _eager() -> Iterator[None]:
    try:
        import e3nn
    except ImportError:
        yield
        return
    before = e3nn.get_optimization_defaults()
    e3nn.set_optimization_defaults(jit_script_fx=False)
    try:
        yield
    finally:
        e3nn.set_optimization_defaults(**before)
