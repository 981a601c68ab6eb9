"""`chipmark gate`: stored results against a baseline, with what that can and cannot tell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from chipmark.gate.findings import GateFindings

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)


@app.command()
def gate(
    base: Path = typer.Argument(..., help="The baseline: a JSON of pytest-benchmark, or records."),
    new: list[Path] = typer.Argument(
        ..., help="The same of the change; a second run, of a fresh session, confirms a regression."
    ),
    metric: list[str] = typer.Option(
        [],
        help="A column of the table; default: total_tok_s, ttft_p95_s in an open loop, "
        "sessions_per_hour in the capacity scenario. May be given more than once.",
    ),
    thresholds: Path | None = typer.Option(
        None, help="TOML; default: [tool.chipmark.gate] of ./pyproject.toml."
    ),
    ci: bool = typer.Option(
        False,
        "--ci",
        help="Undecided is 0, the fifth in a row 3; without a baseline this run becomes it.",
    ),
    state: Path | None = typer.Option(
        None, help="Where --ci counts; default: BASE with .gate-state.json added."
    ),
    format_: str = typer.Option("rich", "--format", help="rich, json or md."),
    junit: Path | None = typer.Option(None, help="Write JUnit XML here."),
    summary: Path | None = typer.Option(None, help="Write a Markdown summary here."),
    annotations: str = typer.Option("auto", help="auto, github or none; they go to stderr."),
) -> None:
    """Judge stored results: regressed, missing, improved, equivalent, or an honest "cannot tell".

    Two stored runs are two sessions of a machine, which differ by some 5 % without any change, so
    this gate finds large regressions only. `chipmark ab` runs both sides in turns and finds 5 %.
    A benchmark or cell of BASE that NEW lacks, or that failed there, is missing: exit code 1,
    unless an ignore entry of the thresholds names it. One that BASE lacks is a note.

    Expect exit code 3, inconclusive, of stored runs: it is the normal case, two equal runs
    included. 0 needs a machine whose measured margin between sessions (chipmark aa --across) is
    under delta_eq (2 %), or an improvement of everything. A regression is one beyond that margin,
    14 % where none was measured, which two runs of NEW agree on. --ci makes 0 of 3.

    Exit codes: 0 all equivalent or improved; 1 regressed or missing; 2 bad input, or another
    machine; 3 inconclusive, unfit, or no baseline.

    Examples:

      chipmark gate baseline.json today.json today-again.json

      chipmark gate runs/main runs/change --metric decode_tok_s --metric ttft_p50_s

      chipmark gate cache/base.json bench.json --ci --junit gate.xml --summary gate.md
    """
    from chipmark.errors import NothingToJudgeError
    from chipmark.gate.baseline import store_baseline
    from chipmark.gate.machine_bounds import fingerprint, session_margin
    from chipmark.gate.outputs.write import Outputs
    from chipmark.gate.stored_series import load_run
    from chipmark.gate.stored_verdicts import judge_stored
    from chipmark.gate.thresholds import load_thresholds
    from chipmark.results.many_records import many_objects

    outputs = Outputs(format_, junit, summary, annotations)
    outputs.check()
    rules = load_thresholds(thresholds, Path.cwd())
    wanted = tuple(metric) or rules.metrics
    with many_objects():
        after = [load_run(path, wanted) for path in new]
    if ci and not base.exists():
        if not after[0].values:
            raise NothingToJudgeError(f"{new[0]} has no value that a later run could be judged by")
        for (name, of), found in after[0].no_values.items():
            _say(f"the baseline has no value of {name} ({of}): {found.reason}")
        store_baseline(new[0], base)
        _say(f"no baseline yet: {new[0]} is stored as {base}; the next run is judged by it")
        return
    with many_objects():
        before = load_run(base, wanted)
        margin = session_margin(fingerprint(before.identity))
        findings = judge_stored([before], after, rules, margin)
        if not findings.rows:
            raise NothingToJudgeError("nothing to judge")
        outputs.emit(findings)
    code = _ci_code(findings, state or base.with_name(base.name + ".gate-state.json"), ci=ci)
    if code:
        raise typer.Exit(code)


def _ci_code(findings: GateFindings, state: Path, *, ci: bool) -> int:
    from chipmark.gate.baseline import UNDECIDED_LIMIT, undecided_in_a_row
    from chipmark.gate.findings import UNDECIDED

    code = findings.exit_code
    if not ci:
        return code
    count = undecided_in_a_row(state, undecided=code == UNDECIDED)
    if code != UNDECIDED:
        return code
    _say(f"undecided, {count} in a row; the {UNDECIDED_LIMIT}th fails")
    return UNDECIDED if count >= UNDECIDED_LIMIT else 0


def _say(text: str) -> None:
    from chipmark.terminal.console import warn

    warn(text)
