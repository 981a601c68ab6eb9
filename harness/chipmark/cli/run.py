"""`chipmark run`: measure a suite's cells, then print their table."""

from __future__ import annotations

from pathlib import Path

import typer

from chipmark.cli.own_files import CHIPS_FILE, PRICES_FILE, PROVIDERS_FILE

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)

_AGAIN = "May be given more than once."


@app.command()
def run(
    suite: str = typer.Argument(..., help="quick, standard, full, or a TOML file of your own."),
    backend: list[str] = typer.Option(
        [], "-b", "--backend", help=f"KIND:DEVICE, as torch:cpu or ort:openvino. {_AGAIN}"
    ),
    model: list[str] = typer.Option(
        [],
        "-m",
        "--model",
        help=f"A preset, PRESET@synthetic, a folder of safetensors, a GGUF file. {_AGAIN}",
    ),
    workload: list[str] = typer.Option(
        [],
        "-w",
        "--workload",
        help=f"A profile (`chipmark workload list`) or a TOML file. {_AGAIN}",
    ),
    out: Path = typer.Option(
        Path("runs/latest"),
        "-o",
        "--out",
        help="Where records go; a run into the same folder resumes.",
    ),
    precision: list[str] = typer.Option(
        [], help=f"fp32, bf16, fp16; w8, w4, fp8 where a backend computes them. {_AGAIN}"
    ),
    concurrency: list[int] = typer.Option(
        [], help=f"Sessions at once; in the capacity scenario, where the sweep ends. {_AGAIN}"
    ),
    sessions: int | None = typer.Option(None, min=1, help="Sessions of the workload."),
    scale: str = typer.Option("", help="quick, standard, full, or context,output,tool time."),
    repeats: int | None = typer.Option(
        None, min=1, help="Timed repeats of each cell; fewer than 3 rank nothing."
    ),
    budget_s: float | None = typer.Option(
        None, min=0.0, help="Seconds of the run within which repeats are added; 0 adds none."
    ),
    scenario: str = typer.Option("", "--scenario", "--lane", help="equal_n or capacity."),
    transcript: Path | None = typer.Option(
        None, help="Instead of -w: recorded conversations, JSONL of OpenAI messages."
    ),
    trace: Path | None = typer.Option(
        None, help="Instead of -w: a Mooncake .jsonl or an Azure .csv file of requests."
    ),
    block_tokens: int | None = typer.Option(
        None, min=1, help="Prompt tokens of one hash id in --trace; 512 as Mooncake publishes."
    ),
    power_w: float | None = typer.Option(
        None, "--power-w", help="Declare the unit's watts: taken before any meter's, never ranked."
    ),
    meter: list[str] = typer.Option(
        [],
        "--meter",
        metavar="METER",
        help="Read exactly the meters named (as NAME, NAME:TARGET or NAME:TARGET,KEY=VALUE; "
        "`chipmark doctor` lists those here): the first for the row's joules, the others next to "
        f"it. Without it, the best that is here. {_AGAIN}",
    ),
    seed: int = typer.Option(0, min=0, help="Seed of the workload and of synthetic weights."),
    feedback: str = typer.Option("forced", help="forced (the trace's tokens) or sampled."),
    threads: int = typer.Option(0, min=0, help="Threads of a CPU backend; 0 is its own choice."),
    fresh: bool = typer.Option(False, "--fresh", help="A fresh process for every repeat."),
    python: str = typer.Option("", help="Interpreter of the measured processes, a vendor's own."),
    chunk: int = typer.Option(256, min=1, help="Most prompt tokens of one launch."),
    limit_s: float | None = typer.Option(
        None,
        "--limit-s",
        min=1.0,
        help="Seconds for each of loading, parity, a repeat and a computation of the oracle, after "
        "which it is ended; default: the suite's, 600 in quick.",
    ),
    audit_s: float = typer.Option(
        120.0, "--audit-s", min=0.0, help="Seconds for the audit of a group; more is pending."
    ),
    option: list[str] = typer.Option(
        [],
        "--option",
        metavar="[KIND:]KEY=VALUE",
        help=f"An option of the backend, or of those of one kind: ort:graph=plain. {_AGAIN}",
    ),
    slo: str = typer.Option(
        "",
        "--slo",
        metavar="FIELD=VALUE,...",
        help="The objective: ttft_append_s, ttft_cold_s, tpot_s, share, name.",
    ),
    idle_s: float | None = typer.Option(
        None, "--idle-s", help="Seconds of idle power before and after; 31 where it is metered."
    ),
    replicas: str = typer.Option(
        "",
        "--replicas",
        metavar="unit|COUNT",
        help="Engines that share the sessions, each on a die of the card; unit (the default) takes "
        "all dies where N is a multiple of them, 1 leaves the others idle.",
    ),
    reference: list[Path] = typer.Option(
        [],
        "--reference",
        help=f"Reference logits computed elsewhere, where torch is not installed. {_AGAIN}",
    ),
    oracle_device: str = typer.Option(
        "",
        "--oracle-device",
        help="Where the oracle computes what is too much for the CPU, as cuda, once it agreed with "
        "the CPU's over 1,024 tokens (unverified on hardware).",
    ),
    providers: Path | None = PROVIDERS_FILE,
    chips: Path | None = CHIPS_FILE,
    prices: Path | None = PRICES_FILE,
    format_: str = typer.Option("rich", "--format", help="rich, md, csv, json or html."),
) -> None:
    """Measure a suite: every cell in a process of its own, repeats in turns, one table at the end.

    Repeats are added while the interval of the ranked metric is wider than ±10 % and the suite's
    time budget lasts (quick: 4 minutes); to fewer than 3, which rank nothing, none are.

    Examples:

      chipmark run quick -o runs/quick

      chipmark run quick -b torch:cpu -b ort:cpu --transcript talks.jsonl -o runs/talks

      chipmark run quick -b sim:golden -o runs/sim

      chipmark run quick -b ort:cpu --option graph=plain --slo tpot_s=0.03,name=fast -o runs/plain

      chipmark run standard -b torch:cuda -m qwen3-8b@synthetic --precision bf16 --scenario capacity
    """
    from chipmark.api.run import run as measure
    from chipmark.cli.table import print_table
    from chipmark.errors import CellFailedError, CellsLeftError, ChipmarkError
    from chipmark.table.render import FORMATS
    from chipmark.terminal.console import check_format, reporting, warn

    check_format(format_, FORMATS)
    failed: ChipmarkError | None = None
    with reporting() as reporter:
        try:
            measure(
                suite, backend, models=model, workloads=workload, precision=precision,
                concurrency=concurrency, scale=scale, sessions=sessions, repeats=repeats,
                budget_s=budget_s, scenario=scenario, transcript=transcript, trace=trace,
                block_tokens=block_tokens, out=out, seed=seed, feedback=feedback, threads=threads,
                power_w=power_w, meters=meter, python=python, fresh=fresh, max_chunk=chunk,
                limit_s=limit_s, audit_s=audit_s, options=option, slo=slo, idle_s=idle_s,
                replicas=replicas, references=reference, oracle_device=oracle_device,
                providers=providers, chips=chips, reporter=reporter,
            )  # fmt: skip
        except (CellFailedError, CellsLeftError) as error:
            failed = error
    try:
        print_table([out], prices, format_)
    except ChipmarkError as error:
        if failed is None:
            raise
        # No record could be written, or no table; the exit code says that cells failed or are left.
        warn(error.message)
    if failed:
        raise failed
    warn(f"records: {out}")
