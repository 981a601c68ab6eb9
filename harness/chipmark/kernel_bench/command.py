"""`chipmark kernels run`: parity of each kernel and, where it passes, its time next to its peers.

Without -b: our Triton kernels on the CUDA card of this machine. With -b: the operators of a model
on any torch device or provider of ONNX Runtime, at the shapes of a workload's profile.

What tells most comes first: the roofs, the decode step of qwen3-8b, its prompts, smaller models,
quantised weights; and torch.compile as a peer in a second pass, when all else is measured. Goes on
where an earlier call on the same kind of device stopped; rows of kernels that were edited since are
measured anew. Prints a verdict a case. `--show FILE` prints those of a file, without a GPU.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from chipmark.errors import ChipmarkError, UnknownNameError
from chipmark.kernel_bench.document import (
    Document,
    file_at,
    forget_failures,
    opened,
    read,
    save,
    seed,
)
from chipmark.kernel_bench.presence import missing_device
from chipmark.kernel_bench.selection import Peers, Selection
from chipmark.kernel_bench.targets import read_targets
from chipmark.kernel_bench.verdict import CaseVerdict, exit_code, print_verdicts, verdicts
from chipmark.terminal.console import PlainConsole, emit_json, reporting, show_error, stderr
from chipmark_models.scratch import Scratch

if TYPE_CHECKING:
    from chipmark.kernel_bench.phases import Case

BENCH = "chipmark.kernel_bench.bench:CudaBench"

_EPILOG = """examples:
  chipmark kernels run                                   all kernels; again, to resume
  chipmark kernels run -o runs/h200.json --kernels decode_attention,skinny_gemm
  chipmark kernels run -o out/kernels.json --from shared/kernels.json --budget-s 500 --no-compile
  chipmark kernels run --retry --step-s 240              what failed or hung, with more time
  chipmark kernels run --show runs/gpu-kernels.json      the verdicts of a file, anywhere
  chipmark kernels run -b ort:cpu                        operators of smollm2-135m on a provider
  chipmark kernels run -b torch:npu -m qwen3-0.6b --precision bf16 --scale full
  chipmark kernels run -b ort:cpu --kernels attention --option graph=plain

exit codes: 0 all measured, every target met or not judged; 1 a kernel failed or missed a target;
2 wrong usage or a broken file; 3 no GPU, nothing measured, or cases are left: call again;
130 interrupted, what was measured stands."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chipmark kernels run", description=__doc__, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("-o", "--out", type=Path,
        help="file, or a folder that is there; default: runs/gpu-kernels.json, with -b"
        " runs/operators-BACKEND.json")  # fmt: skip
    add("--from", dest="earlier", type=Path, metavar="FILE",
        help="take what -o lacks from the file of an earlier call, which is only read")  # fmt: skip
    add(
        "-b",
        "--backend",
        default="",
        metavar="KIND:DEVICE",
        help="operators on this backend, as ort:cpu or torch:npu, in place of our kernels",
    )
    add("-m", "--model", default="smollm2-135m", help="with -b: a preset; default: %(default)s")
    add(
        "-w",
        "--workload",
        default="agent-code-32k",
        help="with -b: the profile whose shapes are measured, or a TOML file; default: %(default)s",
    )
    add(
        "--scale",
        default="quick",
        help="with -b: quick, standard, full, or context,output,tool time; default: %(default)s",
    )
    add("--precision", default="fp32", help="with -b: fp32, bf16 or fp16; default: %(default)s")
    add(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="with -b: an option of the backend, as graph=plain; may be given more than once",
    )
    add("--kernels", default="", help="comma-separated; all by default")
    add("--budget-s", type=float, default=520.0, help="end before this; default: %(default)s")
    add("--step-s", type=float, default=60.0,
        help="time of one check, one timing or one peer with its compilation; what takes longer is"
        " ended, with a row for it; default: %(default)s")  # fmt: skip
    add("--retry", action="store_true", help="try again what failed or was ended in earlier calls")
    add("--no-compile", action="store_true",
        help="leave out the second pass, with torch.compile, which takes longer than all else:"
        " for a short stay on a card")  # fmt: skip
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
            # Targets are those of our kernels.
            targets = () if "backend" in document["identity"] else read_targets()
            return _tell(document, verdicts(document, targets), 0, options)
        return _measure(options)
    except ChipmarkError as error:
        show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        stderr().print("interrupted; what was measured stands")
        return 130


def _measure(options: argparse.Namespace) -> int:
    until = time.monotonic() + options.budget_s
    if options.backend:
        from chipmark.kernel_bench.operators.selection import selected

        # The measuring process is killed when it is done with; what it wrote goes here.
        with Scratch("chipmark-operators-") as scratch:
            return _measured(options, selected(options, scratch), until)
    from chipmark.kernel_bench.cases import cases
    from chipmark.kernel_bench.row_sources import codes_of

    options.out = file_at(options.out, "gpu-kernels.json")
    order = cases()
    passes = (Peers.EAGER,) if options.no_compile else (Peers.EAGER, Peers.ALL)
    selection = Selection(BENCH, {}, order, read_targets(), partial(codes_of, order), passes)
    return _measured(options, selection, until)


def _measured(options: argparse.Namespace, selection: Selection, until_s: float) -> int:
    names = [n for n in options.kernels.split(",") if n]
    for name in names:
        if name not in (known := dict.fromkeys(case.kernel for case in selection.order)):
            raise UnknownNameError("kernel", name, known)
    if not options.backend and (missing := missing_device()):
        stderr().print(missing)
        return 3
    wanted = [case for case in selection.order if not names or case.kernel in names]
    document, cut = fill(options, selection, wanted, until_s)
    left = _left(document, wanted, selection.passes[-1])
    if cut:
        what = options.backend or "gpu"
        stderr().print(f"{what}: time was over at {cut}; {left} cases are left: call again")
    return _tell(document, verdicts(document, selection.targets), left, options)


def fill(
    options: argparse.Namespace, selection: Selection, wanted: Sequence[Case], until_s: float
) -> tuple[Document, str]:
    """Roofs and all passes into the file at options.out; the document, and where its time was over
    or "".

    Rows are in the selection's order.
    """
    from chipmark.kernel_bench import phases
    from chipmark.kernel_bench.supervisor import Worker
    from chipmark.kernel_bench.watch import Watch

    keys = [(case.kernel, case.name) for case in selection.order]
    with Worker(selection.bench, selection.settings) as worker, reporting() as reporter:
        identity = dict(worker.identity)
        uuid = identity.pop("uuid", "")
        codes = selection.codes(identity)
        document = opened(options.out, identity, codes)
        if options.earlier:
            taken = seed(document, options.earlier, codes)
            reporter.say(f"{taken} rows are taken from {options.earlier}")
        if options.retry:
            reporter.say(f"{forget_failures(document)} rows are tried again")
        with Watch(uuid) as watch:
            document["watch_missing"] = watch.missing
            call = phases.Call(
                worker, document, lambda: save(options.out, document, keys), reporter,
                watch.between, uuid, options.step_s, until_s, codes, selection.targets,
            )  # fmt: skip
            call.save()
            cut = phases.fill_roofs(call)
            for peers in selection.passes:
                reporter.steps(len(phases.open_cases(document, wanted, peers)))
                cut = cut or phases.fill(call, wanted, peers)
    return document, cut


def _left(document: Document, wanted: Sequence[Case], peers: Peers) -> int:
    from chipmark.kernel_bench.phases import open_cases

    return len(open_cases(document, wanted, peers))


def _tell(
    document: Document, found: Sequence[CaseVerdict], left: int, options: argparse.Namespace
) -> int:
    code = exit_code(found, left)
    if options.format == "json":
        emit_json({
            "file": str(options.show or options.out), "identity": document["identity"],
            "left": left, "exit_code": code, "verdicts": [v.as_json() for v in found],
        })  # fmt: skip
        return code
    # Without a terminal a line is as long as it must be: a file or a log is not 80 columns wide.
    console = PlainConsole(highlight=False, width=None if sys.stdout.isatty() else 180)
    if "backend" in document["identity"]:
        from chipmark.kernel_bench.operators.show import print_operators

        print_operators(document, console)
    else:
        print_verdicts(document, found, console)
    return code
