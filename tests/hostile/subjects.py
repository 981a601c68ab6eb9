"""Every reader of foreign files, collected."""

from __future__ import annotations

import importlib
from pathlib import Path

from hostile.trial import Subject


def subjects() -> list[Subject]:
    """Those of all `subjects_*.py` beside this file, in the order of their names."""
    found: list[Subject] = []
    for path in sorted(Path(__file__).parent.glob("subjects_*.py")):
        found += importlib.import_module(f"hostile.{path.stem}").SUBJECTS
    names = [subject.name for subject in found]
    assert len(set(names)) == len(names), "a subject stands twice"
    return found
