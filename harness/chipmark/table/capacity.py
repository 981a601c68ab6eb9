"""What a record of the capacity scenario says of its own capacity: met, missed, or only a bound."""

from __future__ import annotations

from chipmark.codes import NoteCode
from chipmark.results.record import Record

METRICS_1 = "chipmark.metrics/1"


def slo_missed(record: Record) -> str:
    """Why the measured repeats do not meet the objective, in words; "" where they do.

    Always "" in the `equal_n` scenario, whose load is given and not found.
    """
    m = record.manifest
    if m.scenario != "capacity" or m.status != "done":
        return ""
    for note in (*m.notes, *record.metrics.notes):
        if note.code == NoteCode.SLO_NOT_MET:
            return note.text
    if m.capacity is not None and m.capacity.concurrency is None:
        return f"not one session meets {m.slo.name} on {m.slo.share:.0%} of its turns"
    attained = record.metrics.values.get("slo_attainment")
    if attained is None:
        return f"which share of turns meets {m.slo.name} is not known"
    if attained < m.slo.share:
        return f"the repeats meet {m.slo.name} on {attained:.1%} of turns, not {m.slo.share:.0%}"
    return ""


def of_first_definitions(record: Record) -> bool:
    """Whether a capacity is a rate of chipmark.metrics/1, which was off by the number of sessions
    (by -26 to +14 % of the long run): no price may stand on it."""
    old = record.metrics.schema_ == METRICS_1
    return old and record.manifest.scenario == "capacity"


def is_cut(record: Record) -> bool:
    """Whether the sweep ended at its own limit, so that the capacity is a lower bound."""
    m = record.manifest
    noted = any(note.code == NoteCode.CAPACITY_CUT for note in (*m.notes, *record.metrics.notes))
    return m.scenario == "capacity" and (noted or (m.capacity is not None and m.capacity.cut))


def cut_words(record: Record) -> str:
    """What to say of a capacity that is only a bound."""
    n = record.manifest.concurrency
    return f"the sweep ended at {n} sessions, which still meet the objective: a lower bound"


def not_found(record: Record) -> str:
    """Why the capacity of a row is not the device's own, in words; "" where it is, and in the
    `equal_n` scenario."""
    if is_cut(record):
        return f"capacity_cut: {cut_words(record)}"
    if record.manifest.scenario == "capacity" and record.manifest.capacity is None:
        return "how the sweep over N ended is not in the record"
    return ""
