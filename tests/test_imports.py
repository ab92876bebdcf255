"""The import table of docs/architecture.md, held by walking the syntax tree of every module."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
TABLE = {
    "oci": set[str](),
    "storage": {"oci"},
    "auth": {"oci", "storage"},
    "remote": {"oci"},
    "registry": {"oci", "storage", "auth", "remote"},
    "runtime": {"oci", "storage", "remote"},
    "cli": {"oci", "storage", "auth", "remote", "registry", "runtime"},
}
OUTSIDE = {"tests", "bench", "scripts", "demo"}
SERVER_LIBRARIES = {"starlette", "uvicorn"}
NO_SERVER = {"oci", "storage", "auth", "remote"}


def imported(source: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of each import, wherever it stands: a lazy import in a function counts as any other."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
            named = node.args[0] if node.args else None
            yield node.lineno, named.value if isinstance(named, ast.Constant) and isinstance(named.value, str) else "?"


def violations(package: str, source: str) -> list[str]:
    """What a module of ``package`` imports and may not."""
    found = []
    for line, name in imported(source):
        top = name.partition(".")[0]
        if not top or name == "?":
            found.append(f"{line}: {name}: imports are absolute and by name")
        elif top in (TABLE.keys() | OUTSIDE) - TABLE[package] - {package}:
            found.append(f"{line}: {package} may not import {name}")
        elif package == "oci" and top not in sys.stdlib_module_names | {"oci"}:
            found.append(f"{line}: oci holds values only and imports the standard library, not {name}")
        elif package in NO_SERVER and top in SERVER_LIBRARIES:
            found.append(f"{line}: {package} knows no HTTP server, yet imports {name}")
    return found


@pytest.mark.parametrize("package", TABLE)
def test_table_holds(package: str) -> None:
    modules = sorted((HOME / package).rglob("*.py"))
    assert modules, f"{package} has no modules: is this run from the repository?"
    found = [
        f"{path.relative_to(HOME)}:{problem}" for path in modules for problem in violations(package, path.read_text())
    ]
    assert not found, "\n".join(found)


def test_architecture_page_has_the_same_table() -> None:
    rows = {}
    for line in (HOME / "docs/architecture.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 2 and cells[0].startswith("`"):
            for name in cells[0].replace("`", "").split(", "):
                rows[name] = {word.strip("`, ") for word in cells[1].split() if word.startswith("`")}
    assert rows.pop("cli") == set(), "cli's row says 'everything'"
    assert rows == {name: allowed for name, allowed in TABLE.items() if name != "cli"}


def test_every_package_is_in_the_table() -> None:
    packages = {path.parent.name for path in HOME.glob("*/__init__.py")}
    assert packages <= TABLE.keys() | OUTSIDE


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("oci", "import storage"),
        ("oci", "import httpx"),
        ("storage", "from registry.app import Registry"),
        ("storage", "def lazily():\n    import starlette.routing"),
        ("remote", "from storage.blobs import BlobStore"),
        ("registry", "import runtime.engine"),
        ("runtime", "import registry"),
        ("registry", "from cli.options import Failure"),
        ("runtime", "from tests.images import small"),
        ("storage", "from . import blobs"),
        ("storage", "import importlib\nimportlib.import_module('registry.app')"),
        ("storage", "name = 'registry'\n__import__(name)"),
    ],
)
def test_a_forbidden_import_is_found(package: str, source: str) -> None:
    assert violations(package, source)
