"""Families of pairs made offline on analytic reference surfaces."""

from thalweg.testbeds.crystals import Crystals
from thalweg.testbeds.oxide import Oxide
from thalweg.testbeds.silicon import Silicon
from thalweg.testbeds.testbed import Testbed
from thalweg.testbeds.titanium import Titanium

TESTBEDS: dict[str, type[Testbed]] = {kind.kind: kind for kind in (Silicon, Titanium, Oxide, Crystals)}
"""Every testbed by its name in settings files."""
