"""`chipmark validate`: is what is stored whole, consistent, and measured as it says."""

from __future__ import annotations

from pathlib import Path

import typer

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)


@app.command()
def validate(
    runs: list[Path] = typer.Argument(..., help="Records and imported runs, or folders of them."),
    closed_form: bool = typer.Option(
        False, "--closed-form", help="Compare records of sim: with their device's closed form."
    ),
    prices: Path | None = typer.Option(
        None, help="Price book of the closed form's cost; default: the example of 2026."
    ),
    format_: str = typer.Option("rich", "--format", help="rich or json."),
) -> None:
    """Check checksums, schema, events against the work, and the metrics computed again.

    Of imported runs of pytest-benchmark: checksum, schema, and statistics against their samples.

    Exit code 1 where something is found, 2 where there is no such folder, 3 where it is empty.

    Examples:

      chipmark validate runs/quick

      chipmark validate runs/imported --format json

      chipmark validate runs/sim --closed-form
    """
    from rich.markup import escape

    from chipmark.api.records import no_records
    from chipmark.benchmark_json.store import find_runs
    from chipmark.benchmark_json.validate import validate_run
    from chipmark.closed_form.check import check_record
    from chipmark.foreign_text import console_text, one_line
    from chipmark.prices.book import EXAMPLE
    from chipmark.results.store import find_records
    from chipmark.results.validate import validate_record
    from chipmark.terminal.console import check_format, emit_json, reporting, stdout

    check_format(format_, ("rich", "json"))
    folders = find_records(runs)
    imported = find_runs(path for path in runs if path.is_dir())
    if not folders and not imported:
        raise no_records(runs, ", chipmark import FILE -o DIR stores a run")
    findings = []
    with reporting() as reporter:
        reporter.steps(len(folders) + len(imported))
        for folder in folders:
            reporter.stage(f"checking {folder}")
            findings += validate_record(folder)
            if closed_form:
                findings += check_record(folder, prices or EXAMPLE)
            reporter.step()
        for folder in imported:
            reporter.stage(f"checking {folder}")
            findings += validate_run(folder)
            reporter.step()
    errors = sum(finding.severity == "error" for finding in findings)
    if format_ == "json":
        emit_json(
            {
                "records": len(folders),
                "imported_runs": len(imported),
                "errors": errors,
                "findings": [
                    {
                        "severity": finding.severity,
                        "code": finding.code,
                        "path": str(finding.path),
                        "text": finding.text,
                    }
                    for finding in findings
                ],
            }
        )
    else:
        console = stdout()
        for finding in findings:
            colour = "red" if finding.severity == "error" else "yellow"
            where = console_text(str(finding.path))
            head = f"[{colour}]{finding.severity}[/] {finding.code}"
            console.print(f"{head} {where}: {escape(one_line(finding.text))}", soft_wrap=True)
        held = f"{len(folders)} records"
        held += f", {len(imported)} imported runs" if imported else ""
        console.print(f"{held}, {errors} errors, {len(findings) - errors} warnings")
    if errors:
        raise typer.Exit(1)
