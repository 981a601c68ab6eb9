"""The process that holds one backend: `python -m chipmark.cell.child SPEC --fd-in N --fd-out M`.

Commands come as JSON lines on one pipe and answers go as JSON lines on another, because
providers write to stdout as they like. Standard library, NumPy and the backend's own package.
An answer is {"ok": {...}}, {"error": {"type", "message", "hint"}}, {"progress": {...}}, or
{"mark": "started" or "ended"} right before and after the engine runs, which the parent stamps by
its own clock. The error of a load that does not fit has "sequences", too.
"""

from __future__ import annotations

import argparse
import dataclasses
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
from chipmark.cell.provenance import installed_packages
from chipmark.cell.spec import ChildSpec, RunCommand, parse
from chipmark.engine.clock import MonotonicClock
from chipmark.engine.contract import Backend, Caps, Clock, Loaded, LoadSpec
from chipmark.engine.events import save_events
from chipmark.engine.plan import CapturedLogits, Progress, RunPlan
from chipmark.engine.plugins import open_backend, virtual_clock
from chipmark.errors import ChipmarkError, DoesNotFitError, UsageError
from chipmark.processes import die_with_parent
from chipmark.registry import identity_of, refused_plugins, split_backend

_PROGRESS_PERIOD_S = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class ParityCommand:
    """Run a small trace with the logits of every sampled row kept in `out`."""

    trace: str
    out: str
    concurrency: int


@dataclasses.dataclass(frozen=True, slots=True)
class ProbeCommand:
    """Measure the roofs: a read of `read_bytes` (0: not asked for), a matrix product in
    `precision`."""

    read_bytes: int
    precision: str


class Child:
    """One backend behind the command loop."""

    def __init__(self, spec: ChildSpec, tell: Callable[[Mapping[str, Any]], None]) -> None:
        self.spec = spec
        self._tell = tell
        self._backend: Backend | None = None
        self._caps: Caps | None = None
        self._clock: Clock | None = None
        self._peak_rss_bytes = 0

    def answer(self, name: str, arguments: str) -> dict[str, Any]:
        """Do one command and return the content of its `ok`."""
        commands: dict[str, Callable[[str], dict[str, Any]]] = {
            "load": self._load,
            "parity": self._parity,
            "probe": self._probe,
            "run": self._run,
            "clock": self._read_clock,
            "idle": self._idle,
            "close": self._close,
        }
        if name not in commands:
            raise UsageError(f"the child knows no command {name!r}")
        return commands[name](arguments)

    def _load(self, _: str) -> dict[str, Any]:
        spec = self.spec
        kind = split_backend(spec.backend)[0]
        started = time.perf_counter()
        backend = open_backend(spec.backend)
        loaded = backend.load(
            LoadSpec(
                model=spec.model,
                precision=spec.precision,
                n_seqs=spec.n_seqs,
                max_context=spec.max_context,
                kv_tokens=spec.kv_tokens,
                max_chunk=spec.max_chunk,
                reserved_slots=spec.reserved_slots,
                threads=spec.threads,
                scratch=spec.scratch,
                options=spec.options,
            )
        )
        self._backend, self._caps = backend, loaded.caps
        self._clock = virtual_clock(spec.backend, backend)
        return loaded_to_dict(loaded) | {
            "describe": dict(backend.describe()),
            "plugin": identity_of("chipmark.backends", kind, backend).to_dict(),
            "refused_plugins": list(refused_plugins("chipmark.backends")),
            "wall_s": time.perf_counter() - started,
            "python": sys.version.split()[0],
            "numpy": np.__version__,
            "packages": installed_packages(),
            "peak_rss_bytes": self.peak_rss_bytes(),
        }

    def _parity(self, arguments: str) -> dict[str, Any]:
        from chipmark.engine.loop import run
        from chipmark.workload.trace import load_trace

        command = parse(ParityCommand, arguments, "parity command")
        plan = RunPlan(
            caps=self.caps,
            concurrency=command.concurrency,
            logits_of_all=True,
            clock=self._clock,
        )
        result = run(self.backend, load_trace(command.trace), plan)
        save_logits(Path(command.out), result.logits)
        return {"rows": len(result.logits), "peak_rss_bytes": self.peak_rss_bytes()}

    def _probe(self, arguments: str) -> dict[str, Any]:
        command = parse(ProbeCommand, arguments, "probe command")
        self._peak_rss_bytes = self.peak_rss_bytes()
        backend = self.backend
        start_s = time.perf_counter()
        size: int | None = command.read_bytes
        if size:
            size = backend.probe_bytes(size)
        read = roof_of(lambda: backend.probe_read(size)) if size else None
        matmul = roof_of(lambda: backend.probe_matmul(command.precision))
        end_s = time.perf_counter()
        forget_peak_rss()  # the probe's own buffer is no part of what the backend needs
        return {
            "read": read,
            "read_bytes": size or 0,
            "matmul": matmul,
            "start_s": start_s,
            "end_s": end_s,
        }

    def _run(self, arguments: str) -> dict[str, Any]:
        from chipmark.engine.loop import run
        from chipmark.workload.trace import load_trace

        command = RunCommand.from_json(arguments)
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
        self._tell({"mark": "started"})
        result = run(self.backend, trace, plan)
        self._tell({"mark": "ended"})
        save_events(Path(command.events), result.tables)
        if command.captured and result.logits:
            save_logits(Path(command.captured), result.logits)
        samples = self.backend.power_samples()
        if command.power and samples is not None:
            time_s, energy_j, power_w = samples
            with Path(command.power).open("wb") as file:
                np.savez(file, time_s=time_s, energy_j=energy_j, power_w=power_w)
        turns = result.tables["turns"]["status"]
        return {
            "turns": len(turns),
            "turns_done": int((turns == 0).sum()),
            "complete": result.complete,
            "peak_rss_bytes": self.peak_rss_bytes(),
        }

    def _read_clock(self, _: str) -> dict[str, Any]:
        """The engine's clock of a backend that is not simulated, now."""
        return {"now_s": MonotonicClock().now()}

    def _idle(self, arguments: str) -> dict[str, Any]:
        seconds = float(json.loads(arguments)["seconds"])
        self.backend.synchronize()
        start_s = time.perf_counter()
        time.sleep(seconds)
        return {"start_s": start_s, "end_s": time.perf_counter()}

    def _close(self, _: str) -> dict[str, Any]:
        if self._backend is not None:
            self._backend.close()
            self._backend = None
        return {"peak_rss_bytes": self.peak_rss_bytes()}

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


def loaded_to_dict(loaded: Loaded) -> dict[str, Any]:
    """`Loaded` as JSON types, its `caps` as records keep them."""
    return {
        "caps": dataclasses.asdict(loaded.caps)
        | {
            "sampling": loaded.sampling,
            "clock": "device" if loaded.clock == "simulated" else loaded.clock,
            "execution": loaded.execution,
            "bind_is_snapshot": loaded.bind_is_snapshot,
        },
        "load_s": loaded.load_s,
        "compile_s": loaded.compile_s,
        "weight_bytes": loaded.weight_bytes,
        "kv_bytes": loaded.kv_bytes,
        "precision": loaded.precision.words(),
        "graph": loaded.graph,
        "ep_coverage": loaded.ep_coverage,
        "device": loaded.device,
        "details": dict(loaded.details),
        "notes": [{"code": code, "text": text} for code, text in loaded.notes],
    }


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
        except Exception as error:  # a provider may raise anything: it is told, and the cell fails
            traceback.print_exc()
            message = error.message if isinstance(error, ChipmarkError) else str(error)
            hint = error.hint if isinstance(error, ChipmarkError) else ""
            told: dict[str, Any] = {"type": type(error).__name__, "message": message, "hint": hint}
            if isinstance(error, DoesNotFitError):
                told["sequences"] = error.sequences
            tell({"error": told})
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
        serve(Child(spec, tell).answer, commands, tell)


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays, paths and tuples as JSON types."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


if __name__ == "__main__":
    main()
