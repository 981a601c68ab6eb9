"""Mutated files through the readers: what is read, what is refused, and what must never be.

Each batch runs in a process of its own. An input is clean where the reader takes it, or refuses
it by a ChipmarkError of one plain line; a failure is any other exception, a longer or unprintable
message, more than MEMORY_BYTES beside what the good file needs, or more than SECONDS.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from chipmark.errors import ChipmarkError
from chipmark_models.plain_text import plain_lines
from hostile.mutations import OF_KIND, flip

SECONDS = 10
"""Of the processor, so that a busy machine fails nothing; of the clock five times as many."""

MEMORY_BYTES = 1_000_000_000
LINE = 500
_TRACED = 40
"""One input of so many is traced line by line, which is slow."""

_RESEALED = 0.95
"""Share of the inputs whose checksums are computed again."""

_FOUNDATION = ("foreign_file.py", "foreign_arrays.py", "foreign_model.py")
"""Where the first check of every reader is: an error that starts here, or in a library that is
called from here, never got to the reader's own lines."""


@dataclass(frozen=True)
class Subject:
    """A reader, a good file for it, and what a command does with what was read."""

    name: str
    kind: str
    """Of the file, see `mutations.OF_KIND`."""
    good: Callable[[Path], Path]
    """Makes the good input in a folder and returns the file to mutate; called once a process."""
    use: Callable[[Path], None]
    """Reads the file and does with it what commands do."""
    modules: tuple[str, ...]
    """Files of the reader, as `results/record.py`, whose lines are counted."""
    reseal: Callable[[Path], None] | None = None
    """Computes checksums again after a mutation, so that it gets past them."""
    share: float = 1.0
    """Of the inputs of a trial, beside 1 for a common reader."""


@dataclass
class Outcome:
    """Counts of the inputs of one subject, and what failed."""

    name: str
    inputs: int = 0
    read: int = 0
    """Taken, and used to the end."""
    past_first_check: int = 0
    """Taken, or refused by the reader's own lines."""
    failures: list[str] = field(default_factory=list)
    lines: dict[str, set[int]] = field(default_factory=dict)
    """Lines executed in the traced inputs, by module."""
    slowest_s: float = 0.0
    most_bytes: int = 0

    def text(self) -> str:
        """A line of the report."""
        return (
            f"{self.name:32} {self.inputs:6} {self.read:6} {self.past_first_check:6} "
            f"{self.slowest_s:6.2f} s {self.most_bytes / 1e6:6.0f} MB"
        )

    def add(self, other: Outcome) -> None:
        """Count another batch in."""
        self.inputs += other.inputs
        self.read += other.read
        self.past_first_check += other.past_first_check
        self.failures += other.failures
        for module, lines in other.lines.items():
            self.lines.setdefault(module, set()).update(lines)
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        self.most_bytes = max(self.most_bytes, other.most_bytes)


class _TooSlow(BaseException):
    """Not an Exception: no reader may catch it."""


def run_trial(
    subjects: Sequence[Subject], inputs: int, seed: int, workers: int = 2, batch: int = 250
) -> list[Outcome]:
    """So many mutated inputs over all subjects, by their shares; one outcome for each."""
    total = sum(subject.share for subject in subjects)
    jobs = []
    for index, subject in enumerate(subjects):
        count = max(1, round(inputs * subject.share / total))
        for start in range(0, count, batch):
            jobs.append((index, seed * 1_000_003 + start, min(batch, count - start)))
    found = [Outcome(subject.name) for subject in subjects]
    context = multiprocessing.get_context("fork")
    running: list[tuple[int, Any, Any]] = []
    todo = list(reversed(jobs))
    while todo or running:
        while todo and len(running) < workers:
            index, first, count = todo.pop()
            reader, writer = context.Pipe(duplex=False)
            process = context.Process(target=_batch, args=(subjects[index], first, count, writer))
            process.start()
            writer.close()
            running.append((index, process, reader))
        for job in list(running):
            index, process, reader = job
            if reader.poll(0.05 / max(1, len(running))) or not process.is_alive():
                try:
                    found[index].add(reader.recv())
                except EOFError:
                    process.join()
                    found[index].failures.append(f"the process ended with {process.exitcode}")
                process.join()
                running.remove(job)
    return found


def _batch(subject: Subject, first: int, count: int, writer: Any) -> None:
    # What is beyond this ends as a MemoryError here, not in the machine's swap.
    limit = 6 * MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with tempfile.TemporaryDirectory(prefix="chipmark-hostile-") as folder:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        writer.send(_inputs(subject, range(first, first + count), Path(folder)))
    writer.close()


def _inputs(subject: Subject, seeds: Iterable[int], folder: Path) -> Outcome:
    outcome = Outcome(subject.name)
    good = folder / "good"
    good.mkdir()
    source = subject.good(good)
    kept = {path: path.read_bytes() for path in good.rglob("*") if path.is_file()}
    said = _use(subject, source)
    assert said.error is None, f"{subject.name}: the good file is refused: {said.error!r}"
    signal.signal(signal.SIGALRM, _slow)
    signal.signal(signal.SIGPROF, _slow)
    for seed in seeds:
        for path, content in kept.items():
            path.write_bytes(content)
        prepared(subject, source, kept[source], seed)
        _judge(subject, seed, _use(subject, source, traced=seed % _TRACED == 0), outcome)
    return outcome


def prepared(subject: Subject, source: Path, good: bytes, seed: int) -> None:
    """Put the mutation of this seed in the place of the good content, checksums mostly right."""
    rng = random.Random(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            changed = OF_KIND[subject.kind](good, rng)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        changed = flip(good, rng)  # values that the format itself cannot be written with
    source.write_bytes(changed)
    if subject.reseal is not None and rng.random() < _RESEALED:
        # What cannot be sealed again stays a file with a wrong checksum.
        with contextlib.suppress(
            ValueError, TypeError, LookupError, AttributeError, RecursionError
        ):
            subject.reseal(source)


@dataclass
class _Use:
    """One reading of a file: what was raised, printed, executed and taken."""

    error: BaseException | None = None
    output: str = ""
    lines: dict[str, set[int]] = field(default_factory=dict)
    seconds: float = 0.0
    bytes: int = 0


def _use(subject: Subject, source: Path, traced: bool = False) -> _Use:
    found = _Use()
    output = io.StringIO()
    before = _peak_bytes(forget=True)
    started = time.perf_counter()
    signal.alarm(5 * SECONDS)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
            _tracing(subject.modules, found.lines) if traced else contextlib.nullcontext(),
        ):
            subject.use(source)
    except BaseException as error:
        found.error = error
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    found.seconds = time.perf_counter() - started
    found.bytes = _peak_bytes() - before
    found.output = output.getvalue()
    return found


def _judge(subject: Subject, seed: int, use: _Use, outcome: Outcome) -> None:
    """Count one reading, and keep what must not be."""
    outcome.inputs += 1
    outcome.slowest_s = max(outcome.slowest_s, use.seconds)
    outcome.most_bytes = max(outcome.most_bytes, use.bytes)
    for module, lines in use.lines.items():
        outcome.lines.setdefault(module, set()).update(lines)
    faults = []
    if use.error is None:
        outcome.read += 1
        outcome.past_first_check += 1
    elif isinstance(use.error, ChipmarkError):
        outcome.past_first_check += not _starts_in_foundation(use.error)
        text = str(use.error)
        if len(use.error.message) > LINE or not use.error.message.isprintable():
            faults.append(f"message of {len(text)} characters: {text[:200]!r}")
    elif isinstance(use.error, _TooSlow):
        faults.append(f"over {SECONDS} s at {_place(use.error)}")
    else:
        faults.append(
            f"{type(use.error).__name__}: {str(use.error)[:200]!r} at {_place(use.error)}"
        )
    if use.output != plain_lines(use.output):
        bad = next(c for c in use.output if c != "\n" and plain_lines(c) != c)
        at = use.output.index(bad)
        faults.append(f"prints {bad!r}: {use.output[max(0, at - 60) : at + 20]!r}")
    if use.bytes > MEMORY_BYTES:
        faults.append(f"took {use.bytes / 1e6:,.0f} MB")
    outcome.failures += [f"{subject.name}, seed {seed}: {fault}" for fault in faults]


def _starts_in_foundation(error: BaseException) -> bool:
    """Whether an error was first raised by the shared reading of files, or by what it calls."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).name in _FOUNDATION for frame in frames)


def _place(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "chipmark" in f.filename]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-4:]))


def _slow(number: int, frame: FrameType | None) -> None:
    raise _TooSlow


def _peak_bytes(forget: bool = False) -> int:
    """Largest resident set of this process since it was last forgotten."""
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM in /proc/self/status")


@contextlib.contextmanager
def _tracing(modules: tuple[str, ...], lines: dict[str, set[int]]) -> Iterator[None]:
    """Keep the lines that are executed in these files."""

    def of_frame(frame: FrameType, event: str, argument: Any) -> Any:
        name = _module(frame.f_code.co_filename, modules)
        if not name:
            return None
        found = lines.setdefault(name, set())

        def of_line(frame: FrameType, event: str, argument: Any) -> Any:
            found.add(frame.f_lineno)
            return of_line

        return of_line

    before = sys.gettrace()
    sys.settrace(of_frame)
    try:
        yield
    finally:
        sys.settrace(before)


def _module(file: str, modules: tuple[str, ...]) -> str:
    return next((name for name in modules if file.endswith(f"/{name}")), "")


def lines_of(path: Path) -> set[int]:
    """Numbers of the lines of a module's functions that can be executed."""
    found: set[int] = set()
    todo = [
        constant
        for constant in compile(path.read_bytes(), str(path), "exec").co_consts
        if hasattr(constant, "co_lines")
    ]
    while todo:
        code = todo.pop()
        if code.co_name != "<module>":
            found |= {
                line
                for _, _, line in code.co_lines()
                if line is not None and line != code.co_firstlineno
            }
        todo += [constant for constant in code.co_consts if hasattr(constant, "co_lines")]
    return found
