"""`chipmark ab`: two arms in turns, a fresh process each, until a verdict can be believed."""

from __future__ import annotations

from pathlib import Path

import typer

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)


@app.command(context_settings={"allow_interspersed_args": False})
def ab(
    command: list[str] = typer.Argument(None, help="After --: what both arms run."),
    base: str = typer.Option("", help="Arm A: a commit, in a worktree that is removed again."),
    head: str = typer.Option("", help="Arm B: a commit; default: the checkout as it stands."),
    a: str = typer.Option("", "--a", help="Arm A: a command in one string."),
    b: str = typer.Option("", "--b", help="Arm B: a command in one string."),
    backend: list[str] = typer.Option(
        [], "-b", "--backend", help="Give two: the arms are `chipmark run` on each."
    ),
    a_env: list[str] = typer.Option([], help="NAME=VALUE of arm A. May be given more than once."),
    b_env: list[str] = typer.Option([], help="NAME=VALUE of arm B. May be given more than once."),
    a_python: str = typer.Option("", help="Interpreter of arm A, its programs first on PATH."),
    b_python: str = typer.Option("", help="Interpreter of arm B, its programs first on PATH."),
    metric: list[str] = typer.Option(
        [], help="Of `chipmark run`: a column of the table. May be given more than once."
    ),
    rounds: int | None = typer.Option(
        None, min=16, max=400, help="Most rounds of a session; a noisy machine wants 32."
    ),
    seed: int = typer.Option(0, min=0, help="Seed of the order of the arms."),
    thresholds: Path | None = typer.Option(
        None, help="TOML; default: [tool.chipmark.gate] of pyproject.toml."
    ),
    canary_limit: float = typer.Option(
        0.10, min=0.001, max=1.0, help="Noise of the canary from slot to slot that is unfit."
    ),
    limit_s: float = typer.Option(900.0, min=1.0, help="Seconds after which a process is ended."),
    out: Path | None = typer.Option(
        None, "-o", "--out", help="A folder for every round; an interrupted run resumes in its own."
    ),
    format_: str = typer.Option("rich", "--format", help="rich, json or md."),
    junit: Path | None = typer.Option(None, help="Write JUnit XML here."),
    summary: Path | None = typer.Option(None, help="Write a Markdown summary here."),
    annotations: str = typer.Option("auto", help="auto, github or none; they go to stderr."),
) -> None:
    """Compare two arms: rounds in ABBA order, looks after 6, 10 and 16, regressions confirmed.

    pytest is asked for --benchmark-json and `chipmark run` for its records; another command may
    write samples to the file that $CHIPMARK_AB_SAMPLES names, else its wall time is compared.
    A benchmark or cell of arm A that arm B lacks or that failed there is missing, and the others
    are judged. Nothing that an arm started runs on when this command ends, however it ends.

    Exit codes: 0 nothing regressed; 1 regressed or missing; 2 bad input, a failed round, or both
    arms ran the same code; 3 undecided, or unfit; 130 interrupted.

    Examples:

      chipmark ab --base HEAD~1 --head HEAD -- pytest tests/bench -q

      chipmark ab -b torch:cpu -b ort:cpu --metric decode_tok_s -- chipmark run quick

      chipmark ab --a "python old.py" --b "python new.py" -o runs/ab

      chipmark ab --b-env OMP_NUM_THREADS=1 -- pytest tests/bench -q -k decode
    """
    from chipmark.ab.compare import Options, compare, looks_of
    from chipmark.ab.resolve_arms import Request
    from chipmark.gate.outputs.write import Outputs
    from chipmark.terminal.console import reporting

    outputs = Outputs(format_, junit, summary, annotations)
    outputs.check()
    request = Request(
        command=tuple(command or ()),
        base=base,
        head=head,
        a=a,
        b=b,
        a_env=tuple(a_env),
        b_env=tuple(b_env),
        backends=tuple(backend),
        a_python=a_python,
        b_python=b_python,
    )
    options = Options(
        metrics=tuple(metric),
        seed=seed,
        looks=tuple(looks_of(rounds)),
        canary_limit=canary_limit,
        limit_s=limit_s,
        thresholds=thresholds,
    )
    with reporting() as reporter:
        findings = compare(request, options, out, reporter)
    outputs.emit(findings)
    if findings.exit_code:
        raise typer.Exit(findings.exit_code)
