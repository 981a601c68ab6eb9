"""What the pages of docs/ say is what the code does: columns, links, commands, words."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import chipmark.errors
from chipmark.registry import BUILT_IN
from chipmark.table.columns import COLUMNS
from chipmark.table.columns_page import page

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")


def test_columns_page_is_generated_from_the_code():
    assert (ROOT / "docs/columns.md").read_text() == page(), (
        "run: python -m chipmark.table.columns_page > docs/columns.md"
    )


def test_every_measured_column_has_its_definition():
    text = (ROOT / "docs/definitions.md").read_text()
    measured = [c.name for c in COLUMNS.values() if c.type in ("number", "integer")]
    named = set(re.findall(r"`([a-z0-9_]+)`", text))
    assert not [
        name for name in measured if name not in named and name not in ("concurrency", "sessions")
    ]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path):
    missing = [to for to in LINK.findall(path.read_text()) if not (path.parent / to).exists()]
    assert not missing


def test_every_meter_is_on_the_page_of_power():
    named = set(re.findall(r"`([a-z-]+)`", (ROOT / "docs/power.md").read_text()))
    assert set(BUILT_IN["chipmark.meters"]) <= named


def test_readme_is_short():
    words = (ROOT / "README.md").read_text().split()
    assert len(words) <= 1200


def test_the_tree_of_errors_is_the_codes():
    tree = (chipmark.errors.__doc__ or "").partition("All of them")[0].partition("\n\n")[2].strip()
    assert tree in (ROOT / "docs/errors.md").read_text()


def test_the_ladder_of_packages_is_the_import_rules():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    rule = next(c for c in project["contracts"] if "later" in c["name"])
    layers = [set(layer.split(" | ")) for layer in rule["layers"]]
    text = (ROOT / "docs/architecture.md").read_text().partition("## The life of one token")[0]
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    shown = [set(re.findall(r"`([\w.]+)`", row.split("|")[1])) for row in rows]
    assert shown == [*layers, {"chipmark_models"}, {"chipmark_kernels"}]
