"""A cell while it is measured: its children, its folder, and what the stages have found so far.

Stages are functions that return a frozen result: `parity_check.check_parity`,
`sweep.find_concurrency`, `idle.measure_idle`, `repeat.measure_repeat`; `stages` keeps it here.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from chipmark.cell.audit import longest_turn
from chipmark.cell.contexts import Keys
from chipmark.cell.device_state import state_source
from chipmark.cell.inputs import CellInputs
from chipmark.cell.loaded import check_loaded
from chipmark.cell.metering import Metering
from chipmark.cell.outcome import CellOutcome
from chipmark.cell.parent import ChildProcess
from chipmark.cell.plugins import child_remarks
from chipmark.cell.protocol import ChildSpec, Load, LoadAnswer
from chipmark.cell.reference import Reference, References, Weights
from chipmark.cell.replicas import alike, has_name, replica_notes, replicas_of
from chipmark.cell.room import Room
from chipmark.cell.seals import Seals
from chipmark.cell.settle import settle
from chipmark.cell.workloads import sim_load
from chipmark.chips.state import DeviceState, StateSource
from chipmark.codes import NoteCode, NullReason
from chipmark.engine.computed import class_of
from chipmark.engine.contract import LoadSpec
from chipmark.engine.events import Table, load_events
from chipmark.errors import ChipmarkError, DoesNotFitError
from chipmark.log import logger_of
from chipmark.meters.pick import Picked
from chipmark.registry import is_simulated
from chipmark.results.manifest import (
    AuditResult,
    CapacityResult,
    Note,
    ParityResult,
    QualityResult,
    SweepPoint,
)
from chipmark.results.meter_files import power_file
from chipmark.results.raw import run_folders
from chipmark.workload.trace import Trace, save_trace
from chipmark_models.plain_text import one_line

_LOG = logger_of(__name__)


def reason_of(error: Exception) -> str:
    """Why a step of a cell failed, in a line.

    What is neither chipmark's error nor the system's (an answer that was not thought of, or a fault
    of chipmark) has its type in it, and is logged whole.
    """
    if isinstance(error, ChipmarkError):
        return one_line(f"{error.message} ({error.hint})" if error.hint else error.message)
    if isinstance(error, OSError):
        return one_line(str(error))
    _LOG.debug("a step of a cell failed", exc_info=error)
    return one_line(f"{type(error).__name__}: {error}")


class MeasuredCell:
    """A cell while it is measured. A step that fails ends the children and leaves `failure`."""

    def __init__(self, inputs: CellInputs, folder: Path, references: References) -> None:
        self.inputs = inputs
        self.folder = folder
        self.references = references
        self.backends: tuple[str, ...] = (inputs.plan.backend,)
        """One of each replica."""
        self.child: ChildProcess | None = None
        """Of the first replica."""
        self.siblings: list[ChildProcess] = []
        """Of the others."""
        self.answer: LoadAnswer | None = None
        self.parity = ParityResult(verdict="unchecked", reason="not reached")
        self.quality = QualityResult(reason=inputs.no_quality or NullReason.CELL_FAILED)
        self.capacity: CapacityResult | None = None
        self.audit = AuditResult(verdict="none", reason="not reached")
        self.sweep: tuple[SweepPoint, ...] = ()
        self.concurrency = inputs.plan.concurrency
        self.room = Room(inputs.plan.concurrency, inputs.plan.concurrency)
        self.repeats_done = 0
        self.failure: Note | None = None
        self.notes: list[Note] = list(inputs.notes)
        self.peak_rss_bytes = 0
        self.peak_device_bytes: int | None = None
        self.launches: dict[str, int] = {}
        self.check_s = self.repeat_s = 0.0
        self.captured_repeat = secrets.randbelow(max(1, inputs.repeats))
        self.longest = longest_turn(inputs.trace)
        self.first_state: DeviceState | None = None
        """Of the device before the first repeat."""
        self.seals = Seals(folder)
        self.metering = Metering(Picked())
        """Of the chip that the loaded process settled."""

    @property
    def alive(self) -> bool:
        """No step has failed."""
        return self.failure is None

    @cached_property
    def device(self) -> StateSource | None:
        """What tells the state of the device, which is asked for once it is loaded."""
        inputs = self.inputs
        return state_source(inputs.chip, inputs.plan.backend, choices=inputs.settings.meters)

    @property
    def simulated(self) -> bool:
        """A closed-form device on a virtual clock."""
        return is_simulated(self.inputs.plan.backend)

    def guard(self, step: Callable[[], None]) -> None:
        """Do a step unless the cell has failed; a failure costs this cell and no other."""
        if self.failure is not None:
            return
        try:
            step()
        except Exception as error:  # what a plug-in answers may be anything
            self.failure = Note(code=NoteCode.CELL_FAILED, text=reason_of(error))
            self.end()

    def prepare(self) -> None:
        """Make the folder, with the trace that the child reads."""
        self.folder.mkdir(parents=True)
        save_trace(self.inputs.trace, self.folder / "trace.npz")
        self.seals.add(self.folder / "trace.npz")

    def start(self) -> None:
        """Start a child for each replica and let it load; `finish_load` waits for them."""
        self._spread()
        self._start_children()

    def _start_children(self) -> None:
        self.child, *self.siblings = (self._started(index) for index in range(len(self.backends)))

    def _spread(self) -> bool:
        """Lay the cell out over the devices of its unit, as far as they are known by now; whether
        that is another layout than before."""
        plan, chip = self.inputs.plan, self.inputs.chip
        if self.answer is None and not has_name(chip):
            # One device is loaded to be asked, for the share that it is to have in the end.
            each = plan.concurrency // max(1, plan.replicas)
            self.room = Room(each, each)
            return False
        found = replicas_of(plan, chip)
        if found.why_fewer:
            self.take([Note(code=NoteCode.CELL, text=found.why_fewer)])
        if found.backends == self.backends:
            return False
        self.backends = found.backends
        self.room = Room(self.sessions_each, self.sessions_each)
        return True

    def _started(self, replica: int) -> ChildProcess:
        inputs, plan, settings = self.inputs, self.inputs.plan, self.inputs.settings
        scratch = self.folder / self.name_of("scratch", replica)
        scratch.mkdir(exist_ok=True)
        context = max(inputs.trace.max_context_tokens, inputs.parity_trace(()).max_context_tokens)
        spec = ChildSpec(
            backend=self.backends[replica],
            load=LoadSpec(
                model=inputs.in_use.spec
                if inputs.in_use
                else sim_load(inputs.model, inputs.trace.vocab_size),
                precision=plan.precision,
                n_seqs=self.room.sequences,
                max_context=context,
                kv_tokens=context * self.room.kv_sequences,
                max_chunk=settings.max_chunk,
                threads=settings.threads,
                scratch=str(scratch),
                options=plan.options,
            ),
            feedback=settings.feedback,
        )
        _LOG.debug("%s", spec.to_json())
        folder = self.folder / self.name_of("child", replica)
        child = ChildProcess(
            spec.to_json(), folder, settings.python, backend=self.backends[replica]
        )
        child.send_request(Load())
        return child

    @staticmethod
    def name_of(what: str, replica: int) -> str:
        """Name of a file or folder of a replica's own; the first has the plain one."""
        return f"{what}-{replica}" if replica else what

    def finish_load(self) -> None:
        """Wait until the children have loaded, compiled and warmed; then park them.

        A card that only its loaded process can name is laid out over its devices then, and loaded
        again. In the capacity scenario the plan's concurrency is only where the sweep ends, so
        what does not fit is loaded smaller. Raises DoesNotFitError where not one sequence fits.
        """
        self._wait_for_load()
        if self._spread():
            self.kill()
            self.answer = None
            self._start_children()
            self._wait_for_load()
        for child in self.children:
            child.park()
        self.take(replica_notes(self.backends, self.inputs.plan.concurrency, self.inputs.chip))
        self.take(child_remarks(self.loaded))

    def _wait_for_load(self) -> None:
        while self.answer is None:
            try:
                limit_s = self.inputs.settings.limits.load_s
                answers = [child.answer_to(Load(), limit_s) for child in self.children]
                for answer in answers:
                    check_loaded(answer)
                    self.note_memory(answer.peak_rss_bytes)
                self.answer = alike(answers)
            except DoesNotFitError as error:
                less = self.room.less(error.sequences)
                if less is None or self.inputs.plan.scenario != "capacity":
                    raise
                self.room = less
                self.kill()
                self._start_children()
        self._settle()

    def _settle(self) -> None:
        """Chip and meters, now that the loaded process has told which device it computes on."""
        inputs = self.inputs
        found = settle(inputs.plan.backend, inputs.chip, inputs.meters, self.loaded, inputs.pick)
        chip = found.chip
        if len(self.backends) > 1:
            chip = replace(chip, used=len(self.backends))
        self.notes = [note for note in self.notes if note not in found.stale]
        self.inputs = replace(inputs, chip=chip, meters=found.meters)
        # A simulated device tells its watts itself, on a clock of its own.
        self.metering = Metering(Picked() if self.simulated else found.meters)
        self.take(found.notes)

    def events(self) -> tuple[dict[str, Table], ...]:
        """Events of every repeat done, of each replica in turn; CellFailedError where any file of
        the cell was changed since it was written."""
        self.seals.check()
        return tuple(
            load_events(path / "events.npz")
            for index in range(self.repeats_done)
            for path in run_folders(self.folder / f"repeat-{index}")
        )

    @property
    def weights(self) -> Weights:
        """Whose logits the oracle computes for this cell; not of simulated ones."""
        in_use = self.inputs.in_use
        assert in_use is not None
        return Weights(
            in_use.spec, in_use.identity.source_hash, self.inputs.plan.precision, in_use.config
        )

    @property
    def class_name(self) -> str:
        """The class of precision, concluded from what the child says that it computes."""
        computed = self.loaded.precision
        return class_of(computed.weights, computed.activation, computed.kv)

    @property
    def idle_s(self) -> float:
        """Seconds that one measurement of idle power takes: 0 where nothing is measured."""
        meter = self.inputs.meters.meter
        measured = meter is not None and meter.info.source in ("counter", "polled", "wall")
        return self.inputs.settings.idle_s if measured and not self.simulated else 0.0

    def outcome(self) -> CellOutcome:
        """What has been measured so far, frozen."""
        return CellOutcome(
            inputs=self.inputs,
            loaded=self.answer,
            parity=self.parity,
            quality=self.quality,
            audit=self.audit,
            capacity=self.capacity,
            sweep=self.sweep,
            concurrency=self.concurrency,
            replicas=len(self.backends),
            repeats_done=self.repeats_done,
            failure=self.failure,
            notes=tuple(self.notes),
            peak_rss_bytes=self.peak_rss_bytes,
            peak_device_bytes=self.peak_device_bytes,
            launches=self.launches,
        )

    def power_files(self, of: Path) -> list[Path]:
        """Where the readings of all meters lie when those of the row's are in `of`."""
        beside = self.inputs.meters.beside
        return [of, *(of.with_name(f"{power_file(of.stem, m.info.name)}.npz") for m in beside)]

    def take(self, notes: Iterable[Note]) -> None:
        """Add what a stage has to say to the row, each note once."""
        self.notes += [note for note in notes if note not in self.notes]

    def end(self) -> None:
        """End the children that run, keep the ends of their logs, and free their scratch."""
        children = self.children
        self.child, self.siblings = None, []
        if not children:
            return
        for child in children:
            if self.failure is None:
                self._close(child)
            child.kill()
        try:
            (self.folder / "child.log").write_bytes(b"".join(c.log.tail() for c in children))
        except OSError as error:
            self.notes.append(Note(code=NoteCode.CELL, text=f"no child.log: {error.strerror}"))
        for scratch in self.folder.glob("scratch*"):
            shutil.rmtree(scratch, ignore_errors=True)

    def _close(self, child: ChildProcess) -> None:
        try:
            self.note_memory(child.close(self.inputs.settings.limits.close_s).peak_rss_bytes)
        except ChipmarkError as error:
            self.notes.append(Note(code=NoteCode.CELL, text=f"closing: {error.message}"))

    def kill(self) -> None:
        """End the children at once."""
        for child in self.children:
            child.kill()
        self.child, self.siblings = None, []

    @property
    def children(self) -> list[ChildProcess]:
        """Those of all replicas; none before the start and after the end."""
        return [] if self.child is None else [self.child, *self.siblings]

    @property
    def sessions_each(self) -> int:
        """Sessions at once of each replica."""
        return self.concurrency // len(self.backends)

    @property
    def loaded(self) -> LoadAnswer:
        """What the children answered to `load`, of a cell that has loaded."""
        assert self.answer is not None, "a step was asked of a cell that has not loaded"
        return self.answer

    def running(self, replica: int = 0) -> ChildProcess:
        """The child of a cell that was started and has not ended."""
        children = self.children
        assert children, "a step was asked of a cell without a child"
        return children[replica]

    def note_memory(self, peak_rss_bytes: int, peak_device_bytes: int | None = None) -> None:
        """Keep the largest resident memory that an answer of the child reports, and the most of
        the device's own, where it tells."""
        self.peak_rss_bytes = max(self.peak_rss_bytes, peak_rss_bytes)
        if peak_device_bytes is not None:
            self.peak_device_bytes = max(self.peak_device_bytes or 0, peak_device_bytes)

    def reference(self, trace: Trace, keys: Keys, rounded: str = "") -> Reference:
        """The oracle's logits at these places, what it had to say in the cell's notes."""
        found = self.references.of(self.weights, trace, keys, rounded)
        while self.references.remarks:
            self.notes.append(Note(code=NoteCode.CELL, text=self.references.remarks.pop()))
        return found
