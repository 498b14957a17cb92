"""The house keeps its rules: imports, documented names, short files, light commands, true documents.

Every rule is also run on a made-up tree that breaks it, and must object there.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch

from tests import house_rules as rules
from thalweg.relaxation.update import Descent
from thalweg.structures.batch import Structures

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "thalweg"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

HEAVY = {"torch", "lightning", "plotly", "chemiscope", "scipy", "ase", "rich"}
"""What `thalweg --help` must not wait for; lightning alone takes four seconds to import."""

IMPORT_NAMES = {
    "pyyaml": "yaml",
    "torch-sim-atomistic": "torch_sim",
    "metatomic-torch": "metatomic",
    "metatensor-torch": "metatensor",
}
"""Distributions whose module has another name."""


def toy(root: Path, **files: str) -> Path:
    """Write a package `toy`, one file per keyword (`__` stands for a folder), and return its folder."""
    for name, text in {"__init__": "", **files}.items():
        path = root / "toy" / ("__init__.py" if name == "__init__" else name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root / "toy"


# imports


def test_imports_run_one_way() -> None:
    assert rules.import_faults(PACKAGE) == []


def test_imports_downward_and_sideways_are_allowed(tmp_path: Path) -> None:
    package = toy(
        tmp_path,
        structures__batch="from toy.errors import Bad",
        structures__cell="from toy.structures.batch import Structures",
        errors="from toy import __version__",
        cli="def run():\n    from toy.reports import page",
        reports__page="",
    )
    assert rules.import_faults(package) == []


@pytest.mark.parametrize(
    "text",
    [
        "import toy.potentials.pair",
        "from toy.potentials import pair",
        "from toy.potentials.pair import Pair",
        "def late():\n    from toy.potentials.pair import Pair",
        "if TYPE_CHECKING:\n    from toy.potentials.pair import Pair",
        "pair = importlib.import_module('toy.potentials.pair')",
    ],
)
def test_imports_upward_are_found(tmp_path: Path, text: str) -> None:
    faults = rules.import_faults(toy(tmp_path, structures__batch=text, potentials__pair=""))
    assert faults == ["toy.structures.batch imports toy.potentials.pair, which lies above it"]


@pytest.mark.parametrize("above", ["reports", "cli"])
def test_imports_of_reports_and_cli_are_found_wherever_they_come_from(tmp_path: Path, above: str) -> None:
    package = toy(tmp_path, scaling__sweep=f"import toy.{above}", reports="", cli="")
    assert rules.import_faults(package) == [f"toy.scaling.sweep imports toy.{above}, which lies above it"]


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (
            {"structures__a": "import toy.structures.b", "structures__b": "import toy.structures.a"},
            "each other",
        ),
        ({"structures__a": "from .b import b", "structures__b": ""}, "write it from toy on"),
        ({"helpers__a": ""}, "in no part of the order"),
        ({"errors": "from toy.gone import x"}, "does not exist"),
        ({"__init__": "from toy.structures.a import A", "structures__a": ""}, "lies above it"),
    ],
)
def test_imports_in_a_circle_or_out_of_order_are_found(tmp_path: Path, files: dict[str, str], complaint: str) -> None:
    faults = rules.import_faults(toy(tmp_path, **files))
    assert len(faults) == 1
    assert complaint in faults[0]


# docstrings, sizes, statements


def test_public_names_are_documented_and_the_names_in_docstrings_exist() -> None:
    assert rules.docstring_faults(PACKAGE) == []


def test_missing_docstrings_and_strange_arguments_are_found(tmp_path: Path) -> None:
    source = '''"""A module."""
def bare(): pass
def _private(): pass
class Thing:
    """A thing."""
    def method(self): pass
def documented(x, *, rest):
    """Do.

    Args:
        x: a number,
            with: a second line.
        y, rest: no such thing as y.

    Raises:
        ValueError: never.
    """
'''
    assert rules.docstring_faults(toy(tmp_path, units=source, seeds="x = 1")) == [
        "toy.seeds has no docstring",
        "toy.units.bare has no docstring",
        "toy.units.Thing.method has no docstring",
        "toy.units.documented documents 'y', which is no parameter",
    ]


def test_files_and_functions_are_short() -> None:
    assert rules.size_faults(PACKAGE, file_lines=450, function_lines=80) == []


def test_long_files_and_functions_are_found_and_docstrings_not_counted(tmp_path: Path) -> None:
    long = "def long():\n    '''One.\n\n    Two.\n    '''\n" + "    x = 1\n" * 4
    package = toy(tmp_path, units=long)
    assert rules.size_faults(package, file_lines=9, function_lines=4) == []
    assert rules.size_faults(package, file_lines=8, function_lines=3) == [
        "units.py has 9 lines, allowed are 8: one idea each",
        "units.py: long has 4 lines, allowed are 3",
    ]


def test_nothing_asserts_and_nothing_is_left_unwritten() -> None:
    assert rules.statement_faults(PACKAGE) == []


def test_assert_and_unwritten_functions_are_found(tmp_path: Path) -> None:
    source = "def f(x):\n    assert x\n    raise NotImplementedError\n    raise NotImplementedError('x')\n"
    faults = rules.statement_faults(toy(tmp_path, units=source))
    assert [fault.split(":")[1] for fault in faults] == ["2", "3", "4"]


# the tree speaks of itself


def test_no_path_of_a_machine_stands_in_the_tree() -> None:
    assert rules.foreign_paths(ROOT) == []


@pytest.mark.parametrize("line", ["x = '{}work/data'", "see {}home/me/x", "`{}root/.cache`", "file:{}Users/me"])
def test_paths_of_a_machine_are_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "notes.md").write_text("fine: https://example.org/home/x and a/root/b\n" + line.format("/"))
    assert [fault.split(":")[:2] for fault in rules.foreign_paths(tmp_path)] == [["notes.md", "2"]]


# dependencies


def declared(groups: tuple[str, ...] = ("dev", "docs")) -> set[str]:
    """Return the distributions that pyproject.toml names, in small letters."""
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(line for group in groups for line in extras[group])]
    return {re.split(r"[^\w.-]", line)[0].lower() for line in wanted}


def undeclared(package: Path, names: set[str]) -> set[str]:
    """Return the top-level modules imported below `package` that neither Python nor the names provide."""
    provided = {IMPORT_NAMES.get(name, name) for name in names} | set(sys.stdlib_module_names) | {package.name}
    found = {w.split(".")[0] for tree in rules.modules(package).values() for w in rules.imported(tree)}
    return found - provided


def test_every_import_is_a_declared_dependency(tmp_path: Path) -> None:
    every_extra = tuple(group for group in PROJECT["optional-dependencies"] if group not in ("dev", "docs"))
    assert undeclared(PACKAGE, declared(every_extra)) == set()
    assert undeclared(toy(tmp_path, units="import os, yaml, pandas"), {"pyyaml"}) == {"pandas"}


def test_every_dependency_is_pinned_and_has_its_reason() -> None:
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
    assert set(pins) == declared()
    reasons = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| ([\w.-]+) \|", reasons, re.MULTILINE)) - {"package"} == declared()


# what a user meets


def heavy_modules(statement: str) -> set[str]:
    """Return which heavy modules a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return HEAVY & set(json.loads(done.stdout))


def test_importing_the_package_is_light() -> None:
    assert heavy_modules("import thalweg") == set()
    assert heavy_modules("import thalweg.errors") == set()


def test_a_heavy_import_is_noticed() -> None:
    assert heavy_modules("import scipy") == {"scipy"}


def test_importing_the_command_line_is_light() -> None:
    assert heavy_modules("import thalweg.cli") == set()


def code_of(text: str) -> str:
    """Return what stands in fences and backticks, a piece each line."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return "\n".join([*fenced, *inline])


def make_targets() -> set[str]:
    """Return the targets that the Makefile declares phony."""
    return set(re.findall(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split())


def strange_commands(text: str, program: str, known: set[str]) -> set[str]:
    """Return the first words after `program` in the code of a document that are not `known`."""
    return set(re.findall(rf"^(?:\$ )?{program} ([a-z-]+)", code_of(text), re.MULTILINE)) - known


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_make_commands_of_the_documents_exist(document: Path) -> None:
    assert strange_commands(document.read_text(encoding="utf-8"), "make", make_targets()) == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_thalweg_commands_of_the_documents_exist(document: Path) -> None:
    known = {path[0] for path in command_paths() if path}
    assert strange_commands(document.read_text(encoding="utf-8"), "thalweg", known) == set()


def test_a_command_that_does_not_exist_is_found_in_code_and_not_in_prose() -> None:
    text = "make sure of `make test` and `make tea`\n\n```\n$ make coffee  # and\nmake demo\n```\n"
    assert strange_commands(text, "make", make_targets()) == {"tea", "coffee"}


def test_the_readme_names_the_make_commands_a_newcomer_needs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {"demo", "test"} <= strange_commands(text, "make", set()) <= make_targets()


def test_the_readme_example_runs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(ast.parse(example), "README.md", "exec"), {})


def command_paths() -> Iterator[tuple[str, ...]]:
    """Yield every command of the command line as the words that reach it, () for the program itself."""
    typer_main = importlib.import_module("typer.main")
    pending = [((), typer_main.get_command(importlib.import_module("thalweg.cli").app))]
    while pending:
        path, command = pending.pop()
        yield path
        pending += [((*path, name), child) for name, child in getattr(command, "commands", {}).items()]


def help_faults(path: tuple[str, ...], page: str) -> list[str]:
    """Return what is wrong with a command's help page: too long for a screen, or no example."""
    lines = page.splitlines()
    usage = " ".join(["thalweg", *path])
    faults = [f"{usage}: {len(lines)} lines, allowed are 40"] if len(lines) > 40 else []
    after = page.partition("Example")[2]
    return faults if usage in after else [*faults, f"{usage}: no example"]


def test_every_help_page_fits_a_screen_and_shows_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = importlib.import_module("typer.testing").CliRunner()
    app = importlib.import_module("thalweg.cli").app
    monkeypatch.setenv("COLUMNS", "100")
    pages = {path: runner.invoke(app, [*path, "--help"]) for path in command_paths()}
    assert len(pages) > 1
    assert [page.exit_code for page in pages.values()] == [0] * len(pages)
    assert [fault for path, page in pages.items() for fault in help_faults(path, page.output)] == []


def test_help_pages_that_are_long_or_bare_are_found() -> None:
    good = "Usage: thalweg tune\n\nExample: thalweg tune pairs.extxyz\n"
    assert help_faults(("tune",), good) == []
    assert help_faults(("train",), good) == ["thalweg train: no example"]
    assert help_faults(("tune",), good + "\n" * 40) == ["thalweg tune: 43 lines, allowed are 40"]


# the tests' own ground


def test_shapes_and_types_are_enforced_in_every_test(silicon8: Structures) -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="with_positions"):
        silicon8.with_positions(silicon8.positions[:, :2])
    with pytest.raises(jaxtyping.TypeCheckError, match="__init__"):
        silicon8.with_positions(silicon8.positions[:-1])
    with pytest.raises(jaxtyping.TypeCheckError, match="alpha"):
        Descent(alpha="fast")
    assert Descent(alpha=1).alpha == 1


def test_every_module_of_the_package_imports_under_the_type_checker() -> None:
    for name in rules.modules(PACKAGE):
        if not name.endswith("__main__"):
            importlib.import_module(name)


def test_tests_run_on_one_thread() -> None:
    assert torch.get_num_threads() == 1


def test_fixtures_are_the_same_in_every_run(silicon64: Structures, ragged: Structures) -> None:
    """The numbers were printed by this test's first run (NumPy 2.4.6)."""
    first = [-0.05309139237137517, 0.010847644136789687, -0.06055839668133946]
    last = [1.3955040632166982, 1.3894668280452516, 1.2903303365610446]
    assert ragged.counts.tolist() == [8, 8, 2]
    assert silicon64.positions[0].tolist() == pytest.approx(first, abs=1e-12)
    assert ragged.positions[-1].tolist() == pytest.approx(last, abs=1e-12)
