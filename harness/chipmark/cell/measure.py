"""One cell from load to raw folder: what its child is asked, and what is kept of the answers."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from chipmark.cell import roofs, timing
from chipmark.cell.audit import longest_turn
from chipmark.cell.contexts import Keys
from chipmark.cell.inputs import CellInputs
from chipmark.cell.loaded import check_loaded
from chipmark.cell.parent import ChildProcess
from chipmark.cell.plugins import child_remarks
from chipmark.cell.reference import Reference, References, Weights
from chipmark.cell.room import Room
from chipmark.cell.seals import Seals
from chipmark.cell.settle import settle
from chipmark.cell.spec import ChildSpec
from chipmark.cell.workloads import sim_load
from chipmark.chips.throttle import throttle_notes, watch_for
from chipmark.codes import NoteCode
from chipmark.engine.computed import linear_input_of
from chipmark.engine.events import Table, load_events
from chipmark.errors import ChipmarkError, DoesNotFitError
from chipmark.meters.replay import save_samples
from chipmark.registry import is_simulated
from chipmark.results.manifest import (
    AuditResult,
    CapacityResult,
    Note,
    ParityResult,
    SweepPoint,
    Timing,
)
from chipmark.workload.trace import Trace, save_trace
from chipmark_models.precision import precision_class

IDLE_S = 31.0
"""Idle with the model loaded, before and after: the definition asks for 30 s."""


class MeasuredCell:
    """A cell while it is measured. A step that fails ends the child and leaves `failure`."""

    def __init__(self, inputs: CellInputs, folder: Path, references: References) -> None:
        self.inputs = inputs
        self.folder = folder
        self.references = references
        self.folder.mkdir(parents=True)
        self.child: ChildProcess | None = None
        self.loaded: dict[str, Any] = {}
        self.parity = ParityResult(verdict="unchecked", reason="not reached")
        self.capacity: CapacityResult | None = None
        self.audit = AuditResult(verdict="none", reason="not reached")
        self.sweep: list[SweepPoint] = []
        self.concurrency = inputs.plan.concurrency
        self.room = Room(inputs.plan.concurrency, inputs.plan.concurrency)
        self.repeats_done = 0
        self.failure: Note | None = None
        self.notes: list[Note] = list(inputs.notes)
        self.peak_rss_bytes = 0
        self.check_s = self.repeat_s = 0.0
        self.throttle: tuple[str, ...] | None = None
        self.captured_repeat = secrets.randbelow(max(1, inputs.repeats))
        self._capture = longest_turn(inputs.trace)
        self.seals = Seals(folder)
        save_trace(inputs.trace, folder / "trace.npz")
        self.seals.add(folder / "trace.npz")

    @property
    def alive(self) -> bool:
        """No step has failed."""
        return self.failure is None

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
        except (ChipmarkError, OSError) as error:
            self.failure = Note(code=NoteCode.CELL_FAILED, text=str(error))
            self.end()

    def start(self) -> None:
        """Start the child and let it load; `finish_load` waits for it."""
        inputs, plan = self.inputs, self.inputs.plan
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        context = max(inputs.trace.max_context_tokens, inputs.parity_trace(()).max_context_tokens)
        spec = ChildSpec(
            backend=plan.backend,
            model=inputs.in_use.spec
            if inputs.in_use
            else sim_load(inputs.model, inputs.trace.vocab_size),
            precision=plan.precision,
            n_seqs=self.room.sequences,
            max_context=context,
            kv_tokens=context * self.room.kv_sequences,
            max_chunk=inputs.max_chunk,
            threads=inputs.threads,
            feedback=inputs.feedback,
            scratch=str(scratch),
        )
        self.child = ChildProcess(spec.to_json(), self.folder / "child", inputs.python)
        self.child.send("load")

    def finish_load(self) -> None:
        """Wait until the child has loaded, compiled and warmed; then park it.

        In the capacity scenario the plan's concurrency is only where the sweep ends, so what does
        not fit is loaded smaller. Raises DoesNotFitError where not one sequence fits.
        """
        while not self.loaded:
            try:
                answer = self.running().answer(self.inputs.limits.load_s)
                check_loaded(answer)
                self.loaded = answer
            except DoesNotFitError as error:
                less = self.room.less(error.sequences)
                if less is None or self.inputs.plan.scenario != "capacity":
                    raise
                self.room = less
                self.kill()
                self.start()
        self.note_memory(self.loaded)
        self.running().park()
        self._settle()
        self.notes += [n for n in child_remarks(self.loaded) if n not in self.notes]

    def _settle(self) -> None:
        """Chip and meter, now that the loaded process has told which device it computes on."""
        inputs = self.inputs
        found = settle(
            inputs.plan.backend, inputs.chip, inputs.meter, self.loaded, inputs.pick_meter
        )
        self.inputs = replace(inputs, chip=found.chip, meter=found.meter)
        self.notes += [note for note in found.notes if note not in self.notes]

    @property
    def idle_s(self) -> float:
        """Seconds that one `idle` takes: 0 where nothing is measured."""
        meter = self.inputs.meter
        measured = meter is not None and meter.info.source in ("counter", "polled")
        return IDLE_S if measured and not self.simulated else 0.0

    def idle(self, name: str) -> None:
        """Meter the loaded, idle device; only where something is measured."""
        meter = self.inputs.meter
        if meter is None or not self.idle_s:
            return
        child = self.running()
        child.wake()
        meter.start()
        child.ask("idle", IDLE_S + self.inputs.limits.grace_s, seconds=IDLE_S)
        samples = self.folder / f"idle-{name}.npz"
        save_samples(samples, meter.stop())
        self.seals.add(samples)
        child.park()

    def repeat(self, index: int) -> None:
        """One timed repeat between two probes, metered; raw files go to `repeat-INDEX`."""
        child, inputs, began = self.running(), self.inputs, time.monotonic()
        target = self.folder / f"repeat-{index}"
        target.mkdir()
        plan = roofs.roof_plan(
            inputs.chip,
            self.loaded,
            inputs.trace,
            inputs.plan.precision,
            self.concurrency,
            inputs.threads,
        )
        before = roofs.probe(child, plan)
        # With sampled feedback the contexts are not the trace's, so there is nothing to compare.
        captures = index == self.captured_repeat and inputs.feedback == "forced"
        arguments = self.run_arguments(target / "events.npz", self.concurrency)
        if captures and self._capture is not None and inputs.in_use is not None:
            arguments |= {
                "capture_session": self._capture[0],
                "capture_turn": self._capture[1],
                "captured": str(self.folder / "captured.npz"),
            }
        timed = self.timed_run(arguments, target / "power.npz")
        timed = timed.model_copy(update={"throttle": self.throttle})
        (target / "timing.json").write_text(timed.model_dump_json(indent=1), encoding="utf-8")
        self.seals.add(*(target / name for name in ("events.npz", "power.npz", "timing.json")))
        if captures:
            self.seals.add(self.folder / "captured.npz")
        if not self.simulated:
            seen = throttle_notes(self.throttle, inputs.chip.name)
            self.notes += [Note(code=code, text=text) for code, text in seen]
        after = roofs.probe(child, plan)
        child.park()
        probes = roofs.bracket(plan, before, after)
        self.notes += roofs.size_notes(probes)
        (target / "probes.json").write_text(probes.model_dump_json(indent=1), encoding="utf-8")
        self.seals.add(target / "probes.json")
        self.repeats_done = index + 1
        self.repeat_s = max(self.repeat_s, time.monotonic() - began)

    def timed_run(self, arguments: dict[str, Any], power: Path) -> Timing:
        """One `run` of the child with meter and throttle watch running, by this process's clock;
        the meter's samples go to `power`, the throttle reasons seen to `throttle`."""
        limits = self.inputs.limits
        meter = None if self.simulated else self.inputs.meter
        if self.simulated:
            arguments = arguments | {"power": str(power)}
        watch = watch_for(self.inputs.chip)
        if meter is not None:
            meter.start()
        if watch is not None:
            watch.start()
        try:
            answer, timed = timing.timed_run(
                self.running(), limits.run_s + limits.grace_s, arguments
            )
        finally:
            self.throttle = watch.stop() if watch is not None else None
            samples = meter.stop() if meter is not None else None
        if samples is not None:
            save_samples(power, samples)
        self.note_memory(answer)
        return timed

    def run_arguments(self, events: Path, concurrency: int) -> dict[str, Any]:
        """What a `run` command says whatever the repeat."""
        return {
            "trace": str(self.folder / "trace.npz"),
            "events": str(events),
            "concurrency": concurrency,
            "scenario": self.inputs.plan.scenario,
            "deadline_s": self.inputs.limits.run_s,
        }

    def events(self) -> tuple[dict[str, Table], ...]:
        """Events of every repeat done; CellFailedError where any file of the cell was changed
        since it was written."""
        self.seals.check()
        return tuple(
            load_events(self.folder / f"repeat-{index}" / "events.npz")
            for index in range(self.repeats_done)
        )

    @property
    def weights(self) -> Weights:
        """Whose logits the oracle computes for this cell; not of simulated ones."""
        in_use = self.inputs.in_use
        assert in_use is not None
        return Weights(in_use.spec, in_use.identity.source_hash, self.inputs.plan.precision)

    @property
    def class_name(self) -> str:
        """The class of precision, concluded from what the child says that it computes."""
        computed = self.loaded["precision"]
        taken = linear_input_of(str(computed["activation"]))
        return precision_class(computed["weights"], taken, computed["kv"])

    def end(self) -> None:
        """End the child if it runs, keep the end of its log, and free its scratch."""
        child, self.child = self.child, None
        if child is None:
            return
        if self.failure is None:
            try:
                self.note_memory(child.close())
            except ChipmarkError as error:
                self.notes.append(Note(code=NoteCode.CELL, text=f"closing: {error.message}"))
        child.kill()
        (self.folder / "child.log").write_bytes(child.log.tail())
        shutil.rmtree(self.folder / "scratch", ignore_errors=True)

    def kill(self) -> None:
        """End the child at once."""
        if self.child is not None:
            self.child.kill()
            self.child = None

    def running(self) -> ChildProcess:
        """The child of a cell that was started and has not ended."""
        assert self.child is not None, "a step was asked of a cell without a child"
        return self.child

    def note_memory(self, answer: Mapping[str, Any]) -> None:
        """Keep the largest resident memory that an answer of the child reports."""
        self.peak_rss_bytes = max(self.peak_rss_bytes, int(answer.get("peak_rss_bytes") or 0))

    def reference(self, trace: Trace, keys: Keys, rounded: str = "") -> Reference:
        """The oracle's logits at these places, what it had to say in the cell's notes."""
        found = self.references.of(self.weights, trace, keys, rounded)
        while self.references.remarks:
            self.notes.append(Note(code=NoteCode.CELL, text=self.references.remarks.pop()))
        return found
