"""What people see: messages and progress on stderr, results alone on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from chipmark.errors import ChipmarkError, UnknownNameError
from chipmark.terminal.progress import Heartbeat
from chipmark_models.plain_text import plain_lines, plain_text


class PlainConsole(Console):
    """A console whose texts may hold foreign names and messages: control, escape and direction
    characters in them are spelled, and `:x:` stays what it is. Colour comes from styles and markup
    alone."""

    def __init__(self, **options: Any) -> None:
        """As `Console`, without its names of pictures."""
        super().__init__(emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """As `Console.print`."""
        super().print(*(plain_lines(o) if isinstance(o, str) else o for o in objects), **options)


def stderr() -> Console:
    """A console on stderr that never cuts or marks up what it is given."""
    return PlainConsole(stderr=True, highlight=False, soft_wrap=True)


def stdout() -> Console:
    """A console on stdout."""
    return PlainConsole(highlight=False)


def show_error(error: ChipmarkError) -> None:
    """Message and hint on stderr, without a traceback."""
    console = stderr()
    console.print(f"[bold red]error:[/] {escape(error.message)}")
    if error.hint:
        console.print(escape(error.hint))


def warn(text: str) -> None:
    """A line on stderr that stays."""
    stderr().print(escape(text))


def emit_json(document: Any) -> None:
    """The one JSON document of a command, on stdout."""
    sys.stdout.write(json.dumps(document, indent=1, allow_nan=False, default=str) + "\n")
    sys.stdout.flush()


def emit_json_list(items: Iterable[Any]) -> None:
    """A list as `emit_json` prints it, item by item: no two of them are held at once, and each is
    printed as soon as it is there. One that is interrupted ends as a list all the same."""
    before, end = "[\n ", "[]\n"
    try:
        for item in items:
            # No string of JSON has a line break in it.
            text = json.dumps(item, indent=1, allow_nan=False, default=str).replace("\n", "\n ")
            sys.stdout.write(before + text)
            before, end = ",\n ", "\n]\n"
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stdout.write(end)
        sys.stdout.flush()
        raise
    sys.stdout.write(end)
    sys.stdout.flush()


def check_format(name: str, valid: tuple[str, ...]) -> str:
    """The format's name; UnknownNameError with the nearest names."""
    if name not in valid:
        raise UnknownNameError("format", name, valid)
    return name


class ConsoleReporter:
    """`cell.runner.Reporter` on stderr: lines always; the bar where stderr is a terminal, and a
    line of progress every half minute where it is not."""

    def __init__(self, progress: Progress, console: Console, heartbeat: Heartbeat) -> None:
        self._progress, self._console, self._heartbeat = progress, console, heartbeat
        self._task = progress.add_task("starting", total=None)
        self._total = 0

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(escape(text))

    def stage(self, text: str) -> None:
        """What is being done now."""
        self._progress.update(self._task, description=escape(plain_text(text)))
        self._heartbeat.stage(text)

    def steps(self, total: int) -> None:
        """So many more steps are ahead."""
        self._total += total
        self._progress.update(self._task, total=self._total)
        self._heartbeat.steps(total)

    def step(self) -> None:
        """One step is done."""
        self._progress.advance(self._task)
        self._heartbeat.step()


@contextmanager
def reporting() -> Iterator[ConsoleReporter]:
    """A reporter whose bar is gone afterwards."""
    console = stderr()
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    heartbeat = Heartbeat(lambda text: console.print(escape(text)))
    with progress, nullcontext() if console.is_terminal else heartbeat.beating():
        yield ConsoleReporter(progress, console, heartbeat)
