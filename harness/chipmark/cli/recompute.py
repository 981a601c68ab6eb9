"""`chipmark recompute`: stored records under today's definitions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from chipmark.results.recompute import MetricChange, Recomputed
    from chipmark.results.store import Skipped

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)


@app.command()
def recompute(
    runs: list[Path] = typer.Argument(..., help="Records, or folders that hold records."),
    out: Path = typer.Option(..., "-o", "--out", help="Folder for the new records."),
    format_: str = typer.Option("rich", "--format", help="rich or json."),
) -> None:
    """Derive all metrics of stored records anew from their raw files, and say what changed.

    Each result is a record of its own in the folder of -o, with the same raw files; its manifest
    names the record that it comes from. Old records stay as they are. Records of older schemas
    are read too.

    Exit code 2 where a record is broken or was recomputed into that folder before (the others
    are done all the same), 3 where there is none.

    Examples:

      chipmark recompute runs/quick -o runs/quick-anew

      chipmark recompute runs/2025 runs/2026 -o runs/anew --format json

      chipmark table runs/anew
    """
    from chipmark.cli.records import folders_of
    from chipmark.errors import BrokenRecordError, UsageError
    from chipmark.results.recompute import recompute as derive_anew
    from chipmark.results.store import Skipped
    from chipmark.terminal.console import check_format, emit_json, reporting, warn

    check_format(format_, ("rich", "json"))
    folders = folders_of(runs)
    if any(folder.resolve().parent == out.resolve() for folder in folders):
        raise UsageError(
            f"-o {out} holds the records themselves, and each would be in its tables twice",
            f"give another folder: -o {out}-anew",
        )
    done: list[Recomputed] = []
    broken: list[Skipped] = []
    with reporting() as reporter:
        reporter.stage("deriving metrics")
        reporter.steps(len(folders))
        for result in derive_anew(folders, out):
            if isinstance(result, Skipped):
                broken.append(result)
            else:
                done.append(result)
            reporter.step()
    if format_ == "json":
        emit_json(
            {
                "records": [_document(result) for result in done],
                "broken": [{"path": str(b.path), "reason": b.reason} for b in broken],
            }
        )
    else:
        _print(done)
    for skipped in broken:
        warn(f"left out {skipped.path}: {skipped.reason}")
    if broken:
        raise BrokenRecordError(
            broken[0].path, f"{len(broken)} of {len(folders)} records could not be recomputed"
        )


def _document(result: Recomputed) -> dict[str, Any]:
    old, new = result.old, result.new
    return {
        "id": new.id,
        "path": str(new.path),
        "from": {
            "id": old.id,
            "path": str(old.path),
            "schema": old.written_as,
            "metrics_schema": old.metrics.schema_,
        },
        "metrics_schema": new.metrics.schema_,
        "changes": [
            {
                "metric": change.metric,
                "old": change.old,
                "new": change.new,
                "relative": change.relative,
                "old_reason": change.old_reason,
                "new_reason": change.new_reason,
            }
            for change in result.changes
        ],
        "unchanged": result.unchanged,
    }


def _print(done: list[Recomputed]) -> None:

    from chipmark.foreign_text import console_text
    from chipmark.table.listing import name, number, show, words
    from chipmark.terminal.console import stdout

    console = stdout()
    for result in done:
        old, new = result.old, result.new
        head = f"{old.id} ({old.metrics.schema_}) -> {new.id} ({new.metrics.schema_})"
        console.print(console_text(head), soft_wrap=True)
        if result.changes:
            columns = [name("metric"), words("old"), words("new"), number("change")]
            show(console, columns, [[c.metric, *_texts(c)] for c in result.changes])
        console.print(f"{len(result.changes)} changed, {result.unchanged} unchanged\n")


def _texts(change: MetricChange) -> tuple[str, str, str]:
    from chipmark.table.cells import number_text

    def text(value: float | None, reason: str) -> str:
        return f"- ({reason or 'not there'})" if value is None else number_text(value)

    relative = change.relative
    return (
        text(change.old, change.old_reason),
        text(change.new, change.new_reason),
        "" if relative is None else f"{relative:+.2%}",
    )
