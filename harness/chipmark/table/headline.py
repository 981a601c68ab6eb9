"""What a table says first: who is fastest, cheapest and best in tokens per joule, and why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from chipmark.table.cells import people_text
from chipmark.table.columns import COLUMNS, Kind
from chipmark.table.judged import Judged
from chipmark.table.rows import row_of

Ranked = Mapping[Kind, Sequence[Judged]]
"""The same sheets in the same order, judged by a metric of each kind."""

_WORDS: Mapping[Kind, str] = {
    "perf": "fastest",
    "cost": "cheapest",
    "energy": "most tokens per joule",
}
_MOST_GROUPS = 3
_MOST_NAMES = 6
"""Of more rows that share a place, the rest are counted; their ranks are in the table."""
_PLAIN: Mapping[str, str] = {
    "few_repeats": "fewer than 3 repeats",
    "parity fail": "parity failed",
    "parity unchecked": "parity not checked",
    "audit_pending": "audit pending",
    "slo_not_met": "the objective is not met",
    "capacity_cut": "the capacity is only a lower bound",
    "load_bound": "the offered load sets the metric",
    "not_steady": "the repeats drift",
    "repeat_incomplete": "a repeat is incomplete",
    "turns_lost": "turns were lost",
    "sessions_lost": "sessions were lost",
    "clock": "its clocks contradict each other",
    "plugin": "other code than the name stands for",
    "weight_bytes": "too few bytes of weights",
    "kv_bytes": "too few bytes of KV",
    "far_over_roof": "far over a measured roof",
    "throttled_thermal": "throttled by temperature",
    "throttled_hardware": "throttled by a hardware limit",
    "clock_below_nominal": "slower than its nominal clock",
    "other_processes": "the device was shared with other processes",
    "ecc_errors": "memory errors while measured",
    "state_changed": "a setting changed while measured",
    "shared_device": "a share of a card",
}
"""Heads of refusals in the plain words of a sentence."""


def headline(ranked: Ranked) -> str:
    """The sentence about these rows; "" where there are none.

    A winner is named only by rank 1 among at least two ranked rows of a group; rows whose
    intervals overlap share it. Where no row has a rank, the reason is given instead.
    """
    if not ranked["perf"]:
        return ""
    names = _Names(ranked["perf"])
    parts = [f"{_WORDS[kind]}: {_winners(ranked[kind], names)}" for kind in _WORDS]
    out = _left_out(ranked["perf"])
    sentence = "; ".join(parts)
    return sentence[0].upper() + sentence[1:] + (f"; {out}." if out else ".")


class _Names:
    """Rows by their backends, and by their numbers where others have the same backend."""

    def __init__(self, rows: Sequence[Judged]) -> None:
        self._backends = [str(row.own.values["backend"]) for row in rows]
        self._counts = Counter(self._backends)

    def of(self, index: int) -> str:
        backend = self._backends[index]
        return backend if self._counts[backend] == 1 else f"{backend} (row {index + 1})"


def _winners(rows: Sequence[Judged], names: _Names) -> str:
    """Who has the first place in each group of comparable rows, or why no row has."""
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        if row.rank is not None:
            groups.setdefault(row.group, []).append(index)
    if not groups:
        return f"not known ({_reasons(rows)})"
    contests = [members for members in groups.values() if len(members) > 1]
    if not contests:
        return f"not known ({_alone(groups, names)})"
    if len(contests) > _MOST_GROUPS:
        return f"see the ranks, in {len(contests)} groups of comparable rows"
    found = []
    for members in contests:
        first = [index for index in members if rows[index].rank == 1]
        listed = _joined([names.of(index) for index in first])
        by = rows[first[0]].metric
        among = f"of {len(members)} comparable rows by {by}"
        if len(first) > 1:
            found.append(f"{listed} share the first place {among}")
        else:
            value = people_text(row_of(rows[first[0]]), by)
            found.append(f"{listed} {among}, {value}{_unit(by)}")
    return ", and ".join(found)


def _alone(groups: Mapping[str, Sequence[int]], every: _Names) -> str:
    """Why rows that are each the only ranked one of their group give no winner."""
    names = [every.of(members[0]) for members in groups.values()]
    if len(names) == 1:
        return f"only {names[0]} is ranked"
    if len({group.partition(":")[0] for group in groups}) == 1:
        return f"{_joined(names)} are ranked apart: eager execution has a group of its own"
    listed = f": {', '.join(names)}" if len(names) <= _MOST_GROUPS else ""
    return f"no two of the {len(names)} ranked rows are comparable{listed}"


def _joined(names: Sequence[str]) -> str:
    """The names as `a, b and c`, or `a, b and 7 more`."""
    if len(names) > _MOST_NAMES:
        names = [*names[:_MOST_NAMES], f"{len(names) - _MOST_NAMES} more"]
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _unit(metric: str) -> str:
    unit = COLUMNS[metric].unit
    return "" if unit in ("", "1", "currency") else f" {unit}"


def _left_out(rows: Sequence[Judged]) -> str:
    out = [row for row in rows if row.rank is None]
    if not out:
        return ""
    verb = "row is" if len(out) == 1 else "rows are"
    return f"{len(out)} {verb} not ranked in speed: {_reasons(out)}"


def _reasons(rows: Sequence[Judged]) -> str:
    """The first reason of each row without a rank, each with the number of rows it is true of."""
    counts = Counter(_first_reason(row) for row in rows if row.rank is None)
    return ", ".join(f"{reason} ({count})" for reason, count in counts.most_common())


def _first_reason(row: Judged) -> str:
    barred = row.barred
    if not barred:
        return "no reason is recorded"
    own = [reason for reason in barred if not reason.startswith("baseline: ")]
    head, separator, rest = (own or barred)[0].partition(": ")
    if head == "baseline":
        inner = rest.partition(": ")[0]
        return f"the baseline: {_PLAIN.get(inner, inner)}"
    if head.startswith("another ") and separator:
        return f"{head} than the baseline's"
    return _PLAIN.get(head, head)
