"""The routes: how a relaxation is differentiated, each a small frozen value.

`ROUTES` is the list that settings files, the contract tests and `thalweg verify` go through.
"""

from __future__ import annotations

from thalweg.gradients.adjoint import AdjointSettings
from thalweg.gradients.certificate import Certificate, summarise
from thalweg.gradients.implicit import Implicit
from thalweg.gradients.phantom import Phantom
from thalweg.gradients.route import Differentiated, Route
from thalweg.gradients.split import Split
from thalweg.gradients.unrolled import Unrolled

ROUTES: dict[str, type[Route]] = {route.kind: route for route in (Unrolled, Implicit, Phantom, Split)}

__all__ = [
    "ROUTES",
    "AdjointSettings",
    "Certificate",
    "Differentiated",
    "Implicit",
    "Phantom",
    "Route",
    "Split",
    "Unrolled",
    "summarise",
]
