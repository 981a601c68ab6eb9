"""`Records`: stored cells as one table, and `load`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from chipmark.api.record import Record
from chipmark.errors import BrokenRecordError, NothingToJudgeError, UsageError
from chipmark.prices.book import EXAMPLE, PriceBook, load_book
from chipmark.results.many_records import many_objects
from chipmark.results.store import Loaded, Skipped, find_records, load_record, load_records
from chipmark.table.columns import COLUMNS
from chipmark.table.rows import TableRow, rows_of, sheets_of

if TYPE_CHECKING:
    import pandas
    from rich.console import Console

    from chipmark.results.record import Record as StoredRecord
    from chipmark.table.sheet import Sheet

PathLike = str | os.PathLike[str]

_DTYPES = {"number": "float64", "integer": "Int64", "string": "string", "list": "object"}
"""A column's type in pandas by its type in JSON; all of them hold a missing value."""


@dataclass(frozen=True)
class Comparison:
    """How much better one record is than its baseline, and whether the two are comparable."""

    record: Record
    """The record that is compared."""
    baseline: str | None
    """The id of the record that it is compared with; None where none can serve."""
    metric: str
    """The column that is compared."""
    ratio: float | None
    """Over 1 where `record` is better; None where the two are not comparable."""
    interval: tuple[float | None, float | None] | None
    """95 % interval of `ratio`; None where there is none."""
    comparable: tuple[str, ...]
    """In what the two may be compared: perf, energy, cost."""
    reason: str
    """The code of the reason why `ratio` is None; "" where it is a number."""
    refusals: dict[str, list[str]]
    """Reasons in words, by perf, energy and cost."""


class Records(Sequence[Record]):
    """A sequence of records that makes the same table as `chipmark table`.

        records = chipmark.load("runs/here", "runs/there")
        records.table(baseline="torch:cpu")[0]["vs_baseline"]
        records.to_pandas().sort_values("decode_tok_s")
        chipmark.Records(r for r in records if r.parity == "pass").render("md")

    A slice is `Records` again, and so is the sum of two. Tables are computed anew on every call:
    ranks and ratios hold among the records that are in them.

    Args:
        records: records in the order of the table.
        skipped: what `load` had to leave out.
    """

    def __init__(self, records: Iterable[Record] = (), skipped: Iterable[Skipped] = ()) -> None:
        self._records = tuple(records)
        self.skipped = tuple(skipped)
        """Records that could not be read, each with `path` and `reason`."""

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index: int | slice) -> Record | Records:
        if isinstance(index, slice):
            return Records(self._records[index])
        return self._records[index]

    def __add__(self, other: Records) -> Records:
        return Records((*self, *other), (*self.skipped, *other.skipped))

    def __repr__(self) -> str:
        return f"Records({list(self._records)!r})"

    @property
    def failed(self) -> Records:
        """Those of cells that ended without a measurement."""
        return Records(record for record in self if record.failure)

    def rows(
        self,
        baseline: str | None = None,
        rank_by: str | None = None,
        prices: PathLike | PriceBook | None = None,
        *,
        across_precision: bool = False,
    ) -> list[TableRow]:
        """The rows of the table as objects, for `chipmark.table.render` and code of its kind.

        Takes and raises what `table` does.
        """
        with many_objects():
            sheets = self._sheets(prices)
            return rows_of(sheets, baseline, rank_by, across_precision=across_precision)

    def _sheets(self, prices: PathLike | PriceBook | None) -> list[Sheet]:
        if not isinstance(prices, PriceBook):
            prices = load_book(EXAMPLE if prices is None else Path(prices))
        return sheets_of([record.stored for record in self], prices)

    def table(
        self,
        baseline: str | None = None,
        rank_by: str | None = None,
        prices: PathLike | PriceBook | None = None,
        *,
        across_precision: bool = False,
    ) -> list[dict[str, Any]]:
        """The table as `chipmark table --format json` prints it, a dictionary for each record.

            for row in records.table(rank_by="tok_per_joule"):
                print(row["rank"], row["backend"], row["tok_per_joule"])

        Args:
            baseline: a record's id or a backend; None is the first of each group that may be
                ranked.
            rank_by: a column that can be ranked; None chooses one by the kind of work.
            prices: a price book or its file; None is the example that comes with chipmark.
            across_precision: whether rows of other precision classes get a ratio, unranked.

        Returns:
            Rows in the order of the records. Keys: every column, then `intervals`, `rank`,
            `null_reasons` and `details`.

        Raises:
            UnknownNameError: no record is called `baseline`, or `rank_by` cannot be ranked by.
            BadInputError: the price book cannot be read.
        """
        rows = self.rows(baseline, rank_by, prices, across_precision=across_precision)
        return [row.to_dict() for row in rows]

    def to_pandas(
        self,
        baseline: str | None = None,
        rank_by: str | None = None,
        prices: PathLike | PriceBook | None = None,
        *,
        across_precision: bool = False,
    ) -> pandas.DataFrame:
        """The table's columns and `rank` as a data frame, a row for each record.

            records.to_pandas().groupby("backend")["decode_tok_s"].max()

        Takes and raises what `table` does.

        Returns:
            A frame whose index is the record's id. Numbers are float64 (a null is NaN), counts
            and ranks Int64, texts string, lists object.
        """
        import pandas

        rows = self.rows(baseline, rank_by, prices, across_precision=across_precision)
        columns: dict[str, pandas.Series[Any]] = {
            name: pandas.Series([row.values[name] for row in rows], dtype=_DTYPES[column.type])
            for name, column in COLUMNS.items()
        }
        columns["rank"] = pandas.Series([row.rank for row in rows], dtype="Int64")
        frame = pandas.DataFrame(columns)
        frame.index = pandas.Index([record.id for record in self], name="record", dtype="object")
        return frame

    def ranked(
        self, rank_by: str | None = None, prices: PathLike | PriceBook | None = None
    ) -> Records:
        """The records that have a rank, best first within each group that does the same work.

            records.ranked("tok_per_joule")[0].backend

        Neighbours may share a rank, where their intervals overlap; `table` has the ranks. Takes
        and raises what `table` does.
        """
        rows = self.rows(rank_by=rank_by, prices=prices)
        groups = {group: place for place, group in enumerate(dict.fromkeys(r.group for r in rows))}
        order = sorted(
            (groups[row.group], row.rank, index)
            for index, row in enumerate(rows)
            if row.rank is not None
        )
        return Records(self[index] for _, _, index in order)

    def compare(
        self,
        baseline: str | None = None,
        rank_by: str | None = None,
        prices: PathLike | PriceBook | None = None,
        *,
        across_precision: bool = False,
    ) -> list[Comparison]:
        """Each record against its baseline, with the reasons where it has no ratio.

            for found in records.compare("torch:cpu"):
                print(found.record.backend, found.ratio, found.interval, found.reason)

        Takes and raises what `table` does.

        Returns:
            A comparison for each record in their order, the baseline's with itself included.
        """
        rows = self.rows(baseline, rank_by, prices, across_precision=across_precision)
        return [
            Comparison(
                record=record,
                baseline=row.details["baseline"],
                metric=row.details["rank_by"],
                ratio=row.values["vs_baseline"],
                interval=row.intervals.get("vs_baseline"),
                comparable=tuple(row.values["comparable"]),
                reason=row.null_reasons.get("vs_baseline", ""),
                refusals=row.details["not_comparable"],
            )
            for record, row in zip(self, rows, strict=True)
        ]

    def render(
        self,
        format: str = "md",
        baseline: str | None = None,
        rank_by: str | None = None,
        prices: PathLike | PriceBook | None = None,
        *,
        across_precision: bool = False,
        all_columns: bool = False,
        console: Console | None = None,
    ) -> str:
        """The table as text, as `chipmark table` prints it.

            Path("results.md").write_text(records.render("md"))

        Args:
            format: rich (plain text of 120 columns), md, csv, json or html.
            baseline, rank_by, prices, across_precision: as in `table`.
            all_columns: every column in the formats for people (rich, md).
            console: width and colours of rich; None is plain text of 120 columns.

        Raises:
            UnknownNameError: there is no such format, and as `table`.
        """
        from chipmark.table.document import table_parts

        with many_objects():
            parts = table_parts(
                self._sheets(prices), format, baseline, rank_by,
                across_precision=across_precision, all_columns=all_columns, console=console,
            )  # fmt: skip
            return "".join(parts)


def load(*paths: PathLike, strict: bool = True) -> Records:
    """Read stored records.

        records = chipmark.load("runs/quick", "runs/other")

    Args:
        paths: records, or folders that hold records at any depth.
        strict: raise for a record that cannot be read; False leaves it out and lists it in
            `Records.skipped`.

    Returns:
        Records in the order of the paths, those of a folder by name. Raw files are not opened.

    Raises:
        BadInputError: a path is missing.
        BrokenRecordError: a record cannot be read (with `strict=False`: none of them can).
        NothingToJudgeError: the paths hold no record.
        UsageError: no path is named.
    """
    if not paths or "" in paths:
        raise UsageError("no folder of records is named", 'as load("runs/quick")')
    folders = [Path(path) for path in paths]
    if strict:
        with many_objects():
            loaded = Loaded(tuple(map(_whole, find_records(folders))), ())
    else:
        loaded = load_records(folders)
    check_readable(len(loaded.records), loaded.skipped, folders)
    return Records(map(Record, loaded.records), loaded.skipped)


def check_readable(records: int, skipped: Sequence[Skipped], paths: Sequence[Path]) -> None:
    """BrokenRecordError where records are under the paths and none could be read,
    NothingToJudgeError where there is none."""
    if not records:
        if skipped:
            raise BrokenRecordError(paths[0], f"none of {len(skipped)} records is readable")
        raise no_records(paths)


def no_records(paths: Sequence[Path], more: str = "") -> NothingToJudgeError:
    """The error of paths that hold no record; `more` is added to what makes some."""
    return NothingToJudgeError(
        f"no record under {', '.join(map(str, paths))}",
        f"chipmark run quick -o DIR makes some{more}",
    )


def _whole(folder: Path) -> StoredRecord:
    try:
        return load_record(folder)
    except OSError as error:
        raise BrokenRecordError(folder, f"unreadable: {error}") from error
