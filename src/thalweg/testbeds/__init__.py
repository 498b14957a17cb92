"""Families of pairs made offline on analytic reference surfaces."""

from thalweg.testbeds.crystals import Crystals
from thalweg.testbeds.silicon import Silicon
from thalweg.testbeds.testbed import Testbed

TESTBEDS: dict[str, type[Testbed]] = {kind.kind: kind for kind in (Silicon, Crystals)}
"""Every testbed by its name in settings files."""
