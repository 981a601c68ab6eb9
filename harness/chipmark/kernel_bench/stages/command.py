"""`scripts/gpu`, which is `chipmark kernels stages`: what a short stay on a card is used for.

Stage 1: does it run, what are the roofs, where does the time go. Stage 2: designs against each
other in the whole step, tiles. Stage 3: records of whole models.

Steps are done in order of value, and none is begun that does not fit the rest of the budget. Each
figure is saved when it is made, so the same call again resumes; `--plan` prints what every call
would do, without a GPU.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.markup import escape

from chipmark.errors import ChipmarkError, UsageError
from chipmark.kernel_bench.presence import missing_device
from chipmark.kernel_bench.stages.contract import Stage, StageStep
from chipmark.kernel_bench.stages.document import Entry, StageFile, State, opened, read
from chipmark.kernel_bench.stages.pack import NAME, Pack, seed
from chipmark.kernel_bench.stages.plan import all_steps, chosen, with_wheels
from chipmark.kernel_bench.stages.runner import Call, run, wanted
from chipmark.kernel_bench.stages.show import (
    plan_json,
    planned,
    print_plan,
    print_results,
    results_json,
)
from chipmark.kernel_bench.stages.sources import code_of
from chipmark.kernel_bench.supervisor import Worker
from chipmark.processes import undisturbed
from chipmark.terminal.console import emit_json, reporting, show_error, stderr, stdout

BENCH = "chipmark.kernel_bench.stages.bench:CudaStageBench"
END_S = 8.0
"""Seconds of the budget that are kept for the archive, the table and the end of the process."""

_EPILOG = """examples:
  scripts/gpu --plan                        what each call would do; needs no GPU
  scripts/gpu                               the first stage that is not done; again, to resume
  scripts/gpu --stage 2 --budget-s 300      designs and tiles, five minutes
  scripts/gpu --only smoke,roofs            these steps alone
  scripts/gpu --retry                       what failed or was late, again
  scripts/gpu --from results.tar.gz         resume on a machine that has nothing of it
  scripts/gpu --wheels carried/             with packages for stage 3 that were carried here

exit codes: 0 every step asked for is done; 1 one failed; 2 wrong usage or a broken file; 3 no GPU,
or steps are left: call again; 130 interrupted, what was measured stands."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chipmark kernels stages", description=__doc__, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--stage", type=int, choices=[int(s) for s in Stage],
        help="default: the first that is not done, then the next while time lasts")  # fmt: skip
    add("--budget-s", type=float, default=540.0, help="end before this; default: %(default)s")
    add("-o", "--out", type=Path, default=Path("runs/gpu"), metavar="DIR",
        help="results, flat: stage-N.json and what steps leave; default: %(default)s")  # fmt: skip
    add("--pack", type=Path, metavar="FILE", help=f"all of DIR in one file; default: DIR/{NAME}")
    add("--from", dest="source", type=Path, metavar="DIR|FILE",
        help="results of an earlier call, or their archive, where DIR has none")  # fmt: skip
    add("--wheels", type=Path, metavar="DIR",
        help="packages that stage 3 lacks here, as `kernels wheels` collects them")  # fmt: skip
    add("--plan", action="store_true", help="print what would be done; measures nothing")
    add("--only", default="", metavar="KEY[,KEY]", help="these steps; --plan lists them")
    add("--retry", action="store_true", help="try again what failed or was late in earlier calls")
    add("--format", choices=("rich", "json"), default="rich", help="of what is printed on stdout")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """As the epilog of `--help` says."""
    begun = time.monotonic()
    options = _parser().parse_args(argv)
    # A `timeout` around the call ends it as Ctrl-C does: nothing half-written, no process left.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if not options.budget_s > END_S:
            raise UsageError(f"--budget-s {options.budget_s:g}: a call needs over {END_S:g} s")
        only = [key for key in options.only.split(",") if key]
        stage = Stage(options.stage) if options.stage else None
        steps = with_wheels(chosen(all_steps(), stage, only), options.wheels)
        code = {step.key: code_of(step) for step in steps}
        if options.source is not None:
            seed(options.out, options.source)
        if options.plan:
            return _plan(options, steps, code)
        if missing := missing_device():
            stderr().print(missing)
            return 3
        return _measure(options, steps, code, begun + options.budget_s - END_S)
    except ChipmarkError as error:
        show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        stderr().print("interrupted; what was measured stands")
        return 130


def _plan(options: argparse.Namespace, steps: Sequence[StageStep], code: Mapping[str, str]) -> int:
    files = {stage: read(options.out, stage) for stage in Stage}
    entries = _entries(steps, files, code)
    plan = planned(steps, entries, options.budget_s - END_S, options.retry)
    if options.format == "json":
        emit_json({"folder": str(options.out), **plan_json(plan, options.budget_s)})
    else:
        print_plan(plan, options.budget_s, stdout())
    return 0


def _measure(
    options: argparse.Namespace,
    steps: Sequence[StageStep],
    code: Mapping[str, str],
    until_s: float,
) -> int:
    pack = Pack(options.out, options.pack or options.out / NAME)
    with Processes() as processes, reporting() as reporter:
        identity = dict(processes.identity(_first(options, steps, code)))
        files = {stage: opened(options.out, stage, identity) for stage in Stage}
        call = Call(
            processes.of, files, code, options.out, reporter, until_s,
            str(identity.get("uuid", "")), options.retry, lambda: _tell(pack.refresh()),
        )  # fmt: skip
        reporter.steps(sum(wanted(s, call.entry(s), call.retry) for s in steps))
        with _packed_at_the_end(pack):
            left = run(call, steps)
    return _report(options, steps, files, code, left, identity)


def _first(
    options: argparse.Namespace, steps: Sequence[StageStep], code: Mapping[str, str]
) -> StageStep | None:
    """For which step a process is started first: its variables are not those of every step."""
    files = {stage: read(options.out, stage) for stage in Stage}
    entries = _entries(steps, files, code)
    todo = [s for s, e in zip(steps, entries, strict=True) if wanted(s, e, options.retry)]
    return next(iter((*todo, *steps)), None)


@contextmanager
def _packed_at_the_end(pack: Pack) -> Iterator[None]:
    """Also of a call that is interrupted: the archive may be all that is handed back."""
    try:
        yield
    finally:
        with undisturbed():
            _tell(pack.write())


def _tell(left_out: Sequence[str]) -> None:
    if left_out:
        stderr().print(f"gpu: too large for the archive: {escape(', '.join(left_out))}")


class Processes:
    """One measuring process at a time, with the variables of the step that it is for."""

    def __init__(self) -> None:
        self._worker = Worker(BENCH, {})

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.stop()

    def identity(self, first: StageStep | None) -> Mapping[str, Any]:
        """Start it for the first step. Raises MissingBackendError where it cannot measure."""
        if first is not None:
            self.of(first)
        self._worker.start()
        return self._worker.identity

    def of(self, step: StageStep) -> Worker:
        """The process for a step: the one that there is, or, for other variables, one that starts
        when it is first asked."""
        if dict(step.environment) != dict(self._worker.environment):
            self._worker.stop()
            self._worker = Worker(BENCH, {}, dict(step.environment))
        return self._worker


def _entries(
    steps: Sequence[StageStep], files: Mapping[Stage, StageFile], code: Mapping[str, str]
) -> list[Entry]:
    return [files[step.stage].entry(step, code[step.key]) for step in steps]


def _report(
    options: argparse.Namespace,
    steps: Sequence[StageStep],
    files: Mapping[Stage, StageFile],
    code: Mapping[str, str],
    left: Sequence[StageStep],
    identity: Mapping[str, Any],
) -> int:
    entries = _entries(steps, files, code)
    exit_code = 3 if left else int(any(e.state is State.FAILED for e in entries))
    if options.format == "json":
        emit_json({
            "folder": str(options.out), "identity": identity, "exit_code": exit_code,
            "left": [step.key for step in left], "steps": results_json(steps, entries),
        })  # fmt: skip
        return exit_code
    title = (
        f"{identity.get('device')}, torch {identity.get('torch')}, Triton {identity.get('triton')}"
    )
    print_results(steps, entries, title, stdout())
    if left:
        stderr().print(f"gpu: left: {escape(', '.join(s.key for s in left))}: call again")
    return exit_code
