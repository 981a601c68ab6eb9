"""Sheets to places: each row's baseline, what bars it from a rank, and its rank.

A row of a table is put together from this (`table.rows`) when it is shown, one after another, so
that a table over many thousands of records holds only the sheet of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chipmark.errors import UnknownNameError
from chipmark.table.columns import COLUMNS, RANKABLE, Kind
from chipmark.table.comparable import Comparability, compare
from chipmark.table.ranking import Span, bars, default_metric, ranks, span
from chipmark.table.sheet import Sheet

METRICS: Mapping[Kind, str] = {"energy": "tok_per_joule", "cost": "cost_per_session"}
"""By what rows are ranked in the kinds that have one metric; speed has one for each kind of work.
"""


@dataclass(frozen=True, slots=True)
class Judged:
    """The place of one sheet among the others."""

    own: Sheet
    """The row's sheet."""
    base: Sheet | None
    """The baseline's; None where no row can serve as one."""
    metric: str
    """The column that both are ranked by."""
    across: bool
    """Whether ratios between precision classes are wanted."""
    work: int
    """The number of the row's kind of work."""
    group: str
    """Rows of one group are ranked together."""
    comparability: Comparability
    """Whether it may be ranked with its baseline, by kind."""
    barred: tuple[str, ...]
    """Why it has no rank."""
    rank: int | None
    """Place by the metric within the group."""


class Comparisons:
    """What `comparable.compare` finds, for several metrics of one table: each pair once."""

    def __init__(self, sheets: Sequence[Sheet]) -> None:
        self._sheets = sheets
        self._alone: list[Comparability | None] = [None] * len(sheets)
        self._last: list[tuple[int | None, Comparability] | None] = [None] * len(sheets)

    def alone(self, index: int) -> Comparability:
        """A row with itself."""
        found = self._alone[index]
        if found is None:
            found = self._alone[index] = compared(self._sheets[index], self._sheets[index])
        return found

    def with_base(self, index: int, base: int | None) -> Comparability:
        """A row with its baseline."""
        if base == index:
            return self.alone(index)
        last = self._last[index]
        if last is None or last[0] != base:
            its = None if base is None else self._sheets[base]
            last = self._last[index] = (base, compared(self._sheets[index], its))
        return last[1]


def compared(own: Sheet, base: Sheet | None, *, across: bool = False) -> Comparability:
    """A row with its baseline; across: as if their precision classes were equal."""
    if base is None:
        refusals = own.standing.own or ("no row can serve as the baseline",)
        return Comparability((), {"perf": refusals, "energy": refusals, "cost": refusals})
    money = (own.costing.money, base.costing.money)
    return compare(own.standing, base.standing, money, across_precision=across)


def judge(
    sheets: Sequence[Sheet],
    baseline: str | None = None,
    rank_by: str | None = None,
    *,
    across_precision: bool = False,
    comparisons: Comparisons | None = None,
) -> list[Judged]:
    """The places of sheets in their order; arguments and errors as those of `rows.build_rows`.

    comparisons: of these sheets, where they are judged by other metrics as well.
    """
    if rank_by is not None and rank_by not in RANKABLE:
        raise UnknownNameError("metric to rank by", rank_by, RANKABLE)
    pairs = comparisons or Comparisons(sheets)
    works = [s.standing.work if across_precision else s.standing.group for s in sheets]
    metrics = _metrics(sheets, works, rank_by)
    bases = _baselines(sheets, works, metrics, baseline, pairs)
    numbers: dict[tuple[str, ...], int] = {}
    groups, reasons = [], []
    spans: dict[str, dict[int, Span]] = {}
    for index, own in enumerate(sheets):
        number = numbers.setdefault(own.standing.group, len(numbers))
        eager = own.values.get("execution") == "eager"
        groups.append((number, f"{number}:{'eager' if eager else 'other'}"))
        barred, found = _barred(own, metrics[works[index]], pairs.with_base(index, bases[index]))
        reasons.append(barred)
        if not barred and not isinstance(found, str):
            spans.setdefault(groups[index][1], {})[index] = found
    placed = {i: rank for members in spans.values() for i, rank in ranks(members).items()}
    return [
        Judged(
            own=own,
            base=None if (base := bases[index]) is None else sheets[base],
            metric=metrics[works[index]],
            across=across_precision,
            work=groups[index][0],
            group=groups[index][1],
            comparability=pairs.with_base(index, base),
            barred=reasons[index],
            rank=placed.get(index),
        )
        for index, own in enumerate(sheets)
    ]


def judged_by_kind(
    sheets: Sequence[Sheet],
    baseline: str | None = None,
    rank_by: str | None = None,
    comparisons: Comparisons | None = None,
    judged: list[Judged] | None = None,
) -> dict[Kind, list[Judged]]:
    """The places by a metric of each kind: for `headline.headline`.

    rank_by: taken for its own kind. judged: what `judge` found for the same arguments, where that
    is known. Raises as `judge` does.
    """
    metrics: dict[Kind, str | None] = {"perf": None, **METRICS}
    if rank_by is not None:
        if rank_by not in RANKABLE:
            raise UnknownNameError("metric to rank by", rank_by, RANKABLE)
        metrics |= {kind: rank_by for kind in metrics if COLUMNS[rank_by].kind == kind}
    pairs = comparisons or Comparisons(sheets)
    return {
        kind: judged
        if judged is not None and metric == rank_by
        else judge(sheets, baseline, metric, comparisons=pairs)
        for kind, metric in metrics.items()
    }


def _barred(
    own: Sheet, metric: str, comparability: Comparability
) -> tuple[tuple[str, ...], Span | str]:
    """Why the row has no rank by the metric, and its interval of it."""
    refusals = comparability.refusals.get(str(COLUMNS[metric].kind), ())
    barred = tuple(dict.fromkeys((*refusals, *bars(own, metric))))
    found = span(own, metric)
    return (found,) if not barred and isinstance(found, str) else barred, found


def _metrics(
    sheets: Sequence[Sheet], works: Sequence[tuple[str, ...]], rank_by: str | None
) -> dict[tuple[str, ...], str]:
    members: dict[tuple[str, ...], list[Sheet]] = {}
    for own, work in zip(sheets, works, strict=True):
        members.setdefault(work, []).append(own)
    return {work: rank_by or default_metric(found) for work, found in members.items()}


def _baselines(
    sheets: Sequence[Sheet],
    works: Sequence[tuple[str, ...]],
    metrics: Mapping[tuple[str, ...], str],
    name: str | None,
    pairs: Comparisons,
) -> list[int | None]:
    """Index of each record's baseline."""
    if name is not None:
        chosen = [i for i, s in enumerate(sheets) if name in (s.subject.id, s.values["backend"])]
        if not chosen and sheets:
            valid = {s.subject.id for s in sheets} | {s.values["backend"] for s in sheets}
            raise UnknownNameError("baseline", name, valid)
    else:
        # A row that can be ranked goes before one that is merely fit.
        fit = [i for i, s in enumerate(sheets) if not s.standing.own]
        chosen = [i for i in fit if _rankable(sheets[i], metrics[works[i]], pairs.alone(i))] + fit
    first: dict[tuple[str, ...], int] = {}
    for index in chosen:
        first.setdefault(works[index], index)
    default = chosen[0] if name is not None and chosen else None
    return [first.get(work, default) for work in works]


def _rankable(own: Sheet, metric: str, alone: Comparability) -> bool:
    return COLUMNS[metric].kind in alone.kinds and not any(bars(own, metric))
