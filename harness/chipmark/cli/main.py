"""The command line. A command's module is imported when it is asked for, and what it needs when
it runs, so that `chipmark --help` imports neither pandas nor scipy nor torch."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from chipmark.entry import entry
from chipmark.errors import ChipmarkError, UsageError
from chipmark.terminal.streams import outlive_readers
from chipmark_models.plain_text import one_line

COMMANDS = {
    "doctor": "chipmark.cli.doctor",
    "run": "chipmark.cli.run",
    "table": "chipmark.cli.table",
    "cost": "chipmark.cli.cost",
    "ab": "chipmark.cli.ab",
    "aa": "chipmark.cli.aa",
    "gate": "chipmark.cli.gate",
    "history": "chipmark.cli.history",
    "validate": "chipmark.cli.validate",
    "recompute": "chipmark.cli.recompute",
    "audit": "chipmark.cli.audit",
    "import": "chipmark.cli.import_",
    "export": "chipmark.cli.export",
    "kernels": "chipmark.cli.kernels",
    "models": "chipmark.cli.models",
    "workload": "chipmark.cli.workload",
    "chips": "chipmark.cli.chips",
    "providers": "chipmark.cli.providers",
    "power": "chipmark.cli.power",
}
"""Commands in the order of the help, and their modules; each has an `app`."""


__all__ = ["COMMANDS", "app", "entry", "flowing", "main", "run_to_the_end"]

_INTERRUPTED = 130
_OF_THE_MACHINE = frozenset((
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.ESTALE, errno.EMFILE,
    errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM,
))  # fmt: skip
"""What the system refuses through no fault of chipmark: a disk, a quota, a right, memory."""

_INTERNAL = 4
"""Of an error without a type of its own. Never 1: a job would read that as "regressed"."""


def flowing(text: str) -> str:
    """A help text whose paragraphs are a line each, so that they are wrapped in the terminal's
    width and nowhere else; indented ones, as examples, stay as they are."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(p if p.startswith(" ") else " ".join(p.split("\n")) for p in paragraphs)


def _flow(command: Any) -> None:
    command.help = flowing(command.help or "")
    for below in getattr(command, "commands", {}).values():
        _flow(below)


class LazyGroup(TyperGroup):
    """Looks a command up in COMMANDS."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.help = flowing(self.help or "")

    def list_commands(self, ctx: Any) -> list[str]:
        """The names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command behind a name, None for an unknown one."""
        if cmd_name not in COMMANDS:
            return None
        command = typer.main.get_command(import_module(COMMANDS[cmd_name]).app)
        command.name = cmd_name
        _flow(command)
        return command


app = typer.Typer(
    cls=LazyGroup,
    name="chipmark",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from chipmark import __version__

        typer.echo(f"chipmark {__version__}")
        raise typer.Exit


@app.callback()
def root(
    log_level: str = typer.Option(
        "warning",
        "--log-level",
        envvar="CHIPMARK_LOG",
        metavar="LEVEL",
        help="What is logged on stderr: debug, info, warning or error.",
    ),
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", callback=_version, is_eager=True
    ),
) -> None:
    """One agent workload on every chip: speed, tokens per watt and cost in one honest table.

    Start with [bold]chipmark doctor[/], then [bold]chipmark run quick -o runs/quick[/].

    Exit codes: 0 done; 1 a check found what it looks for; 2 wrong usage, bad input or a broken
    record; 3 inconclusive, or nothing to judge; 4 a cell failed, or chipmark itself did; 130, 143
    or 129 interrupted by SIGINT, SIGTERM or SIGHUP.
    """
    from chipmark.log import configure

    configure(log_level.lower())


def _never() -> bool:
    return False


def main(arguments: Sequence[str], interrupted: Callable[[], bool] = _never) -> int:
    """Run a command line and return its exit code; a ChipmarkError is shown without traceback, any
    other error with it, and a sentence that it is a fault of chipmark. Once `interrupted` is true,
    an error is the interrupt's doing: a library may have made another error of it."""
    try:
        app(list(arguments), prog_name="chipmark")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        return _INTERRUPTED if interrupted() else _failed(error)
    return 0


def _failed(error: Exception) -> int:
    """Show an error in the way of its kind, and give its exit code."""
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        error = UsageError(_reason(error), "free some of it, or choose another place")
    if isinstance(error, MemoryError):
        error = UsageError("there is not enough memory for this", "free some of it")
    if not isinstance(error, ChipmarkError):
        return _internal(error)  # 1 is a verdict, and this is not one
    from chipmark.terminal.console import show_error

    show_error(error)
    return error.exit_code


def _internal(error: Exception) -> int:
    """Show an error that no one thought of, and whose fault it is."""
    traceback.print_exception(error)
    kind = type(error).__name__
    sys.stderr.write(f"chipmark: internal error ({kind}), a fault of chipmark, no verdict\n")
    return _INTERNAL


def _reason(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return one_line(f"{where}{error.strerror}")


def run_to_the_end(arguments: Sequence[str], interrupted: Callable[[], bool] = _never) -> int:
    """As `main`, with streams that a reader may leave at any time. What was printed is written
    before the exit code is given, so that a full disk is an error."""
    outlive_readers()
    code = main(arguments, interrupted)
    try:
        sys.stdout.flush()
    except ChipmarkError as error:
        from chipmark.terminal.console import show_error

        show_error(error)
        code = code or error.exit_code
    return code


if __name__ == "__main__":
    entry()
