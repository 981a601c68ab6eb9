"""The process that holds one backend: `python -m chipmark.cell.child SPEC --fd-in N --fd-out M`.

Commands come as JSON lines on one pipe and answers go as JSON lines on another, because
providers write to stdout as they like. Standard library, NumPy and the backend's own package.
An answer is {"ok": {...}}, {"error": {"type", "message", "hint"}}, {"progress": {...}}, or
{"mark": "started" or "ended"} right before and after the engine runs, which the parent stamps by
its own clock ("ready" before them, where replicas wait for each other). The error of a load that
does not fit has "sequences", too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from chipmark.backends.probe_size import is_out_of_memory
from chipmark.cell.checked_json import parse, to_mapping
from chipmark.cell.protocol import (
    GO,
    REQUESTS,
    ChildSpec,
    ClockAnswer,
    CloseAnswer,
    ErrorAnswer,
    Idle,
    IdleAnswer,
    LoadAnswer,
    Parity,
    ParityAnswer,
    Probe,
    ProbeAnswer,
    Run,
    RunAnswer,
)
from chipmark.cell.provenance import installed_packages
from chipmark.engine.clock import MonotonicClock
from chipmark.engine.contract import Backend, Caps, Clock, PowerColumns
from chipmark.engine.events import save_events
from chipmark.engine.plan import CapturedLogits, Progress, RunPlan
from chipmark.engine.plugins import counter_samples, open_backend, virtual_clock
from chipmark.errors import UnknownNameError, UsageError
from chipmark.log import configured, logger_of
from chipmark.processes import die_with_parent
from chipmark.registry import identity_of, refused_plugins, split_backend

_PROGRESS_PERIOD_S = 0.5
_LOG = logger_of(__name__)


class Child:
    """One backend behind the command loop."""

    def __init__(
        self,
        spec: ChildSpec,
        tell: Callable[[Mapping[str, Any]], None],
        hear: Callable[[], str] = lambda: GO,
    ) -> None:
        """tell: answers the parent. hear: the parent's next line, whatever it is."""
        self.spec = spec
        self._tell, self._hear = tell, hear
        self._backend: Backend | None = None
        self._caps: Caps | None = None
        self._clock: Clock | None = None
        self._peak_rss_bytes = 0

    def answer(self, name: str, arguments: str) -> dict[str, Any]:
        """Do one command and return the content of its `ok`; BadInputError for an argument that is
        unknown, missing or of another type."""
        if name not in REQUESTS:
            raise UnknownNameError("command of the child", name, REQUESTS)
        _LOG.debug("%s %s", name, arguments)
        request = parse(REQUESTS[name], arguments, f"{name} request")
        work: dict[str, Callable[[Any], Any]] = {
            "load": self._load,
            "parity": self._parity,
            "probe": self._probe,
            "run": self._run,
            "clock": self._read_clock,
            "idle": self._idle,
            "close": self._close,
        }
        return to_mapping(work[name](request))

    def _load(self, _: object) -> LoadAnswer:
        spec = self.spec
        kind = split_backend(spec.backend)[0]
        started = time.perf_counter()
        backend = open_backend(spec.backend)
        loaded = backend.load(spec.load)
        self._backend, self._caps = backend, loaded.caps
        self._clock = virtual_clock(spec.backend, backend)
        return LoadAnswer.of(
            loaded,
            describe=dict(backend.describe()),
            plugin=identity_of("chipmark.backends", kind, backend).to_dict(),
            refused_plugins=refused_plugins("chipmark.backends"),
            wall_s=time.perf_counter() - started,
            python=sys.version.split()[0],
            numpy=np.__version__,
            packages=installed_packages(),
            peak_rss_bytes=self.peak_rss_bytes(),
        )

    def _parity(self, command: Parity) -> ParityAnswer:
        from chipmark.engine.loop import run
        from chipmark.workload.trace import load_trace

        plan = RunPlan(
            caps=self.caps,
            concurrency=command.concurrency,
            logits_of_all=True,
            clock=self._clock,
        )
        result = run(self.backend, load_trace(command.trace), plan)
        save_logits(Path(command.out), result.logits)
        return ParityAnswer(len(result.logits), self.peak_rss_bytes())

    def _probe(self, command: Probe) -> ProbeAnswer:
        self._peak_rss_bytes = self.peak_rss_bytes()
        backend = self.backend
        start_s = time.perf_counter()
        size: int | None = command.read_bytes
        if size:
            size = backend.probe_bytes(size)
        read = roof_of(lambda: backend.probe_read(size)) if size else None
        matmul = roof_of(lambda: backend.probe_matmul(command.precision))
        end_s = time.perf_counter()
        forget_peak_rss()  # the probe's own buffer is not the backend's
        return ProbeAnswer(read, size or 0, matmul, start_s, end_s)

    def _run(self, command: Run) -> RunAnswer:
        from chipmark.engine.loop import run
        from chipmark.workload.trace import load_trace

        trace = load_trace(command.trace)
        ids = tuple(s.id for s in trace.sessions)[: command.sessions or None]
        told = 0.0

        def progress(at: Progress) -> None:
            nonlocal told
            now = time.perf_counter()
            if now - told > _PROGRESS_PERIOD_S:
                told = now
                self._tell({"progress": {"done": at.sessions_done, "turns": at.turns_done}})

        capture = None
        if command.capture_session >= 0:
            capture = (command.capture_session, command.capture_turn)
        plan = RunPlan(
            caps=self.caps,
            concurrency=command.concurrency,
            scenario=command.scenario,
            sessions=ids,
            feedback=self.spec.feedback,
            capture=capture,
            deadline_s=command.deadline_s,
            on_progress=progress,
            clock=self._clock,
        )
        self.backend.synchronize()
        if command.together:
            self._tell({"mark": "ready"})
            if self._hear().strip() != GO:
                raise UsageError("the parent has not started the run")
        self._tell({"mark": "started"})
        result = run(self.backend, trace, plan)
        self._tell({"mark": "ended"})
        save_events(Path(command.events), result.tables)
        if command.captured and result.logits:
            save_logits(Path(command.captured), result.logits)
        samples = self.backend.power_samples()
        if command.power and samples is not None:
            _save_power(command.power, samples)
        if command.counter:
            _save_power(command.counter, counter_samples(self.backend))
        turns = result.tables["turns"]["status"]
        return RunAnswer(
            turns=len(turns),
            turns_done=int((turns == 0).sum()),
            complete=result.complete,
            peak_rss_bytes=self.peak_rss_bytes(),
            peak_device_bytes=self.backend.peak_device_bytes(),
            launches=self.backend.launch_counts(),
        )

    def _read_clock(self, _: object) -> ClockAnswer:
        """The engine's clock of a backend that is not simulated, now."""
        return ClockAnswer(MonotonicClock().now())

    def _idle(self, command: Idle) -> IdleAnswer:
        self.backend.synchronize()
        start_s = time.perf_counter()
        time.sleep(command.seconds)
        return IdleAnswer(start_s, time.perf_counter())

    def _close(self, _: object) -> CloseAnswer:
        if self._backend is not None:
            self._backend.close()
            self._backend = None
        return CloseAnswer(self.peak_rss_bytes())

    def peak_rss_bytes(self) -> int:
        """Largest resident set so far, buffers of the probes left out."""
        return max(self._peak_rss_bytes, peak_rss_bytes())

    @property
    def backend(self) -> Backend:
        """The loaded backend; UsageError before `load`."""
        if self._backend is None:
            raise UsageError("the child was asked to work before it had loaded")
        return self._backend

    @property
    def caps(self) -> Caps:
        """What the loaded backend can do."""
        if self._caps is None:
            raise UsageError("the child was asked to work before it had loaded")
        return self._caps


def roof_of(probe: Callable[[], float | None]) -> float | None:
    """A probe's rate; None where the backend has none, or lacks the memory to measure it."""
    try:
        rate = probe()
    except Exception as error:  # every backend has its own class for a lack of memory
        if not is_out_of_memory(error):
            raise
        sys.stderr.write(f"a probe ran out of memory: {error}\n")
        return None
    return None if rate is None else float(rate)


def _save_power(path: str, samples: PowerColumns) -> None:
    time_s, energy_j, power_w = samples
    with Path(path).open("wb") as file:
        np.savez(file, time_s=time_s, energy_j=energy_j, power_w=power_w)


def save_logits(path: Path, rows: Sequence[CapturedLogits]) -> None:
    """Write `rows` int32 (n, 3), session, turn and position, and `logits` float32 (n, vocab)."""
    columns = np.array([[r.session, r.turn, r.position] for r in rows], np.int32).reshape(-1, 3)
    logits = np.stack([r.logits for r in rows]) if rows else np.zeros((0, 0), np.float32)
    with path.open("wb") as file:
        np.savez(file, rows=columns, logits=logits.astype(np.float32))


def peak_rss_bytes() -> int:
    """Largest resident set of this process so far (VmHWM, else getrusage)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError as error:
        sys.stderr.write(f"/proc/self/status: {error}\n")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak_rss() -> None:
    """Start VmHWM again from the present resident set, where the kernel lets us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        sys.stderr.write(f"/proc/self/clear_refs: {error}; the peak includes the probes\n")


def serve(
    answer: Callable[[str, str], dict[str, Any]],
    commands: TextIO,
    tell: Callable[[Mapping[str, Any]], None],
) -> None:
    """Answer commands by `answer(name, arguments as JSON)` until `close` or the pipe's end."""
    for line in commands:
        request = json.loads(line)
        name = str(request.pop("command"))
        try:
            tell({"ok": answer(name, json.dumps(request))})
        except Exception as error:  # a provider may raise anything: the cell fails with it
            traceback.print_exc()
            tell({"error": to_mapping(ErrorAnswer.of(error))})
        if name == "close":
            return


@contextmanager
def pipes(
    arguments: list[str] | None,
) -> Iterator[tuple[Path, TextIO, Callable[[Mapping[str, Any]], None]]]:
    """The spec's path, the commands, and how to answer, from a child's command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("spec", type=Path)
    parser.add_argument("--fd-in", type=int, required=True)
    parser.add_argument("--fd-out", type=int, required=True)
    chosen = parser.parse_args(arguments)
    die_with_parent()
    configured()
    with (
        os.fdopen(chosen.fd_in, "r", encoding="utf-8") as commands,
        os.fdopen(chosen.fd_out, "w", encoding="utf-8") as answers,
    ):

        def tell(message: Mapping[str, Any]) -> None:
            answers.write(json.dumps(message, default=_plain) + "\n")
            answers.flush()

        yield chosen.spec, commands, tell


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the child process."""
    with pipes(arguments) as (path, commands, tell):
        spec = ChildSpec.from_json(path.read_text(encoding="utf-8"), path)
        serve(Child(spec, tell, commands.readline).answer, commands, tell)


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays, paths and tuples as JSON types."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


if __name__ == "__main__":
    main()
