"""No dead code: each public function and class of a module has a user outside the tests.

A user is package code, a script or an example that names it: in its own module, by an import, as
an attribute of its module, or in a string: "module:name", as entry points are written, or "module"
for its `main`.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import chipmark

ROOT = Path(__file__).parent.parent
SOURCES = ("harness", "models", "kernels", "scripts", "examples")

ALLOWED: dict[str, str] = {
    "chipmark.backends.sim.cells:context_hash": "tests compute by it what a cell must hold",
}
"""`module:name` of what has no user, and why it is kept."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Name = tuple[str, str]
"""A module and a name in it."""


@dataclass
class Module:
    """One source file."""

    name: str
    tree: ast.Module
    imported: dict[str, str] = field(default_factory=dict)
    """Modules by the name that this file has for them."""


def module_name(path: Path) -> str:
    """The dotted name by which other files import this one; an example is a project of its own."""
    if path.is_relative_to(ROOT / "examples"):
        return path.stem
    parts = path.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_modules(folders: tuple[str, ...] = SOURCES) -> dict[str, Module]:
    """Every source file by its module's name."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return {module_name(p): Module(module_name(p), ast.parse(p.read_text())) for p in paths}


def dotted(node: ast.expr) -> str:
    """`a.b.c` of such an expression, "" for another."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return base and f"{base}.{node.attr}"
    return ""


def uses(module: Module, known: dict[str, Module]) -> Iterator[Name]:
    """Names of modules that a file refers to; a definition's own body does not count for it."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                module.imported[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in known:
                    module.imported[alias.asname or alias.name] = whole
                else:
                    yield node.module, alias.name
    for statement in module.tree.body:
        own = statement.name if isinstance(statement, Definition) else ""
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and node.id != own:
                yield module.name, node.id
            elif isinstance(node, ast.Attribute):
                base = dotted(node.value)
                yield module.imported.get(base, base), node.attr
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                where, colon, name = node.value.partition(":")
                if where in known:  # a module that is named whole is run: its `main`
                    yield where, name if colon else "main"


def public(module: Module) -> Iterator[Definition]:
    """Public functions and classes at the level of the module that are not a command or a hook."""
    for node in module.tree.body:
        if not isinstance(node, Definition) or node.name.startswith(("_", "pytest_", "test_")):
            continue
        marks = [ast.unparse(mark) for mark in node.decorator_list]
        if not any(m.startswith(("app.", "pytest.fixture")) or ".command" in m for m in marks):
            yield node


def unused(modules: dict[str, Module], exported: set[str]) -> list[str]:
    """`module:name` of each definition without a user."""
    used = {name for module in modules.values() for name in uses(module, modules)}
    found = [(m.name, node.name) for m in modules.values() for node in public(m)]
    return [f"{m}:{name}" for m, name in found if (m, name) not in used and name not in exported]


def entry_points() -> set[str]:
    """`module:name` of everything that the project file names, and those of the examples."""
    found: set[str] = set()
    for path in [ROOT / "pyproject.toml", *(ROOT / "examples").glob("*/pyproject.toml")]:
        project = tomllib.loads(path.read_text())["project"]
        for group in [project.get("scripts", {}), *project["entry-points"].values()]:
            found |= set(group.values())
    return found


def test_every_public_definition_has_a_user() -> None:
    found = set(unused(read_modules(), set(chipmark.__all__))) - entry_points()
    assert not found - set(ALLOWED), "\n".join(sorted(found - set(ALLOWED)))
    assert not set(ALLOWED) - found, "allowed, but used or gone"


def test_a_definition_without_a_user_is_found() -> None:
    texts = {
        "one": "def used(): ...\ndef called(): ...\ndef dead(): return dead()\nclass Dead: ...",
        "two": "from one import used\nimport one as o\no.called()\nselector.dead()",
    }
    modules = {name: Module(name, ast.parse(text)) for name, text in texts.items()}
    assert unused(modules, set()) == ["one:dead", "one:Dead"]
