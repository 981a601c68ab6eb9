"""Which sources a row's figures depend on, as one hash: an edit elsewhere leaves the row as it is.

They are the launcher's module and what it imports of the kernels, the file of the case and the
references that it names, and what measures. Of `tiles.py`, which all kernels share, they are the
rules that these modules name, and of a measured table its entries for them.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from chipmark.kernel_bench.case import Case
from chipmark.kernel_bench.document import Codes
from chipmark_kernels import tiles, tuned
from chipmark_kernels.device import product_key

KERNELS = "chipmark_kernels"
REFERENCES = f"{KERNELS}.reference"
RULES = f"{KERNELS}.tiles"
APART = (RULES, f"{KERNELS}.tuned", f"{KERNELS}.manifest")
"""Not followed: tiles are hashed by rule, and the a case's name has the sizes of the manifest."""

_HERE = "chipmark.kernel_bench"
MEASURING = tuple(
    f"{_HERE}.{name}" for name in ("bench", "case", "measuring", "peers", "rotation", "timing")
)
ROOFS = (f"{_HERE}.roofs", f"{_HERE}.timing")


def codes_of(cases: Sequence[Case], identity: Mapping[str, Any]) -> Codes:
    """Of the cases on a device with this identity, whose name says which table of tiles it has."""
    product = product_key(str(identity.get("device", "")))
    rows = {(case.kernel, case.name): code_of(case, product) for case in cases}
    return Codes(rows, _hashed(_files(ROOFS)))


def code_of(case: Case, product: str = "") -> str:
    """The hash of one case's sources; product: as `device.product_key` writes it, "" for none."""
    work = repr((case.bytes, case.flops, case.bound, case.rate)).encode()
    return _hashed(
        (work, _sources_of(case.kernel, case.make.__module__, _launcher_module(case), product))
    )


@cache
def _sources_of(kernel: str, made: str, launched: str, product: str) -> bytes:
    """Digest of what all cases of a kernel share."""
    mine = _closure((launched,))
    judged = _closure([m for m in _imports(made) if m.startswith(REFERENCES)])
    parity = _closure((f"{KERNELS}.parity",))
    rules = _rules_of(kernel, mine)
    parts = _files(sorted({*mine, *judged, *parity, made, *MEASURING}))
    return _hashed([*parts, _rule_text(rules), repr(_measured(product, rules)).encode()]).encode()


def _hashed(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def _launcher_module(case: Case) -> str:
    """Where the launcher of the case's kernel stands; the file of the case imports it by name."""
    launcher: Callable[..., Any] = vars(sys.modules[case.make.__module__])[case.kernel]
    return launcher.__module__


@cache
def _source(module: str) -> bytes:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no source of {module}", name=module)
    return Path(spec.origin).read_bytes()


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_source(module))


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Modules of the kernels that a module imports, by their full names."""
    found: list[str] = []
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module == KERNELS:
            found += [f"{KERNELS}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{KERNELS}."):
            found.append(str(node.module))
    return tuple(dict.fromkeys(found))


def _closure(start: Iterable[str]) -> list[str]:
    """The modules and all that they import of the kernels, without those that stand apart."""
    found: list[str] = []
    waiting = list(start)
    while waiting:
        module = waiting.pop()
        if module not in found and module not in APART:
            found.append(module)
            waiting += _imports(module)
    return sorted(found)


def _files(modules: Iterable[str]) -> list[bytes]:
    return [module.encode() + b"\0" + _source(module) for module in modules]


@cache
def _strings(module: str) -> frozenset[str]:
    nodes = (node for node in ast.walk(_tree(module)) if isinstance(node, ast.Constant))
    return frozenset(node.value for node in nodes if isinstance(node.value, str))


def _rules_of(kernel: str, modules: Iterable[str]) -> tuple[str, ...]:
    """The kernel's rule of tiles, and those whose names the modules have as strings."""
    strings = {kernel}.union(*map(_strings, modules))
    return tuple(sorted(name for name in tiles.RULES if name in strings))


@cache
def _rule_text(rules: tuple[str, ...]) -> bytes:
    """The text of these rules and of the choice among them, with all that they call."""
    lines = _source(RULES).decode().splitlines()
    named: dict[str, ast.stmt] = {}
    for node in _tree(RULES).body:
        if isinstance(node, ast.FunctionDef):
            named[node.name] = node
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named |= {t.id: node for t in targets if isinstance(t, ast.Name)}
    table = next(n for n in ast.walk(named.pop("RULES")) if isinstance(n, ast.Dict))
    waiting: list[ast.stmt | ast.expr] = [named["choose"]]
    for key, value in zip(table.keys, table.values, strict=True):
        if isinstance(key, ast.Constant) and key.value in rules:
            waiting.append(value)
    found: dict[int, str] = {}
    while waiting:
        part = waiting.pop()
        if part.lineno not in found:
            found[part.lineno] = "\n".join(lines[part.lineno - 1 : part.end_lineno])
            names = [n.id for n in ast.walk(part) if isinstance(n, ast.Name)]
            waiting += [named[name] for name in names if name in named]
    return "\0".join(sorted(found.values())).encode()


def _measured(product: str, rules: tuple[str, ...]) -> list[Any]:
    """Entries of the product's table for the rules' kernels, in an order of their own."""
    if not product:
        return []
    entries = tuned.read_table(tuned.table_path(product)).entries
    return sorted((key, repr(tile)) for key, tile in entries.items() if key[0] in rules)
