"""`scripts/gpu`: parity of every kernel, then the times of those that pass, beside their peers.

Goes on where an earlier call of the same code on the same kind of device stopped, and prints a
verdict a case. `--show FILE` prints those of a file, without a GPU.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chipmark.cli.console import emit_json, reporting, show_error, stderr
from chipmark.errors import ChipmarkError, UnknownNameError
from gpu_arms.document import Document, forget_failures, opened, read, save
from gpu_arms.presence import missing_device
from gpu_arms.targets import read_targets
from gpu_arms.verdict import Verdict, exit_code, print_verdicts, verdicts

if TYPE_CHECKING:
    from gpu_arms.cases import Case

BENCH = "gpu_arms.bench:CudaBench"

_EPILOG = """examples:
  scripts/gpu                                   all kernels; again, to go on
  scripts/gpu -o runs/h200.json --kernels decode_attention,skinny_gemm
  scripts/gpu --retry --step-s 240              what failed or hung, with more time
  scripts/gpu --show runs/gpu-kernels.json      the verdicts of a file, anywhere

exit codes: 0 all measured, every target met or not judged; 1 a kernel failed or missed a target;
2 wrong usage or a broken file; 3 no GPU, nothing measured, or cases are left: call again;
130 interrupted, what was measured stands."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/gpu", description=__doc__, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add(
        "-o", "--out", type=Path, default=Path("runs/gpu-kernels.json"), help="default: %(default)s"
    )
    add("--kernels", default="", help="comma-separated; all by default")
    add("--budget-s", type=float, default=520.0, help="end before this; default: %(default)s")
    add("--step-s", type=float, default=60.0,
        help="time of one check, one timing or one peer with its compilation; what takes longer is"
        " ended and a row says so; default: %(default)s")  # fmt: skip
    add("--retry", action="store_true", help="try again what failed or was ended in earlier calls")
    add("--no-compile", action="store_true", help="leave torch.compile out")
    add("--show", type=Path, metavar="FILE", help="verdicts of an earlier result; measures nothing")
    add("--format", choices=("rich", "json"), default="rich", help="of the verdicts on stdout")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """As the epilog of `--help` says."""
    options = _parser().parse_args(argv)
    # A `timeout` around the call ends it as Ctrl-C does: nothing half-written, no process left.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.show:
            document = read(options.show)
            return _tell(document, verdicts(document, read_targets()), 0, options)
        return _measure(options)
    except ChipmarkError as error:
        show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        stderr().print("interrupted; what was measured stands")
        return 130


def _measure(options: argparse.Namespace) -> int:
    started = time.monotonic()
    from gpu_arms.cases import cases

    order = cases()
    names = [n for n in options.kernels.split(",") if n]
    for name in names:
        if name not in (known := {case.kernel for case in order}):
            raise UnknownNameError("kernel", name, known)
    if missing := missing_device():
        stderr().print(missing)
        return 3
    wanted = [case for case in order if not names or case.kernel in names]
    settings = {"compiled": not options.no_compile}
    document, cut = fill(options, BENCH, settings, order, wanted, started + options.budget_s)
    left = _left(document, wanted, settings["compiled"])
    if cut:
        stderr().print(f"gpu: time was over at {cut}; {left} cases are left: call again")
    return _tell(document, verdicts(document, read_targets()), left, options)


def fill(
    options: argparse.Namespace,
    bench: str,
    settings: Mapping[str, Any],
    order: Sequence[Case],
    wanted: Sequence[Case],
    until_s: float,
) -> tuple[Document, str]:
    """Both phases into the file at options.out; the document, and where its time was over or "".

    bench, settings: what the measuring process makes (`worker.serve`). Rows stand in `order`.
    """
    from gpu_arms.phases import (
        Call,
        fill_parity,
        fill_roofs,
        fill_times,
        without_parity,
        without_time,
    )
    from gpu_arms.supervise import Worker
    from gpu_arms.watch import Watch

    keys = [(case.kernel, case.name) for case in order]
    with Worker(bench, settings) as worker, reporting() as reporter:
        identity = dict(worker.identity)
        uuid = identity.pop("uuid", "")
        document = opened(options.out, identity)
        if options.retry:
            reporter.say(f"{forget_failures(document)} rows are tried again")
        with Watch(uuid) as watch:
            document["watch_missing"] = watch.missing
            call = Call(
                worker, document, lambda: save(options.out, document, keys), reporter,
                watch.between, uuid, options.step_s, until_s, settings.get("compiled", True),
            )  # fmt: skip
            call.save()
            reporter.steps(len(without_parity(document, wanted)))
            cut = fill_parity(call, wanted)
            if not cut:
                reporter.steps(len(without_time(document, wanted, call.compiled)))
                cut = fill_roofs(call) or fill_times(call, wanted)
    return document, cut


def _left(document: Document, wanted: Sequence[Case], compiled: bool) -> int:
    from gpu_arms.phases import without_parity, without_time

    return len(without_parity(document, wanted)) + len(without_time(document, wanted, compiled))


def _tell(
    document: Document, found: Sequence[Verdict], left: int, options: argparse.Namespace
) -> int:
    code = exit_code(found, left)
    if options.format == "json":
        emit_json({
            "file": str(options.show or options.out), "identity": document["identity"],
            "left": left, "exit_code": code, "verdicts": [v.as_json() for v in found],
        })  # fmt: skip
        return code
    from rich.console import Console

    # Without a terminal a line is as long as it must be: a file or a log is not 80 columns wide.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 180)
    print_verdicts(document, found, console)
    return code


if __name__ == "__main__":
    sys.exit(main())
