"""The page of what a potential sees: the strongest edges are drawn, to nearest images, and no number is made up."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from thalweg.errors import OutputError, RunFolderError
from thalweg.potentials.views import Measure, View
from thalweg.reports.attention_page import displacements, edges, figure, mean_by_distance, write_view

WEIGHTS = np.array([[0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]])


def seen(reach: float | None = None) -> View:
    """Three atoms in a row in a cell of 10 Å: 0 and 2 meet through the wall, 3 Å apart."""
    atoms = Atoms("Si3", [[0.0, 0, 0], [2.0, 0, 0], [7.0, 0, 0]], cell=[10, 10, 10], pbc=True)
    measures = (
        Measure("layer 1, head 1", "", WEIGHTS, True),
        Measure("response of forces", "eV/Å²", 3 * WEIGHTS, False),
    )
    return View("transformer", "three <b>", atoms, measures, reach)


def test_edges_are_the_strongest_between_different_atoms() -> None:
    view = seen()
    distance = np.linalg.norm(displacements(view), axis=2)
    assert distance[0] == pytest.approx([0.0, 2.0, 3.0])
    centre, neighbour = edges(view, view.measures[0], distance, None)
    assert list(zip(centre, neighbour, strict=True))[:3] == [(0, 1), (2, 0), (2, 1)]
    assert not (centre == neighbour).any()


def test_edges_of_one_atom_and_of_a_graph_are_fewer() -> None:
    view, graph = seen(), seen(reach=2.5)
    distance = np.linalg.norm(displacements(view), axis=2)
    assert [n.tolist() for n in edges(view, view.measures[0], distance, 2)] == [[2, 2], [0, 1]]
    assert [n.tolist() for n in edges(graph, graph.measures[0], distance, None)] == [[0, 1], [1, 0]]


def test_means_are_over_different_atoms_at_their_distance() -> None:
    d, w = mean_by_distance(WEIGHTS, np.linalg.norm(displacements(seen()), axis=2))
    assert d == pytest.approx([2.0, 3.0, 5.0])
    assert w == pytest.approx([0.3, 0.2, 0.2])
    assert len(mean_by_distance(np.ones((1, 1)), np.zeros((1, 1)))[0]) == 0


def test_an_edge_goes_to_the_nearest_image() -> None:
    lines = figure(seen(), 0).data[2]
    assert list(lines.x) == [0.0, 2.0, None, 0.0, -3.0, None]
    assert lines.text[3] == "0 listens to 2: 0.1  at 3.00 Å"


def test_the_menu_shows_one_measure_at_a_time() -> None:
    drawn = figure(seen())
    (menu,) = drawn.layout.updatemenus
    assert [button.label for button in menu.buttons] == ["layer 1, head 1", "response of forces"]
    shown = [list(button.args[1]) for button in menu.buttons]
    assert shown == [[True] * 5 + [False] * 3, [True] * 2 + [False] * 3 + [True] * 3]
    assert [trace.visible in (None, True) for trace in drawn.data] == shown[0]


def test_the_page_is_one_file_with_its_numbers(tmp_path: Path) -> None:
    page = write_view(seen(), tmp_path / "view.html", atom=1).read_text(encoding="utf-8")
    assert "three &lt;b&gt;" in page
    assert "what atom 1 listens to" in page
    assert "<td>0.4</td><td>0.533</td><td>1 to 1</td>" in page
    assert not re.search(r"<(?:script|link)[^>]+(?:src|href)=", page)
    found = re.search(r"<script type='application/json' id='data-view'>(.*?)</script>", page, re.DOTALL)
    assert found is not None
    assert len(json.loads(found.group(1))["data"]) == 8
    with pytest.raises(OutputError):
        write_view(seen(), tmp_path / "view.html")
    with pytest.raises(RunFolderError, match=r"atom is 3: structure .* has 3 atoms, allowed is 0 to 2"):
        write_view(seen(), tmp_path / "other.html", atom=3)
    assert not (tmp_path / "other.html").exists()
