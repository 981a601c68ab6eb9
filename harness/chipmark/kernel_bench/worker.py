"""The process that measures: it answers requests in steps, so that its parent can end a step that
hangs without losing those before it."""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any, Protocol

from chipmark.processes import die_with_parent

Step = tuple[str, Callable[[], Any]]
"""Its name, and what does it; a result of None is not told."""


class Bench(Protocol):
    """What a worker measures with. Made inside the worker, for it may hold a device."""

    def identity(self) -> Mapping[str, Any]:
        """What results of another call must agree with to be gone on with."""

    def steps(self, request: Mapping[str, Any]) -> Iterator[Step]:
        """The steps of a request, in order, without those named in its `have`."""

    def usable(self) -> bool:
        """Whether the device still answers; after an illegal access it does not."""


def error_text(error: BaseException) -> str:
    """An exception in a line, cut to what a row can hold."""
    return f"{type(error).__name__}: {error}"[:500]


def serve(
    connection: Connection,
    factory: str,
    options: Mapping[str, Any],
    environment: Mapping[str, str],
) -> None:
    """Make the bench of `factory` ("module:name") and answer until None is asked.

    environment: variables that are set before its module is imported.

    Tells (kind, ...) tuples: ready IDENTITY or failed TEXT; then for each request step NAME, part
    NAME RESULT, and at last done, or broken where the device is lost and this process ends.
    """
    # A session of its own: Ctrl-C is the parent's, who saves and ends all that was started here.
    os.setsid()
    die_with_parent()
    # Drivers and Triton read theirs when they are first loaded, which is below.
    os.environ.update(environment)
    # Compilers and other people's kernels print; stdout belongs to the parent's one document.
    os.dup2(2, 1)
    module, _, name = factory.partition(":")
    try:
        bench: Bench = getattr(importlib.import_module(module), name)(**options)
        connection.send(("ready", dict(bench.identity())))
    except Exception as error:  # whatever a driver or a missing package raises is reported
        traceback.print_exc()
        connection.send(("failed", error_text(error)))
        return
    while (request := connection.recv()) is not None:
        if not _answer(connection, bench, request):
            connection.send(("broken",))
            return
        connection.send(("done",))


def _answer(connection: Connection, bench: Bench, request: Mapping[str, Any]) -> bool:
    for name, work in bench.steps(request):
        connection.send(("step", name))
        try:
            value = work()
        except Exception as error:  # a kernel that does not compile here is a result like another
            value = {"error": error_text(error)}
        if value is not None:
            connection.send(("part", name, value))
        if not bench.usable():
            return False
    return True
