"""Records of `sim:` backends against the closed form of their device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chipmark.backends.sim.spec import SPECS, SimSpec, spec_of
from chipmark.closed_form.columns import expected_columns, expected_phases
from chipmark.closed_form.cost import expected_cost
from chipmark.codes import FindingCode
from chipmark.errors import ChipmarkError
from chipmark.prices.book import load_book
from chipmark.results.finding import Finding
from chipmark.results.raw import load_raw
from chipmark.results.record import RECORD_FILE, Record
from chipmark.results.store import load_record
from chipmark.table.rows import build_rows

TOLERANCE = 1e-6
"""Relative; sums are taken in another order and times are rounded by the clock."""

ENERGY = ("power_w", "tok_per_joule", "joule_per_session")


def check_record(folder: Path, book: Path) -> list[Finding]:
    """Every column of a record that differs from its closed form, as an error.

    Energy of a device that is polled may differ by the meter's stated error, which is all that
    sampling can promise; that of the exact counter next to it may not. Its cost is computed from
    the watts that were measured. A record of another backend, or of a device or scenario without a
    closed form, is a finding too.
    """
    where = folder / RECORD_FILE
    try:
        record = load_record(folder)
        kind, _, device = record.manifest.backend.partition(":")
        if kind != "sim" or device.partition(":")[0] not in SPECS:
            text = f"{record.manifest.backend} has no closed form; only built-in sim: backends do"
            return [Finding("error", FindingCode.CLOSED_FORM, where, text)]
        differences = _differences(folder, record, spec_of(device)[0])
        differences += _cost_differences(record, book)
    except ChipmarkError as error:
        return [Finding("error", FindingCode.CLOSED_FORM, where, error.message)]
    return [Finding("error", FindingCode.CLOSED_FORM, where, text) for text in differences]


def _differences(folder: Path, record: Record, spec: SimSpec) -> list[str]:
    raw = load_raw(folder, record.manifest)
    origins = [float(repeat.events["window"]["start_s"][0]) for repeat in raw.repeats]
    found = []
    expected = expected_columns(raw.trace, spec, record.manifest, origins)
    for name, value in expected.items():
        sampled = name in ENERGY and spec.poll_s > 0
        stored = record.metrics.values.get(name)
        if not _same(stored, value, _stated_error(record) if sampled else TOLERANCE):
            found.append(f"{name} is {stored}, the closed form says {value}")
    if spec.dies == 1:
        found += _phase_differences(
            record, spec, expected_phases(raw.trace, spec, record.manifest, origins)
        )
    return found + _beside_differences(record, expected)


def _beside_differences(record: Record, expected: Mapping[str, Any]) -> list[str]:
    """The exact counter next to polled watts has the closed form's joules."""
    texts = []
    for entry in record.metrics.energy.get("beside") or []:
        for name in ("power_w", "tok_per_joule"):
            if not _same(entry[name], expected[name], TOLERANCE):
                text = f"{name} by {entry['name']} is {entry[name]}"
                texts.append(f"{text}, the closed form says {expected[name]}")
    return texts


def _phase_differences(record: Record, spec: SimSpec, expected: Mapping[str, float]) -> list[str]:
    """Joules of phases that differ by more than a thousandth by an exact counter; of a meter that
    is polled, by more than a tenth and more than twice their 95 % interval."""
    phases = record.metrics.energy.get("phases") or {}
    found = []
    for kind, joules in expected.items():
        parts = [p for name, p in phases.items() if name.startswith(kind) and p["method"]]
        if not parts:
            continue
        stored = math.fsum(part["energy_j"] for part in parts)
        room = 1e-3 * joules
        if spec.poll_s > 0:
            ends = [part["interval"] or (part["energy_j"],) * 2 for part in parts]
            room = max(0.1 * joules, math.fsum(high - low for low, high in ends))
        if abs(stored - joules) > room:
            found.append(f"energy of {kind} is {stored} J, the closed form says {joules} J")
    return found


def _cost_differences(record: Record, book: Path) -> list[str]:
    values = record.metrics.values
    watts, rate = values.get("power_w"), values.get("sessions_per_hour")
    tokens = record.metrics.details.get("work_tokens_per_session")
    if not watts or not rate or not tokens:
        return []
    expected: Mapping[str, Any] = expected_cost(
        book,
        record.manifest.chip.name,
        watts=watts,
        sessions_per_hour=rate,
        tokens_per_session=tokens,
    )
    row = build_rows([record], load_book(book))[0].values
    return [
        f"{name} is {row[name]}, the closed form says {value}"
        for name, value in expected.items()
        if not _same(row[name], value, TOLERANCE)
    ]


def _stated_error(record: Record) -> float:
    bound = record.metrics.energy.get("error_rel")
    return TOLERANCE if bound is None else float(bound)


def _same(a: float | None, b: float | None, tolerance: float) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-12)
