"""Codes of notes, nulls and findings: a text each, a producer each, one spelling."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from chipmark.codes import Code, FindingCode, NoteCode, NullReason, meaning

ROOT = Path(__file__).parent.parent / "harness" / "chipmark"
ENUMS: tuple[type[Code], ...] = (NoteCode, NullReason, FindingCode)
ONLY_READ = {
    "gate/stored.py",
    "results/validate.py",
    "table/capacity.py",
    "table/columns.py",
    "table/comparable.py",
    "table/load.py",
    "table/render.py",
}
"""Files that list codes of notes and nulls, or ask for them, and give none."""


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def given(tree: ast.Module) -> set[tuple[str, str]]:
    """(enumeration, member) that a module uses, but for comparisons, which only ask for one."""
    asked = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        for inner in ast.walk(node)
    }
    return {
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and id(node) not in asked
    }


@pytest.mark.parametrize("codes", ENUMS)
def test_every_code_has_a_producer(codes):
    """A code that nothing gives is a check that was lost."""
    readers = set() if codes is FindingCode else ONLY_READ
    uses = set().union(*(given(tree) for name, tree in trees() if name not in readers))
    lost = [code.name for code in codes if (codes.__name__, code.name) not in uses]
    assert not lost


def test_a_comparison_is_no_producer():
    tree = ast.parse("if code == NoteCode.CLOCK:\n    give(NoteCode.PLUGIN)")
    assert given(tree) == {("NoteCode", "PLUGIN")}


def test_a_note_is_given_a_member():
    """No `Note(code="clock")`: a misspelt one would be an unknown code of the record."""
    free = [
        f"{name}:{node.lineno}"
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Note"
        for keyword in node.keywords
        if keyword.arg == "code" and isinstance(keyword.value, ast.Constant | ast.JoinedStr)
    ]
    assert not free


@pytest.mark.parametrize("codes", ENUMS)
def test_a_code_is_its_value_and_has_a_text(codes):
    for code in codes:
        assert code.name == code.value.upper()
        assert code.text
        assert code.__doc__ == code.text
        assert f"{code}" == json.loads(json.dumps(code)) == code.value
        assert codes.known(code.value) is code


def test_a_code_of_another_version_means_itself():
    assert NoteCode.known("of_tomorrow") is None
    assert meaning("of_tomorrow") == "of_tomorrow"
    assert meaning("no_probe") == NullReason.NO_PROBE.text
