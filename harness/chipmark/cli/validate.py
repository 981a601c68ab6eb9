"""`chipmark validate`: is a record whole, consistent, and measured as it says."""

from __future__ import annotations

from pathlib import Path

import typer

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)


@app.command()
def validate(
    runs: list[Path] = typer.Argument(..., help="Records, or folders that hold records."),
    closed_form: bool = typer.Option(
        False, "--closed-form", help="Compare records of sim: with their device's closed form."
    ),
    format_: str = typer.Option("rich", "--format", help="rich or json."),
) -> None:
    """Check checksums, schema, events against the work, and the metrics computed again.

    Exit code 1 where something is found, 2 where there is no such folder, 3 where it is empty.

    Examples:

      chipmark validate runs/quick

      chipmark validate runs/sim --closed-form
    """
    from rich.markup import escape

    from chipmark.cli.console import check_format, emit_json, stdout
    from chipmark.errors import NothingToJudgeError
    from chipmark.results.store import find_records
    from chipmark.results.validate import validate_record

    check_format(format_, ("rich", "json"))
    folders = find_records(runs)
    if not folders:
        raise NothingToJudgeError(
            f"there is no record under {', '.join(str(r) for r in runs)}",
            "chipmark run quick -o DIR makes some",
        )
    findings = [f for folder in folders for f in validate_record(folder, closed_form=closed_form)]
    errors = sum(finding.severity == "error" for finding in findings)
    if format_ == "json":
        emit_json(
            {
                "records": len(folders),
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
            where = escape(str(finding.path))
            head = f"[{colour}]{finding.severity}[/] {finding.code}"
            console.print(f"{head} {where}: {escape(finding.text)}", soft_wrap=True)
        console.print(f"{len(folders)} records, {errors} errors, {len(findings) - errors} warnings")
    if errors:
        raise typer.Exit(1)
