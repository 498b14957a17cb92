"""The rules of the house as functions: each takes a folder and returns what breaks it there, a line each.

They parse and never import, so they hold for modules that no test loads. `test_house.py` runs them on the
package and, each one, on a made-up tree that it must reject.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ORDER = (
    ("units", "errors", "seeds", "storage", "allocator", "console"),
    ("structures",),
    ("potentials",),
    ("relaxation",),
    ("testbeds",),
    ("gradients",),
    ("training",),
    ("evaluation",),
    ("scaling",),
    ("reports",),
    ("cli", "__main__"),
)
"""Parts of the package from the ground up; a module imports from its own part or from parts before it."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules(package: Path) -> dict[str, ast.Module]:
    """Return the syntax tree of every module below `package`, by dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return found


def layer(module: str) -> int | None:
    """Return the height of a module in `ORDER`, 0 for the package itself, None for an unknown part."""
    parts = module.split(".")
    if len(parts) == 1:
        return 0
    return next((height for height, names in enumerate(ORDER) if parts[1] in names), None)


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield what a module imports anywhere, also inside functions, for types only or by a literal name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def import_faults(package: Path) -> list[str]:
    """Return relative and upward imports, parts outside `ORDER`, and cycles."""
    trees = modules(package)
    faults = [f"{name} is in no part of the order: {ORDER}" for name in trees if layer(name) is None]
    graph: dict[str, set[str]] = {name: set() for name in trees}
    for name, tree in trees.items():
        for wanted in sorted(set(imported(tree))):
            target = _nearest_module(wanted, trees)
            if wanted.startswith("."):
                faults.append(f"{name} imports {wanted}: write it from {package.name} on")
            elif wanted.split(".")[0] == package.name and target is None:
                faults.append(f"{name} imports {wanted}, which does not exist")
            elif target is not None and target != name:
                graph[name].add(target)
                if (layer(target) or 0) > (layer(name) or 0):
                    faults.append(f"{name} imports {target}, which lies above it")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        faults.append(f"modules import each other: {' <- '.join(error.args[1])}")
    return faults


def _nearest_module(dotted: str, known: dict[str, ast.Module]) -> str | None:
    """Return the module that `dotted` names or takes a name from, None if it is not of this package."""
    return next((name for name in (dotted, dotted.rpartition(".")[0]) if name in known), None)


def public_definitions(tree: ast.Module, module: str) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Yield public classes, functions and methods with their dotted names."""

    def inside(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, Function | ast.ClassDef]]:
        for node in body:
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                yield f"{prefix}.{node.name}", node
                if isinstance(node, ast.ClassDef):
                    yield from inside(node.body, f"{prefix}.{node.name}")

    yield from inside(tree.body, module)


def docstring_faults(package: Path) -> list[str]:
    """Return modules and public names without a docstring, and `Args:` entries that are no parameter."""
    faults = []
    for module, tree in modules(package).items():
        if tree.body and ast.get_docstring(tree) is None:
            faults.append(f"{module} has no docstring")
        for name, node in public_definitions(tree, module):
            text = ast.get_docstring(node)
            if text is None:
                faults.append(f"{name} has no docstring")
                continue
            strangers = documented_arguments(text) - parameters(node)
            faults += [f"{name} documents {s!r}, which is no parameter" for s in sorted(strangers)]
    return faults


def documented_arguments(docstring: str) -> set[str]:
    """Return the names listed under `Args:`; one entry may name several, separated by commas."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", docstring, re.MULTILINE)
    if section is None:
        return set()
    lines = [line for line in section.group(1).splitlines() if line.strip()]
    indent = min(len(line) - len(line.lstrip()) for line in lines)
    entries = [line[indent:] for line in lines if not line[indent].isspace()]
    return {name.strip(" *`") for entry in entries for name in entry.split(":")[0].split(",")}


def parameters(node: Function | ast.ClassDef) -> set[str]:
    """Return the parameters of a function, or of a class's `__init__` and annotated fields."""
    if isinstance(node, ast.ClassDef):
        fields = {s.target.id for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)}
        makers = [s for s in node.body if isinstance(s, Function) and s.name == "__init__"]
        return fields.union(*(parameters(m) for m in makers))
    a = node.args
    extra = [x for x in (a.vararg, a.kwarg) if x is not None]
    return {x.arg for x in [*a.posonlyargs, *a.args, *a.kwonlyargs, *extra]}


def size_faults(package: Path, *, file_lines: int, function_lines: int) -> list[str]:
    """Return files and functions (docstring not counted) longer than allowed."""
    faults = []
    for path in sorted(package.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        length = len(source.splitlines())
        if length > file_lines:
            faults.append(f"{path.name} has {length} lines, allowed are {file_lines}: one idea each")
        functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, Function)]
        faults += [
            f"{path.name}: {node.name} has {_body_lines(node)} lines, allowed are {function_lines}"
            for node in functions
            if _body_lines(node) > function_lines
        ]
    return faults


def _body_lines(node: Function) -> int:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def statement_faults(package: Path) -> list[str]:
    """Return `assert` statements (validation raises an exception of errors.py) and what is left unwritten."""
    faults = []
    for module, tree in modules(package).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                faults.append(f"{module}:{node.lineno}: assert; raise an exception of errors.py")
            elif isinstance(node, ast.Name) and node.id == "NotImplementedError":
                faults.append(f"{module}:{node.lineno}: NotImplementedError; write it, or make it abstract")
    return faults


_FOREIGN = re.compile(r"(?<![\w.~])/(?:work|root|home|Users)/[\w.]")
_TEXT = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".cfg", ".sh", ""}
_GENERATED = {"site", "runs", "build", "dist", "__pycache__"}


def foreign_paths(root: Path) -> list[str]:
    """Return absolute paths of somebody's machine in the text files of the tree."""
    faults = []
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        skipped = _GENERATED & set(parts) or any(p.startswith(".") and p != ".ci" for p in parts)
        if skipped or not path.is_file() or path.suffix not in _TEXT or path.parent.name.endswith(".egg-info"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            if _FOREIGN.search(line):
                faults.append(f"{path.relative_to(root)}:{number}: {line.strip()[:80]}")
    return faults
