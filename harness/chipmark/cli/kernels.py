"""`chipmark kernels`: our Triton kernels, on a GPU or compiled without one."""

from __future__ import annotations

import typer

from chipmark.kernel_bench.subcommands import SUBCOMMANDS

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    help="""Triton kernels: parity, times at the roof with their peers, tiles, ahead-of-time builds.

    On a machine with a GPU, torch, triton, numpy and rich are enough: python -m
    chipmark.kernel_bench takes the same subcommands.

    Examples:

      chipmark kernels stages --plan

      chipmark kernels run -o runs/gpu-kernels.json

      chipmark kernels run --show runs/gpu-kernels.json

      chipmark kernels ahead --help
    """,
)


def _add(name: str) -> None:
    # Options are the subcommand's own: it parses them itself, `--help` too.
    passed_on = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}

    @app.command(name, help=SUBCOMMANDS[name].summary, context_settings=passed_on)
    def subcommand(context: typer.Context) -> None:
        raise typer.Exit(SUBCOMMANDS[name].main()(context.args))


for _name in SUBCOMMANDS:
    _add(_name)
