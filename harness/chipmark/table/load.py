"""What the offered load makes of a record: its default metric, what that load sets, its name."""

from __future__ import annotations

from chipmark.codes import NoteCode
from chipmark.metrics.ranking import default_metric
from chipmark.results.record import Record


def load_bound(record: Record) -> bool:
    """Whether the offered load sets total_tok_s: an open loop, or a note of the record."""
    noted = any(
        n.code == NoteCode.LOAD_BOUND for n in (*record.manifest.notes, *record.metrics.notes)
    )
    return noted or record.manifest.workload.loop == "open"


def load_refusal(record: Record, metric: str) -> str:
    """Why this metric says nothing of the record's device; "" where it does."""
    return bound_words(metric, bound=load_bound(record))


def bound_words(metric: str, *, bound: bool) -> str:
    """`load_refusal` of a record whose `load_bound` is known."""
    if metric == "total_tok_s" and bound:
        return "load_bound: the offered load sets total_tok_s, not the device"
    return ""


def own_metric(record: Record) -> str:
    """What a record by itself is judged by where no metric is named.

    It follows from the work alone, so that two runs of one cell have the same: a closed loop that
    tool time happened to bind keeps total_tok_s (and `load_refusal` then says why not).
    """
    m = record.manifest
    return default_metric(
        m.scenario,
        load_bound=m.workload.loop == "open",
        has=lambda name: record.metrics.values.get(name) is not None,
    )


def load_words(record: Record) -> str:
    """The load in a cell's name: `equal_n N=4`; `capacity`, whose N is what was measured."""
    m = record.manifest
    return m.scenario if m.scenario == "capacity" else f"{m.scenario} N={m.concurrency}"
