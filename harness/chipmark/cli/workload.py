"""`chipmark workload list|show`: profiles, and what a trace of them really contains."""

from __future__ import annotations

import dataclasses

import typer

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    help="Agent workloads: their profiles, and what a trace of them really contains.",
)


@app.command("list")
def list_workloads(format_: str = typer.Option("rich", "--format", help="rich or json.")) -> None:
    """List the profiles.

    Example: chipmark workload list
    """
    from chipmark.table.listing import name, number, show, words
    from chipmark.terminal.console import check_format, emit_json, stdout
    from chipmark.workload.profile import load_profiles

    check_format(format_, ("rich", "json"))
    profiles = load_profiles().values()
    if format_ == "json":
        emit_json(
            [
                {"name": p.name, "title": p.title, "loop": p.loop, "source": p.source}
                for p in profiles
            ]
        )
        return
    rows = [[p.name, p.loop, f"{p.context_cap:,}", p.title] for p in profiles]
    columns = [name("profile"), name("loop"), number("context cap"), words("what it is")]
    show(stdout(), columns, rows)


@app.command("show")
def show_workload(
    name: str = typer.Argument(..., help="A profile, or a TOML file with one."),
    scale: str = typer.Option("quick", help="quick, standard, full, or context,output,tool time."),
    sessions: int = typer.Option(100, min=1, help="Sessions to generate."),
    seed: int = typer.Option(0, min=0, help="Seed of the workload."),
    vocabulary: int = typer.Option(49_152, min=256, help="Ids of the model's vocabulary."),
    format_: str = typer.Option("rich", "--format", help="rich or json."),
) -> None:
    """Generate a trace and show its realised quantiles next to the profile's targets.

    Examples:

      chipmark workload show agent-code-32k

      chipmark workload show func-call --scale full --sessions 400 --format json
    """
    from chipmark.terminal.console import check_format, emit_json, stdout
    from chipmark.workload.generate import generate
    from chipmark.workload.kernel_shapes import kernel_shapes
    from chipmark.workload.profile import load_profiles, profile
    from chipmark.workload.quantiles import describe
    from chipmark.workload.scale import scale_named

    check_format(format_, ("rich", "json"))
    own = [name] if name.endswith(".toml") else []
    chosen = profile(next(reversed(load_profiles(*own))) if own else name, *own)
    trace = generate(chosen, scale_named(scale), seed, sessions, vocabulary)
    rows = describe(trace, chosen)
    shapes = kernel_shapes(chosen, trace.scale)
    if format_ == "json":
        emit_json(
            {
                "name": trace.name,
                "hash": trace.hash,
                "scale": [trace.scale.context, trace.scale.output, trace.scale.tool_time],
                "seed": seed,
                "totals": dataclasses.asdict(trace.totals),
                "prefix_hit_ideal": trace.prefix_hit_ideal,
                "quantiles": [dataclasses.asdict(row) for row in rows],
                "kernel_shapes": [dataclasses.asdict(shape) for shape in shapes],
            }
        )
        return
    from chipmark.table.listing import name as names
    from chipmark.table.listing import number, show, words

    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:,.4g}"

    title = f"{trace.name} at scale {trace.scale}, seed {seed}, {sessions} sessions"
    numbers = ("unit", "n", "p10", "p50", "p90", "target p50")
    texts = [
        [
            row.parameter,
            row.unit,
            str(row.n),
            cell(row.realised_p10),
            cell(row.realised_p50),
            cell(row.realised_p90),
            cell(row.target_p50),
            row.source,
        ]
        for row in rows
    ]
    console = stdout()
    columns = [names("quantity"), *map(number, numbers), words("source")]
    show(console, columns, texts, title=title)
    console.print(f"trace {trace.hash}", soft_wrap=True)
    console.print(f"{len(shapes)} kernel shapes; --format json lists them")
