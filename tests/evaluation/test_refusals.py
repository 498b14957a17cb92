"""Verification makes a saddle and an unconverged relaxation of a potential, and notices when they are not refused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from ase import Atoms
from tests.cli.terminal import thalweg

from thalweg.evaluation import refusals
from thalweg.evaluation.certify import crystal_names, perfect_crystals, small_crystals
from thalweg.evaluation.refusals import DoubleWell, certify_refusals, find_saddle
from thalweg.gradients import AdjointSettings, Implicit, equilibrium
from thalweg.gradients.adjoint import Adjoint
from thalweg.gradients.certificate import Certificate
from thalweg.gradients.verification import Verdict, verify
from thalweg.potentials.contract import Prediction
from thalweg.potentials.painn import PaiNN
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.relaxation import Descent, Path, Positions, PositionsAndCell, relax
from thalweg.relaxation.lbfgs import LBFGS
from thalweg.reports.lines import refusal_lines, verdict_lines
from thalweg.structures.batch import Structures

BLIND = Implicit(adjoint=AdjointSettings(saddle=1e9, limit=1.0))


def silicon() -> StillingerWeber:
    return StillingerWeber.from_published("Si")


@pytest.mark.parametrize("coordinates", [Positions(), PositionsAndCell()], ids=["fixed cell", "free cell"])
@pytest.mark.parametrize("potential", [silicon(), PaiNN.from_settings({"species": [14]})], ids=["sw", "painn"])
def test_a_saddle_and_an_unconverged_relaxation_are_refused(
    potential: StillingerWeber | PaiNN, coordinates: Positions | PositionsAndCell
) -> None:
    found = certify_refusals(potential, coordinates=coordinates)
    assert [(r.case, r.route, r.refused) for r in found] == [
        ("saddle", "implicit", True),
        ("saddle", "split", True),
        ("unconverged", "implicit", True),
        ("unconverged", "split", True),
    ]
    assert all(r.lowest_curvature is not None and r.lowest_curvature < 0 for r in found[:2])


def test_the_saddle_of_stillinger_weber_is_stationary_and_relaxation_leaves_it_downhill() -> None:
    saddle, where, surface = find_saddle(silicon())
    assert "crystal, lattice constant" in where
    assert float(surface(saddle).forces.abs().max()) < 1e-9
    stream = torch.Generator().manual_seed(0)
    nudge = 0.02 * torch.randn(saddle.positions.shape, generator=stream, dtype=torch.float64)
    away = saddle.with_positions(saddle.positions + nudge)
    end = relax(surface, away, LBFGS(), fmax=1e-3, max_steps=500)
    assert float(end.energy[0]) < float(surface(saddle).energy[0]) - 0.1


def test_the_control_has_the_saddle_that_paper_gives_it() -> None:
    """Negative on the way: a potential that breaks the symmetry of crystals has no saddle among them."""

    class Crooked(StillingerWeber):
        def forward(self, structures: Structures, **words: object) -> Prediction:
            found = super().forward(structures, **words)
            return Prediction(found.energy, found.forces + 0.1 * torch.sin(structures.positions), found.stress)

    crooked = Crooked.from_published("Si")
    assert isinstance(find_saddle(crooked)[2], DoubleWell)
    rows = [r for r in certify_refusals(crooked) if r.case == "saddle"]
    assert all(r.refused and "no saddle among 34" in r.where for r in rows)
    assert [r.lowest_curvature for r in rows] == pytest.approx([-4.0, -4.0], rel=1e-6)
    assert "built-in double well instead" in refusal_lines(rows)[0]


def test_a_machinery_blind_to_saddles_is_found_out() -> None:
    by_case = {r.case: r for r in certify_refusals(silicon(), routes=[BLIND])}
    assert not by_case["saddle"].refused
    assert by_case["saddle"].reason is None
    assert by_case["unconverged"].refused
    lines = refusal_lines(list(by_case.values()))
    assert lines[0].startswith("saddle, implicit: NOT REFUSED (took part")
    assert lines[-1].startswith("1 of 2 refused")


def test_a_machinery_that_takes_unconverged_structures_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(relaxation: object, already: int = 0) -> list[Certificate]:
        return [Certificate(id="x", took_part=True)]

    monkeypatch.setattr(equilibrium, "begin", careless)
    found = {r.case: r for r in certify_refusals(silicon(), routes=[Implicit()])}
    assert not found["unconverged"].refused
    assert found["unconverged"].leaked > 1e-6
    assert found["saddle"].refused


def test_the_command_ends_with_status_1_where_a_saddle_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thalweg.evaluation.certify.certify", lambda *_, **__: [])  # only refusals are looked at
    said = thalweg("verify", "stillinger-weber:Si")
    assert said.status == 0, said.out
    assert "\nsaddle, implicit: refused, lowest curvature −" in said.out
    assert "\nunconverged, split: refused (" in said.out
    assert said.out.splitlines()[-1].startswith("4 of 4 refused")
    solve = equilibrium.solve_adjoint

    def blind(*words: object, settings: AdjointSettings, **more: object) -> Adjoint:
        return solve(*words, settings=AdjointSettings(settings.tolerance, 1.0, saddle=1e9), **more)

    monkeypatch.setattr(equilibrium, "solve_adjoint", blind)
    let_through = thalweg("verify", "stillinger-weber:Si")
    assert let_through.status == 1
    assert let_through.out.count("NOT REFUSED") == 2


def implicit_verdict(starts: Structures) -> Verdict:
    path = Path(Descent(alpha=0.02), steps=2)
    return verify(silicon(), starts, path, [Implicit()], directions=1)[0]


def test_a_crystal_that_does_not_move_with_the_parameters_is_said_to_verify_nothing() -> None:
    perfect = perfect_crystals(silicon(), [1.0])
    perfect[0].positions[0] += 0.1  # relaxes back to the site
    verdict = implicit_verdict(Structures.from_atoms(perfect))
    assert verdict.still
    assert not verdict.passed
    lines = verdict_lines([verdict])
    assert "does not move" in lines[1]
    assert "give starts that relax to a structure of lower symmetry" in lines[3]


def test_the_crystals_taken_without_starts_do_move() -> None:
    verdict = implicit_verdict(small_crystals(silicon(), 1, 0))
    assert verdict.passed
    assert not verdict.still


def test_every_scale_is_tried_for_both_crystals() -> None:
    frames = perfect_crystals(silicon(), refusals._SCALES, "rocksalt")
    assert len(frames) == len(refusals._SCALES) == 17
    assert frames[0].get_all_distances(mic=True)[0, 1:].min() == pytest.approx(0.95 * 2 * 1.11)


def test_the_saddle_is_looked_for_in_crystals_of_the_elements_of_the_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydrogen's and helium's would be so dense that they fill memory."""
    many = PaiNN.from_settings({"species": [1, 2, 14, 31, 33]})
    seen: list[set[int]] = []

    def crystals(*words: object) -> list[Atoms]:
        frames = perfect_crystals(*words)  # type: ignore[arg-type]
        seen.append({int(z) for frame in frames for z in frame.numbers})
        return frames

    monkeypatch.setattr(refusals, "perfect_crystals", crystals)
    certify_refusals(many, small_crystals(silicon(), 1, 0))
    assert seen == [{14}, {14}]
    seen.clear()
    find_saddle(many.double())
    assert seen == [{14, 31, 33}, {14, 31, 33}]


@pytest.mark.parametrize(
    ("species", "names"),
    [
        (range(1, 95), ["Si", "GaAs"]),
        ((14, 48, 52), ["Si", "CdTe"]),
        ((48, 52), ["CdTe"]),
        ((32,), ["Ge"]),
        ((1, 2, 3), ["HHe", "HeLi"]),  # none is known: neighbours by number
        ((22,), ["Ti"]),
    ],
)
def test_crystals_without_starts_are_known_ones_silicon_first(species: Sequence[int], names: list[str]) -> None:
    assert crystal_names(list(species), 2) == names


def test_verify_says_which_crystals_it_takes() -> None:
    every = PaiNN.from_settings({"species": list(range(1, 95)), "channels": 2, "layers": 1, "cutoff": 3.0})
    starts = small_crystals(every, 3, 0)
    assert [frame.get_chemical_formula() for frame in starts.to_atoms()] == ["Si8", "As4Ga4", "Cd4Te4"]
    assert starts.ids == ("Si-0", "GaAs-1", "CdTe-2")
    said = thalweg("verify", "stillinger-weber:CdTe-2013", "--count", 1, "--steps", 2)
    assert said.out.splitlines()[0] == "no pairs given: small strained crystals of CdTe"
