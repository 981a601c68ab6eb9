"""A whole suite: cells loaded, measured in turns, and written as records one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from chipmark.cell import stages
from chipmark.cell.assemble import assemble
from chipmark.cell.audit import SHARE_OF_BUDGET
from chipmark.cell.audit_cells import audit_cells
from chipmark.cell.folder import StoredCells, check_output, scratch, stored_cells
from chipmark.cell.idle import IdleOfLoaded
from chipmark.cell.lock import locked
from chipmark.cell.measure import MeasuredCell, reason_of
from chipmark.cell.more_repeats import add_repeats, share_of
from chipmark.cell.pace import Pace
from chipmark.cell.prepare import Preparation, PreparedCell
from chipmark.cell.reference import References
from chipmark.cell.reporter import Reporter
from chipmark.cell.settings import RunOptions
from chipmark.cell.suite import Suite, groups, order_of
from chipmark.log import logger_of
from chipmark.metrics.ranking import MIN_REPEATS
from chipmark.results.write import record_raw
from chipmark_models.cache import writable_cache

_LOG = logger_of(__name__)


@dataclass(frozen=True, slots=True)
class RunReport:
    """Records written (those of failed cells too) and titles of cells skipped or failed, these with
    the reason. left: titles of cells that the time did not allow to begin."""

    written: tuple[Path, ...]
    skipped: tuple[str, ...]
    failed: tuple[str, ...]
    left: tuple[str, ...] = ()


def run_suite(suite: Suite, out: Path, options: RunOptions, reporter: Reporter) -> RunReport:
    """Measure every cell whose record is not in `out` yet.

    All input is checked before the first child starts; weights are prepared when their cells come.
    A cell that fails leaves a record that says why; the others continue. Where the suite gives
    estimates, no cell is begun that would not end within its budget. Raises ChipmarkError for bad
    input, and where another run measures into the folder.
    """
    check_output(out)
    with locked(out, reporter.say) as alone:
        return _run_suite(suite, out, options, reporter, alone)


def _run_suite(
    suite: Suite, out: Path, options: RunOptions, reporter: Reporter, alone: bool
) -> RunReport:
    options = options.of_suite(
        suite.slo, suite.idle_s, suite.limit_s, suite.meters, suite.idle_once
    )
    until_s = time.monotonic() + suite.budget_s
    before = stored_cells(out, options.limits.run_s)
    prepared = Preparation(options, reporter)
    prepared.check(suite.cells)
    batches = groups(suite)
    pace = Pace(options.idle_s if options.idle_once else 0.0)
    idle = IdleOfLoaded()
    written: list[Path] = []
    skipped: list[str] = []
    failed: list[str] = []
    left: list[str] = []
    with (
        scratch(out, alone=alone) as folder,
        References(
            writable_cache(),
            folder / "oracle",
            options.references,
            limit_s=options.limits.oracle_s,
            accelerator=options.oracle_device,
        ) as references,
    ):
        for number, batch in enumerate(batches):
            plans = []
            for plan in batch:
                key = prepared.key(plan, suite.repeats)
                _LOG.info("%s: resume key %s", plan.title, key)
                if key in before.done:
                    skipped.append(plan.title)
                    reporter.say(f"{plan.title}: its record is here already; skipped")
                else:
                    plans.append(plan)
            if why := pace.too_long(plans, until_s - time.monotonic()):
                left += [plan.title for plan in plans]
                reporter.say(f"{', '.join(plan.title for plan in plans)}: {why}; left")
                continue
            began = time.monotonic()
            todo = [prepared.cell(plan, suite.repeats) for plan in plans]
            cells = [
                MeasuredCell(item.inputs, folder / f"{number}-{index}", references)
                for index, item in enumerate(todo)
            ]
            try:
                group_until_s = share_of(until_s, time.monotonic(), len(batches) - number)
                _measure(cells, suite.repeats, group_until_s, options, reporter, idle)
                for cell, item in zip(cells, todo, strict=True):
                    title = item.inputs.plan.title
                    cell.guard(cell.seals.check)
                    failure = cell.failure.text if cell.failure else ""
                    try:
                        written.append(_write(cell, item, out, options, before))
                    except Exception as error:
                        # A full disk, or answers of a plug-in that cannot be: this cell's matter.
                        failure = f"{failure}; no record: {reason_of(error)}".removeprefix("; ")
                    if failure:
                        failed.append(f"{title}: {failure}")
                        reporter.say(f"{title}: FAILED: {failure}")
            finally:
                for cell in cells:
                    cell.kill()
            if all(cell.alive for cell in cells):
                pace.took(plans, time.monotonic() - began)
    return RunReport(tuple(written), tuple(skipped), tuple(failed), tuple(left))


def _write(
    cell: MeasuredCell, item: PreparedCell, out: Path, options: RunOptions, before: StoredCells
) -> Path:
    kept = options.kept(item.inputs.plan.options)
    manifest = assemble(cell.outcome(), item.key, kept)
    text = manifest.model_dump_json(by_alias=True, indent=1)
    (cell.folder / "cell.json").write_text(text, encoding="utf-8")
    path = record_raw(out, cell.folder)
    before.drop_failed(item.key)
    return path


def _measure(
    cells: Sequence[MeasuredCell],
    repeats: int,
    until_s: float,
    options: RunOptions,
    reporter: Reporter,
    idle: IdleOfLoaded,
) -> None:
    """Load, check, repeat in rotating order, add repeats until `until_s` (of the monotonic clock)
    where intervals are wide, end; then audit what was done."""
    reporter.steps(len(cells) * (repeats + 2))

    def each(text: str, step: Callable[[MeasuredCell], None], order: Sequence[int]) -> None:
        for index in order:
            cell = cells[index]
            if cell.alive:
                reporter.stage(f"{cell.inputs.plan.title}: {text}")
                _LOG.info("%s: %s", cell.inputs.plan.title, text)
                cell.guard(partial(step, cell))

    forward = range(len(cells))
    _load(cells, reporter)
    each("parity against the oracle", stages.parity, forward)
    quantised = [i for i in forward if cells[i].inputs.no_quality is None]
    each("perplexity against the source's weights", stages.quality, quantised)
    for cell in cells:
        cell.references.rest()
        reporter.step()
    if cells and cells[0].inputs.plan.scenario == "capacity":
        each("sweep over the number of sessions", stages.sweep, forward)
    if options.idle_once:
        each("idle power", partial(stages.idle_once, known=idle), forward)
    else:
        each("idle power before", stages.idle_before, forward)

    def once(repeat: int, which: Sequence[int], text: str) -> None:
        for index in order_of(repeat, len(cells)):
            if index not in which:
                continue
            if options.fresh and repeat > 0:
                each("a fresh process", stages.restart, [index])
            each(text, stages.repeat, [index])
            reporter.step()

    for repeat in range(repeats):
        once(repeat, forward, f"repeat {repeat + 1} of {repeats}")
    audited = any(not cell.simulated for cell in cells)
    audit_s = SHARE_OF_BUDGET * options.limits.audit_s if audited else 0.0
    if repeats >= MIN_REPEATS:
        # Who asks for fewer has asked for no rank, and one more would not give one.
        add_repeats(cells, until_s, once, audit_s=audit_s, idle_after=not options.idle_once)
    if not options.idle_once:
        each("idle power after", stages.idle_after, forward)
    for cell in cells:
        cell.end()
    reporter.stage("audit against the oracle")
    audit_cells(cells, options.limits.audit_s)
    for cell in cells:
        cell.references.rest()


def _load(cells: Sequence[MeasuredCell], reporter: Reporter) -> None:
    """Load all; the next child starts while the one before loads, as nothing is timed yet."""
    started = 0
    for index, cell in enumerate(cells):
        while started < min(index + 2, len(cells)):
            cells[started].guard(cells[started].prepare)
            cells[started].guard(cells[started].start)
            started += 1
        reporter.stage(f"{cell.inputs.plan.title}: loading, compiling, warming")
        _LOG.info("%s: loading, compiling, warming", cell.inputs.plan.title)
        cell.guard(cell.finish_load)
        reporter.step()
