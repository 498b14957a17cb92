"""The page of the dial stands alone, shows what was measured, and escapes what it reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.reports.conftest import invented_dial

from thalweg.errors import RunFolderError
from thalweg.reports import dial_lines, read_dial_folder, write_dial

ARMS = [
    {"name": "base", "basins_right": 4, "basins_total": 10, "dq_mean": 6.0},
    {"name": "split-10", "basins_right": 6, "basins_total": 10, "dq_mean": 5.0, "saved_bytes": 6e6},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dial.json").write_text(json.dumps(invented_dial()))
    return tmp_path


def test_the_table_has_a_line_for_every_point(folder):
    lines = dial_lines(read_dial_folder(folder))
    assert len(lines) == 1 + len(invented_dial())
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["implicit", "–", "–", "4.1", "3.10"]
    assert lines[2].split() == ["split", "5", "stored", "46", "2.25"]


def test_the_page_shows_cost_alone_where_nothing_was_tuned(folder):
    page = write_dial(read_dial_folder(folder)).read_text()
    assert "id='data-dial'" in page
    assert "id='data-cost'" in page
    assert "What the memory buys" not in page
    assert "http-equiv" in page


def test_the_page_shows_plan_and_frontier_where_they_are_and_escapes_them(folder):
    (folder / "plan.json").write_text(json.dumps({"sentence": "split <script>alert(1)</script> fits"}))
    (folder / "frontier.json").write_text(json.dumps({"rule": "quench", "arms": ARMS}))
    page = write_dial(read_dial_folder(folder)).read_text()
    assert "split &lt;script&gt;alert(1)&lt;/script&gt; fits" in page
    assert "<script>alert(1)" not in page
    assert "id='data-basins'" in page
    assert "id='data-displacement'" in page


def test_points_without_bytes_are_dashes_and_an_empty_dial_is_said(folder):
    (folder / "dial.json").write_text(json.dumps([{"route": "split", "horizon": 5, "recompute": True}]))
    found = read_dial_folder(folder)
    assert dial_lines(found)[1].split() == ["split", "5", "recomputed", "–", "–"]
    assert write_dial(found).read_text().count("Not measured.") == 2


def test_a_folder_without_or_with_a_broken_dial_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"has no dial\.json"):
        read_dial_folder(tmp_path)
    (tmp_path / "dial.json").write_text('[{"horizon": 3}]')
    with pytest.raises(RunFolderError, match="route"):
        read_dial_folder(tmp_path)
