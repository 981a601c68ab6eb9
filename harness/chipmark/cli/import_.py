"""`chipmark import`: a file of pytest-benchmark among chipmark's results."""

from __future__ import annotations

from pathlib import Path

import typer

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)


@app.command()
def import_(
    files: list[Path] = typer.Argument(..., help="JSON of `pytest --benchmark-json FILE`."),
    out: Path = typer.Option(..., "-o", "--out", help="Folder to store the runs in."),
    format_: str = typer.Option("rich", "--format", help="rich or json."),
) -> None:
    """Store runs of pytest-benchmark (3.x to 5.x), byte for byte, with a checksum.

    Every file is read and checked before the first is stored. A benchmark whose entry is broken is
    named and stored with the rest, and no command judges it. `chipmark gate` and
    `chipmark history` read such folders; `chipmark export` gives the file back.

    Examples:

      pytest tests/bench --benchmark-only --benchmark-json run.json

      chipmark import run.json -o runs/main
    """

    from chipmark.benchmark_json.read import read_benchmark_json
    from chipmark.benchmark_json.store import import_run
    from chipmark.errors import UsageError
    from chipmark.foreign_text import console_text, one_line
    from chipmark.terminal.console import check_format, emit_json, stdout, warn

    check_format(format_, ("rich", "json"))
    runs = [read_benchmark_json(path) for path in files]
    first: dict[str, Path] = {}
    for run in runs:
        other = first.setdefault(run.sha256, run.path)
        if other is not run.path:
            raise UsageError(f"{run.path} and {other} hold the same run", "nothing was written")
    stored = [(run, import_run(run.path, out)) for run in runs]
    for run in runs:
        for fault in run.faults:
            name = fault.fullname or "a benchmark without a name"
            text = f"{name} cannot be judged: {fault.field}: {fault.problem}"
            warn(f"{run.path}: {one_line(text)}")
    if format_ == "json":
        emit_json(
            [
                {"file": str(run.path), "folder": str(to), "benchmarks": run.size}
                for run, to in stored
            ]
        )
        return
    for run, to in stored:
        line = f"{run.path}: {run.size} benchmarks of {run.version} in {to}"
        stdout().print(console_text(line), soft_wrap=True)
