"""Mutated files through every reader: no traceback, no bomb, no hang, nothing unprintable.

    CHIPMARK_HOSTILE_SEED=7 pytest tests/hostile -k hostile -m "long or not long"

repeats the trial with other mutations; a failure names its subject and seed, and

    python -m hostile SUBJECT SEED        (in tests/)

shows that one input.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import chipmark
import chipmark_models
from hostile.subjects import subjects
from hostile.trial import Outcome, lines_of, run_trial

SEED = int(os.environ.get("CHIPMARK_HOSTILE_SEED", "12"))
PAST = 0.2
"""The least share of inputs that get past the first check of their reader."""

_SHOWN = 20


def test_hostile_files_of_every_kind_are_read_or_refused(record_property: Any) -> None:
    judge(run_trial(subjects(), 1_000, SEED), record_property)


@pytest.mark.long
def test_a_hundred_thousand_hostile_files_are_read_or_refused(record_property: Any) -> None:
    judge(run_trial(subjects(), 100_000, SEED + 1), record_property)


def judge(outcomes: list[Outcome], record_property: Any) -> None:
    """Show the counts, then fail with the first failures."""
    packages = [Path(package.__file__ or "").parent for package in (chipmark, chipmark_models)]
    roots = (packages[0], packages[1].parent)
    report = [f"seed {SEED}: inputs, read, past the first check, slowest, most memory, lines run"]
    for outcome in outcomes:
        all_lines = {
            (module, line)
            for module in outcome.lines
            for root in roots
            if (root / module).is_file()
            for line in lines_of(root / module)
        }
        seen = {(module, line) for module, lines in outcome.lines.items() for line in lines}
        share = f"{len(seen & all_lines)}/{len(all_lines)}"
        report.append(f"  {outcome.text()} {share:>9} lines")
    inputs = sum(outcome.inputs for outcome in outcomes)
    past = sum(outcome.past_first_check for outcome in outcomes)
    failures = [failure for outcome in outcomes for failure in outcome.failures]
    report.append(f"  {inputs} inputs, {past} past the first check, {len(failures)} failures")
    causes: dict[str, str] = {}
    for failure in failures:
        causes.setdefault(failure.partition(" at ")[2] or failure.partition(": ")[2][:60], failure)
    shown = "\n".join(list(causes.values())[:_SHOWN])
    record_property("trial of hostile files", "\n".join(report))
    assert not failures, f"{len(failures)} failures, one of each kind:\n{shown}"
    assert past >= PAST * inputs, f"only {past} of {inputs} got past the first check"
