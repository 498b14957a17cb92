"""The page as a whole: what it holds, that it is well formed, that it fetches nothing and trusts nothing."""

import base64
import hashlib
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from ase.io import read, write

from thalweg.errors import OutputError, ThalwegError
from thalweg.reports import page, table
from thalweg.reports.run import read_run

VOID = {"meta", "link", "br", "hr", "img", "input", "base", "source", "col", "embed", "area", "track", "wbr"}
FETCHING = {"src", "srcset", "href", "action", "formaction", "data", "poster", "background", "ping", "xlink:href"}


class Document(HTMLParser):
    """What a page holds: elements with attributes, texts, scripts, and what is not well formed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.contents: list[tuple[str, dict[str, str | None], str]] = []
        self.faults: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag, _ in self._open]
        ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        self.faults += [f"id {name!r} stands twice" for name in set(ids) if ids.count(name) > 1]

    def handle_starttag(self, tag, attrs):
        if len(dict(attrs)) < len(attrs):
            self.faults.append(f"<{tag}> has an attribute twice")
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self._open or self._open[-1][0] != tag:
            self.faults.append(f"</{tag}> closes nothing")
        else:
            self._open.pop()

    def handle_data(self, data):
        if self._open and self._open[-1][0] in ("script", "style"):
            self.contents.append((*self._open[-1], data))
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def programs(self) -> list[str]:
        return [data for tag, attributes, data in self.contents if tag == "script" and "type" not in attributes]

    def data(self, name: str):
        return json.loads(next(data for _, attributes, data in self.contents if attributes.get("id") == name))


def fetches(document: Document) -> list[str]:
    """What the page would load from elsewhere: attributes, style sheets and policy."""
    found = []
    for tag, attributes in document.elements:
        if tag in ("iframe", "object", "embed", "link", "base"):
            found.append(f"<{tag}>")
        wanted = {name: attributes[name] or "" for name in FETCHING & set(attributes) if tag != "a"}
        found += [f"{name}={value}" for name, value in wanted.items() if not value.startswith(("#", "data:"))]
        if attributes.get("http-equiv", "").lower() == "refresh":
            found.append("refresh")
        if re.search(r"url\(|@import", attributes.get("style") or ""):
            found.append(f"style={attributes['style']}")
    styles = "".join(data for tag, _, data in document.contents if tag == "style")
    found += re.findall(r"@import[^;]*|url\((?!['\"]?data:)[^)]*\)", styles)
    policies = [
        a.get("content", "") for tag, a in document.elements if a.get("http-equiv") == "Content-Security-Policy"
    ]
    if not policies or not policies[0].startswith("default-src 'none';") or "http" in policies[0]:
        found.append("no policy that forbids connections")
    return found


def hashes_allowed(document: Document) -> set[str]:
    policy = next(a["content"] for tag, a in document.elements if a.get("http-equiv") == "Content-Security-Policy")
    return set(re.findall(r"'sha256-([^']+)'", policy))


def rendered(folder: Path) -> Document:
    return Document(page.write_report(folder).read_text(encoding="utf-8"))


# what the page holds


def test_the_page_is_one_well_formed_file_below_twelve_megabytes(run_folder):
    path = page.write_report(run_folder)
    assert path == run_folder / "report.html"
    assert 4e6 < path.stat().st_size < 12e6
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert Document(text).faults == []
    assert [p.name for p in run_folder.iterdir() if "report" in p.name] == ["report.html"]


def test_the_page_says_what_results_json_says(run_folder):
    document = rendered(run_folder)
    results = read_run(run_folder).results
    for row in table.rows(results):
        assert " ".join(row) in document.text.replace("–  ", "– ")
    assert "SYNTHETIC: routes on silicon interstitials" in document.text
    assert "split-20 put 31 of 40 (78 %, interval 62–88 %)" in document.text
    assert "thalweg demo --out runs/demo" in document.text
    assert "out of steps 11, negative curvature 6" in document.text
    assert "batch_size: 8" in document.text
    assert "Structure synthetic/interstitial-017, arm split-20" in document.text
    assert "Not measured" not in document.text


def test_the_figures_carry_the_numbers(run_folder):
    document = rendered(run_folder)
    basins = document.data("data-basins")["data"]
    assert {trace["y"][0]: trace["text"][0] for trace in basins} == {
        "base": "12 / 40",
        "implicit": "15 / 40",
        "bptt": "26 / 40",
        "split-20": "31 / 40",
    }
    placed = [attributes["data-figure"] for _, attributes in document.elements if "data-figure" in attributes]
    assert placed == [f"data-{card.name}" for card in page.CARDS]
    assert len(document.data("viewer-data")["structures"]) == 4


def test_the_same_folder_gives_the_same_bytes(run_folder):
    first = page.write_report(run_folder).read_bytes()
    assert page.write_report(run_folder).read_bytes() == first


# it fetches nothing


def test_the_page_loads_nothing_from_elsewhere(run_folder):
    document = rendered(run_folder)
    assert fetches(document) == []
    own = document.programs()[-1]
    assert "Plotly.newPlot" in own
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(|WebSocket", own)


def test_only_the_programs_of_the_page_may_run(run_folder):
    document = rendered(run_folder)
    programs = document.programs()
    assert len(programs) == 3
    digests = {base64.b64encode(hashlib.sha256(p.encode()).digest()).decode() for p in programs}
    assert digests == hashes_allowed(document)
    handlers = [name for _, attributes in document.elements for name in attributes if name.startswith("on")]
    assert handlers == []


def test_chemiscope_stands_before_plotly(run_folder):
    """The other way round chemiscope takes away the style sheet of the figures (seen with 1.1.0)."""
    viewer, plotly, own = rendered(run_folder).programs()
    assert "StructureVisualizer" in viewer
    assert "plotly.js v" in plotly[:200]
    assert "newPlot(place" in own


@pytest.mark.parametrize(
    "tainted",
    [
        "<script src='https://cdn.example.org/x.js'></script>",
        "<link rel='stylesheet' href='x.css'>",
        "<img src='//example.org/x.png'>",
        "<style>@import 'https://example.org/x.css';</style>",
        "<style>b{background:url(x.png)}</style>",
        "<b style='background:url(https://example.org)'></b>",
        "<iframe></iframe>",
        "<meta http-equiv='refresh' content='0;url=https://example.org'>",
        "<form action='https://example.org'></form>",
    ],
)
def test_what_would_be_fetched_is_noticed(tainted):
    policy = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:">'
    assert fetches(Document(policy + "<p>https://example.org</p><img src='data:,'>")) == []
    assert fetches(Document(policy + tainted)) != []
    assert fetches(Document("<p>no policy</p>")) == ["no policy that forbids connections"]


@pytest.mark.parametrize("broken", ["<p>", "</p>", "<b><i></b></i>", "<i id='a'></i><i id='a'></i>", "<i a=1 a=2></i>"])
def test_what_is_not_well_formed_is_noticed(broken):
    assert Document("<p>x<br></p>").faults == []
    assert Document(broken).faults != []


# it trusts nothing

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&"
HOSTILE_NAME = "<img src=x onerror=alert(3)>'\"&"  # without a slash, which a name of a folder cannot hold


def poison(folder: Path) -> None:
    """Put markup wherever a file of the folder can hold text."""
    path = folder / "results.json"
    results = json.loads(path.read_text())
    for field in ("title", "command", "version", "date", "rule"):
        results[field] = HOSTILE
    results["machine"] = {HOSTILE: HOSTILE}
    results["settings"] = {HOSTILE: HOSTILE, "alpha": HOSTILE}
    results["pairs"]["testbed"] = HOSTILE
    arm = results["arms"][1]
    (folder / "arms" / arm["name"]).rename(folder / "arms" / HOSTILE_NAME)
    arm["name"] = HOSTILE_NAME
    arm["route"] = {"kind": HOSTILE, "horizon": HOSTILE}
    arm["certificates"]["reasons"] = {HOSTILE: 3}
    arm["outcomes"] = {HOSTILE: 2, "converged": 38}
    path.write_text(json.dumps(results))
    records = folder / "arms" / HOSTILE_NAME / "evaluation.json"
    records.write_text(json.dumps({"pairs": [{"id": HOSTILE}] * 40}))
    (folder / "settings.yaml").write_text(HOSTILE)
    (folder / "dial.json").write_text(
        json.dumps([{"route": HOSTILE, "horizon": 3, "recompute": True, "saved_bytes": 2e6, "seconds": 1.0}])
    )
    frames = read(folder / "example.extxyz", index=":")
    for frame in frames:
        frame.info.update(id=HOSTILE, arm=HOSTILE, label="<img src=x onerror=alert(4)>" + frame.info["label"])
    write(folder / "example.extxyz", frames, format="extxyz")


def test_markup_in_files_stays_text(run_folder):
    clean = rendered(run_folder)
    poison(run_folder)
    document = rendered(run_folder)
    assert document.faults == []
    assert fetches(document) == []
    assert [tag for tag, _ in document.elements if tag == "img"] == []
    assert [name for _, attributes in document.elements for name in attributes if name.startswith("on")] == []
    assert document.programs() == clean.programs()
    scripts = [attributes.get("id") for tag, attributes in document.elements if tag == "script"]
    assert scripts == [attributes.get("id") for tag, attributes in clean.elements if tag == "script"]
    assert document.text.count(HOSTILE) >= 10
    assert document.text.count(HOSTILE_NAME) >= 3


def test_markup_in_files_is_not_read_by_the_figures(run_folder):
    poison(run_folder)
    document = rendered(run_folder)
    for card in page.CARDS:
        assert "<img" not in json.dumps(document.data(f"data-{card.name}"))
        assert "<script" not in json.dumps(document.data(f"data-{card.name}"))
    assert "&lt;img src=x" in json.dumps(document.data("data-displacement"))
    assert "alert" not in json.dumps(document.data("viewer-data"))


# parts may be missing


def test_a_run_of_nothing_but_names_is_reported_as_not_measured(tmp_path):
    (tmp_path / "results.json").write_text('{"schema": 1, "arms": [{"name": "base"}, {"name": "split-20"}]}')
    document = rendered(tmp_path)
    assert document.faults == []
    assert "there is no verdict" in document.text
    assert document.text.count("Not measured") == len(page.CARDS) + 2  # and the example, and the certificates
    assert "Not recorded." in document.text
    assert "base – – – – – – – –" in document.text
    cells = "".join(document.texts).split("right basins")[1].split("Outcome")[0]
    assert "0" not in cells.split("Saved:")[0].replace("split-20", "").replace("95 %", "")
    assert len(document.programs()) == 2  # no viewer, so its program stays away


@pytest.mark.parametrize(
    ("missing", "count"),
    [
        ("dial.json", 1),
        ("example.extxyz", 1),
        ("settings.yaml", 0),
        ("arms/bptt/metrics.jsonl", 0),
        ("arms/base/evaluation.json", 0),
    ],
)
def test_a_missing_file_takes_away_its_own_part_only(run_folder, missing, count):
    (run_folder / missing).unlink()
    document = rendered(run_folder)
    assert document.faults == []
    assert document.text.count("Not measured") == count
    assert "split-20 put 31 of 40" in document.text


def test_an_arm_without_metrics_is_absent_from_the_training_figures_only(run_folder):
    (run_folder / "arms" / "bptt" / "metrics.jsonl").unlink()
    document = rendered(run_folder)
    names = [trace.get("name") for trace in document.data("data-loss")["data"] if trace.get("showlegend") is not False]
    assert names == ["implicit", "split-20"]
    assert "bptt" in [trace["name"] for trace in document.data("data-thresholds")["data"]]


# it is written whole or not at all


def test_a_failed_write_leaves_the_earlier_report_and_nothing_else(run_folder, monkeypatch):
    page.write_report(run_folder)
    before = sorted(p.name for p in run_folder.iterdir())
    (run_folder / "report.html").write_text("earlier")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match=r"cannot write .*report.html: the disk is full"):
        page.write_report(run_folder)
    assert (run_folder / "report.html").read_text() == "earlier"
    assert sorted(p.name for p in run_folder.iterdir()) == before


def test_a_folder_that_is_no_run_writes_nothing(tmp_path):
    with pytest.raises(ThalwegError, match=r"has no results.json"):
        page.write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
