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
    from chipmark.table.listing import name, number, show, words
    from chipmark.terminal.console import check_format, emit_json, stdout
    from chipmark_models.pull import list_models as rows_of

    check_format(format_, ("rich", "json"))
    rows = rows_of()
    if format_ == "json":
        emit_json(rows)
        return
    texts = []
    for row in rows:
        weights = str(row["weights"])
        if row["pullable"] and weights != "real":
            weights += " (can be pulled)"
        texts.append(
            [
                str(row["name"]),
                str(row["family"]),
                f"{row['parameters'] / 1e6:,.{0 if row['parameters'] >= 1e7 else 3}f} M",
                f"{row['max_context']:,}",
                weights,
                str(row["source"]),
            ]
        )
    heads = ("parameters", "context")
    columns = [name("model"), name("family"), *map(number, heads), words("weights")]
    show(stdout(), [*columns, name("shape of")], texts)


@app.command("pull")
def pull_model(
    preset: str = typer.Argument(
        ..., metavar="NAME", help="A preset whose real weights are known."
    ),
    format_: str = typer.Option("rich", "--format", help="rich or json."),
) -> None:
    """Get a model's real weights into the cache folder, by a pinned hash, without a hub.

    Example: chipmark models pull smollm2-135m
    """
    from chipmark.terminal.console import check_format, emit_json, reporting, stdout
    from chipmark_models.pull import pull

    check_format(format_, ("rich", "json"))
    with reporting() as reporter:
        path = pull(preset, progress=reporter.stage)
    if format_ == "json":
        emit_json({"name": preset, "path": str(path)})
        return
    stdout().print(str(path), soft_wrap=True)
