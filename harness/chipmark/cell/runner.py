"""A whole suite: cells loaded, measured in turns, and written as records one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from chipmark.cell.assemble import assemble
from chipmark.cell.audit import SHARE_OF_BUDGET
from chipmark.cell.audit_cells import audit_cells
from chipmark.cell.folder import Held, cell_key, check_output, held, scratch
from chipmark.cell.inputs import CellInputs, Limits
from chipmark.cell.measure import MeasuredCell
from chipmark.cell.more_repeats import add_repeats, share_of
from chipmark.cell.parity_check import check_parity
from chipmark.cell.reference import References
from chipmark.cell.settle import is_open
from chipmark.cell.suite import CellPlan, Suite, groups, order_of
from chipmark.cell.sweep import sweep
from chipmark.cell.workloads import (
    ModelInUse,
    check_source,
    find_model,
    prepare_model,
    sim_config,
    sim_model,
    trace_of,
)
from chipmark.chips.catalogue import catalogue, catalogue_name
from chipmark.chips.contract import ChipIdentity
from chipmark.chips.detect import chip_of
from chipmark.chips.nameplate import nameplate, unit_nameplate_w
from chipmark.codes import NoteCode
from chipmark.engine.lanes import check_closed_loop
from chipmark.engine.plugins import needs_weights_file
from chipmark.errors import ChipmarkError
from chipmark.meters.contract import Meter, Scope
from chipmark.meters.pick import pick_meter
from chipmark.meters.replay import ReplayMeter, sim_info
from chipmark.meters.request import AssumedPower, MeterRequest
from chipmark.metrics.ranking import MIN_REPEATS
from chipmark.registry import is_simulated, split_backend
from chipmark.results.manifest import Note, Slo
from chipmark.results.store import write_record
from chipmark.workload.trace import Trace
from chipmark_models.weights.prepared import cache_folder
from chipmark_models.weights.source import WeightRef


class Reporter(Protocol):
    """Who is told how a run goes. `say` stays on the screen, `stage` is replaced by the next."""

    def say(self, text: str) -> None:
        """A fact that the user must keep: what was left out, skipped, or failed."""
        ...

    def stage(self, text: str) -> None:
        """What is being done now."""
        ...

    def steps(self, total: int) -> None:
        """So many steps are ahead."""
        ...

    def step(self) -> None:
        """One step is done."""
        ...


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Choices that hold for all cells of a run."""

    seed: int = 0
    feedback: Literal["forced", "sampled"] = "forced"
    threads: int = 0
    power_w: float | None = None
    python: str = ""
    fresh: bool = False
    max_chunk: int = 256
    slo: Slo = field(default_factory=Slo)
    limits: Limits = field(default_factory=Limits)
    references: tuple[Path, ...] = ()
    """Files of reference logits that were computed elsewhere."""

    def kept(self) -> dict[str, Any]:
        """What a record keeps of them, and what makes two cells the same measurement."""
        return {
            "seed": self.seed,
            "feedback": self.feedback,
            "threads": self.threads,
            "power_w": self.power_w,
            "python": self.python,
            "fresh": self.fresh,
            "max_chunk": self.max_chunk,
        }


@dataclass(frozen=True, slots=True)
class RunReport:
    """Records written (those of failed cells too) and titles of cells skipped or failed."""

    written: tuple[Path, ...]
    skipped: tuple[str, ...]
    failed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Prepared:
    inputs: CellInputs
    key: str


def run_suite(suite: Suite, out: Path, options: RunOptions, reporter: Reporter) -> RunReport:
    """Measure every cell whose record is not in `out` yet.

    All input is checked, and the weights prepared, before the first child starts. A cell that
    fails leaves a record that says why; the others go on. Raises ChipmarkError for bad input.
    """
    check_output(out)
    until_s = time.monotonic() + suite.budget_s
    before = held(out)
    prepared = _Preparation(options, reporter)
    for plan in suite.cells:
        if plan.scenario == "capacity":
            check_closed_loop(prepared.trace(plan))
    batches = [[prepared.cell(plan, suite.repeats) for plan in group] for group in groups(suite)]
    written: list[Path] = []
    skipped: list[str] = []
    failed: list[str] = []
    with (
        scratch(out) as folder,
        References(cache_folder(), folder / "oracle", options.references) as references,
    ):
        for number, batch in enumerate(batches):
            for item in batch:
                if item.key in before.done:
                    skipped.append(item.inputs.plan.title)
                    reporter.say(f"{item.inputs.plan.title}: its record is here already; skipped")
            todo = [item for item in batch if item.key not in before.done]
            cells = [
                MeasuredCell(item.inputs, folder / f"{number}-{index}", references)
                for index, item in enumerate(todo)
            ]
            try:
                group_until_s = share_of(until_s, time.monotonic(), len(batches) - number)
                _measure(cells, suite.repeats, group_until_s, options, reporter)
                for cell, item in zip(cells, todo, strict=True):
                    title = item.inputs.plan.title
                    cell.guard(cell.seals.check)
                    failure = cell.failure.text if cell.failure else ""
                    try:
                        written.append(_write(cell, item, out, options, before))
                    except (OSError, ChipmarkError) as error:
                        # A full disk, or events that contradict themselves: this cell's matter.
                        failure = f"{failure}; no record: {error}".removeprefix("; ")
                    if failure:
                        failed.append(title)
                        reporter.say(f"{title}: FAILED: {failure}")
            finally:
                for cell in cells:
                    cell.kill()
    return RunReport(tuple(written), tuple(skipped), tuple(failed))


def _write(
    cell: MeasuredCell, item: _Prepared, out: Path, options: RunOptions, before: Held
) -> Path:
    manifest = assemble(cell, cell.inputs.chip, item.key, options.kept())
    text = manifest.model_dump_json(by_alias=True, indent=1)
    (cell.folder / "cell.json").write_text(text, encoding="utf-8")
    path = write_record(out, cell.folder)
    before.drop_failed(item.key)
    return path


def _measure(
    cells: Sequence[MeasuredCell],
    repeats: int,
    until_s: float,
    options: RunOptions,
    reporter: Reporter,
) -> None:
    """Load, check, repeat in rotating order, add repeats until `until_s` (of the monotonic clock)
    where intervals are wide, end; then audit what was done."""
    reporter.steps(len(cells) * (repeats + 2))

    def each(text: str, step: Callable[[MeasuredCell], None], order: Sequence[int]) -> None:
        for index in order:
            cell = cells[index]
            if cell.alive:
                reporter.stage(f"{cell.inputs.plan.title}: {text}")
                cell.guard(lambda cell=cell: step(cell))  # type: ignore[misc]

    forward = range(len(cells))
    _load(cells, reporter)
    each("parity against the oracle", check_parity, forward)
    for _ in cells:
        reporter.step()
    if cells and cells[0].inputs.plan.scenario == "capacity":
        each("sweep over the number of sessions", sweep, forward)
    each("idle power before", lambda cell: cell.idle("before"), forward)

    def once(repeat: int, which: Sequence[int], text: str) -> None:
        for index in order_of(repeat, len(cells)):
            if index not in which:
                continue
            if options.fresh and repeat > 0:
                each("a fresh process", _restart, [index])
            each(text, lambda cell: cell.repeat(cell.repeats_done), [index])
            reporter.step()

    for repeat in range(repeats):
        once(repeat, forward, f"repeat {repeat + 1} of {repeats}")
    audited = any(not cell.simulated for cell in cells)
    audit_s = SHARE_OF_BUDGET * options.limits.audit_s if audited else 0.0
    if repeats >= MIN_REPEATS:
        # Who asks for fewer has asked for no rank, and one more would not give one.
        add_repeats(cells, until_s, once, audit_s=audit_s)
    each("idle power after", lambda cell: cell.idle("after"), forward)
    for cell in cells:
        cell.end()
    reporter.stage("audit against the oracle")
    audit_cells(cells, options.limits.audit_s)


def _load(cells: Sequence[MeasuredCell], reporter: Reporter) -> None:
    """Load all; the next child starts while the one before loads, as nothing is timed yet."""
    started = 0
    for index, cell in enumerate(cells):
        while started < min(index + 2, len(cells)):
            cells[started].guard(cells[started].start)
            started += 1
        reporter.stage(f"{cell.inputs.plan.title}: loading, compiling, warming")
        cell.guard(cell.finish_load)
        reporter.step()


def _restart(cell: MeasuredCell) -> None:
    if cell.child is not None:
        cell.child.close()
    cell.loaded = {}
    cell.start()
    cell.finish_load()


class _Preparation:
    """Traces, weights, chips and meters of cells, each made once."""

    def __init__(self, options: RunOptions, reporter: Reporter) -> None:
        self._options, self._reporter = options, reporter
        self._refs: dict[str, WeightRef] = {}
        self._models: dict[tuple[str, str, bool], ModelInUse] = {}
        self._traces: dict[tuple[object, ...], Trace] = {}

    def cell(self, plan: CellPlan, repeats: int) -> _Prepared:
        """Everything a cell needs before its child starts."""
        options = self._options
        device = split_backend(plan.backend)[1]
        simulated = is_simulated(plan.backend)
        ref = self._ref_of(plan)
        trace = self.trace(plan)
        in_use = None if simulated or ref is None else self._model(ref, plan)
        identity = sim_model(plan.model) if in_use is None else in_use.identity
        chip = chip_of(plan.backend)
        notes: list[Note] = []
        meter: Meter | None = ReplayMeter(sim_info(device))

        def pick(chip: ChipIdentity) -> tuple[Meter | None, tuple[str, ...]]:
            return pick_meter(meter_request(chip, device, options.power_w))

        if not simulated:
            # A card that is not known yet is metered as soon as the loaded process tells it.
            meter, remarks = (None, ()) if is_open(chip) else pick(chip)
            notes += [Note(code=NoteCode.METER, text=text) for text in remarks]
        entry = catalogue().cpus.get(catalogue_name(chip.name))
        if entry is not None and entry.assumed:
            notes.append(Note(code=NoteCode.CHIP_BY_ASSUMPTION, text="; ".join(chip.evidence)))
        key = cell_key(
            {
                "backend": plan.backend,
                "model": identity.source_hash,
                "precision": plan.precision,
                "trace": trace.hash,
                "scenario": plan.scenario,
                "concurrency": plan.concurrency,
                "repeats": repeats,
                "chip": [chip.name, chip.device_name, chip.identity],
                "slo": options.slo.model_dump(),
                "run_s": options.limits.run_s,
                **options.kept(),
            }
        )
        inputs = CellInputs(
            plan=plan,
            trace=trace,
            model=identity,
            in_use=in_use,
            chip=chip,
            meter=meter,
            slo=options.slo,
            repeats=repeats,
            feedback=options.feedback,
            threads=options.threads,
            python=options.python,
            max_chunk=options.max_chunk,
            limits=options.limits,
            notes=tuple(notes),
            pick_meter=pick,
        )
        return _Prepared(inputs, key)

    def trace(self, plan: CellPlan) -> Trace:
        """The trace of a cell, for which weights are looked at but not prepared."""
        key = (plan.kind, plan.workload, plan.scale, plan.sessions, plan.model)
        if key not in self._traces:
            ref = self._ref_of(plan)
            config = check_source(ref) if ref else sim_config(plan.model)
            self._traces[key] = trace_of(plan, ref, config, self._options.seed)
        return self._traces[key]

    def _ref_of(self, plan: CellPlan) -> WeightRef | None:
        simulated = is_simulated(plan.backend)
        return None if simulated and plan.kind != "transcript" else self._ref(plan.model)

    def _ref(self, name: str) -> WeightRef:
        if name not in self._refs:
            self._refs[name] = find_model(name, self._options.seed, self._reporter.stage)
        return self._refs[name]

    def _model(self, ref: WeightRef, plan: CellPlan) -> ModelInUse:
        key = (plan.model, plan.precision, needs_weights_file(plan.backend))
        if key not in self._models:
            self._models[key] = prepare_model(
                ref, plan.precision, plan.backend, self._reporter.stage
            )
        return self._models[key]


def meter_request(chip: ChipIdentity, device: str, power_w: float | None) -> MeterRequest:
    """What a meter of this chip is asked for, with what its nameplate allows."""
    plate = nameplate(chip)
    assumed = None
    if plate is not None:
        scope: Scope = "cpu-share" if chip.unit == "cpu-share" else "package"
        covers = f"{chip.used} vCPUs" if chip.unit == "cpu-share" else f"{chip.used} packages"
        assumed = AssumedPower(plate.power_w, scope, covers, plate.method)
    return MeterRequest(
        chip.vendor,
        chip.unit,
        device,
        power_w,
        assumed,
        nameplate_w=unit_nameplate_w(chip),
        key=chip.key,
    )
