"""`chipmark audit`: the checks after the run that could not be afforded where it was measured."""

from __future__ import annotations

from pathlib import Path

import typer

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)


@app.command()
def audit(
    runs: list[Path] = typer.Argument(..., help="Records, or folders of them."),
    model: str = typer.Option(
        "", "-m", "--model", help="The weights that were measured; default: the record's model."
    ),
    device: str = typer.Option(
        "cpu",
        help="Where the oracle computes: cpu, or another device of torch, as cuda, once it agreed "
        "with the CPU's over 1,024 tokens (unverified on hardware).",
    ),
    limit_s: float = typer.Option(
        3600.0, "--limit-s", min=1.0, help="Seconds that the oracle may take for a record."
    ),
    again: bool = typer.Option(
        False, "--again", help="Also records whose audit is done, at places drawn anew."
    ),
    format_: str = typer.Option("rich", "--format", help="rich or json."),
) -> None:
    """Finish audits that are pending: draw places, ask the oracle, and compare ids and logits.

    The result lies next to the record, in RECORD.audit.json with a checksum of its own and the
    record's; table, validate and gate read it with the record, which is not changed.

    Exit code 1 where an audit fails, 2 for a broken record or other weights than the record's,
    3 where an audit is still pending or there is nothing to audit.

    Examples:

      chipmark audit runs/full

      chipmark audit runs/full -m models/qwen3-8b --device cuda

      chipmark audit runs/quick --again --format json
    """
    from rich.markup import escape

    from chipmark.cell.audit_record import can_be_audited, finish_audit
    from chipmark.cli.records import folders_of
    from chipmark.errors import BrokenRecordError
    from chipmark.foreign_text import console_text, one_line
    from chipmark.results.sidecar import with_sidecar
    from chipmark.results.store import stored_record
    from chipmark.terminal.console import check_format, emit_json, reporting, stdout, warn
    from chipmark_models.scratch import Scratch

    check_format(format_, ("rich", "json"))
    folders = folders_of(runs)
    rows: list[dict[str, object]] = []
    broken = 0
    with Scratch("chipmark-audit-") as scratch, reporting() as reporter:
        reporter.steps(len(folders))
        for number, folder in enumerate(folders):
            reporter.stage(f"reading {folder}")
            try:
                record = stored_record(folder)
                found = record.manifest.audit if again else with_sidecar(record).manifest.audit
                written = None
                if can_be_audited(record) and (again or found.verdict == "pending"):
                    reporter.stage(f"{record.id}: reading")
                    place = scratch / str(number)
                    done = finish_audit(record, model, device, limit_s, place, reporter.stage)
                    found, written = done.audit, done.sidecar
            except BrokenRecordError as error:
                broken += 1
                warn(f"{error.message} {error.hint}".strip())
                reporter.step()
                continue
            reporter.step()
            rows.append(
                {
                    "record": record.id,
                    "path": str(folder),
                    "backend": record.manifest.backend,
                    "sidecar": None if written is None else str(written),
                    **found.model_dump(mode="json"),
                }
            )
    if format_ == "json":
        emit_json(rows)
    else:
        console = stdout()
        colours = {"pass": "green", "fail": "red", "pending": "yellow", "none": "dim"}
        for row in rows:
            verdict = str(row["verdict"])
            text = f"{row['ids_checked']} ids, {row['ids_clear']} clear, {row['ids_wrong']} wrong"
            text += f"; {row['reason']}" if row["reason"] else ""
            head = f"[{colours[verdict]}]{verdict}[/] {console_text(str(row['record']))}"
            console.print(f"{head}: {escape(one_line(text))}", soft_wrap=True)
    verdicts = {row["verdict"] for row in rows}
    if "fail" in verdicts:
        raise typer.Exit(1)
    if broken:
        raise typer.Exit(2)
    if "pending" in verdicts or verdicts <= {"none"}:
        raise typer.Exit(3)
