"""`chipmark kernels models`: the suite of end_to_end.toml by `chipmark run`, into results/CHIP.

Every cell is checked against the oracle before it counts, and metered by NVML. A call stops before
its budget; the next one resumes with the cells that have no record yet.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from chipmark.errors import ChipmarkError
from chipmark.kernel_bench.presence import missing_device
from chipmark.kernel_bench.wheels import carried, require
from chipmark.processes import undisturbed
from chipmark.supervised import end_tree, marked, new_mark, supervised
from chipmark_kernels.device import product_key

SUITE = Path(__file__).with_suffix(".toml")
NEEDS = {
    "pydantic": "pydantic", "rich": "rich", "typer": "typer", "numpy": "numpy", "pandas": "pandas",
    "pyarrow": "pyarrow", "scipy": "scipy", "psutil": "psutil", "pynvml": "nvidia-ml-py",
}  # fmt: skip
"""Modules that the measuring process needs in addition to torch and triton, by distribution; the
measured one needs NumPy only."""

_GRACE_S = 30.0

_EPILOG = """examples:
  chipmark kernels models                              all cells; again, to resume
  chipmark kernels models -m qwen3-8b@synthetic        options of `chipmark run` are passed on
  chipmark kernels models --wheels carried/            with pydantic from a folder of wheels

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
    argv: Sequence[str], budget_s: float, env: Mapping[str, str] | None = None
) -> tuple[int, bool]:
    """Exit code, and whether the budget ended it: by SIGINT, which leaves whole records.

    Ctrl-C is handed on to the process, which is waited for; the code is 130 then.
    """
    mark = new_mark()
    process = subprocess.Popen(
        [*supervised(), *argv],
        env=marked(os.environ if env is None else env, mark),
        start_new_session=True,
    )
    try:
        return process.wait(budget_s), False
    except subprocess.TimeoutExpired:
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
    import torch

    if missing := missing_device():
        print(missing, file=sys.stderr)
        return 3
    with carried(options.wheels) as environment:
        require(NEEDS, "chipmark kernels models")
        out = options.out or Path("results") / folder_of(torch.cuda.get_device_name())
        budget = options.budget_s - (time.monotonic() - begun) - _GRACE_S
        budget = max(1.0, budget)
        code, ended = run_within(command(out, extra, budget), budget, environment)
    if ended:
        print(f"gpu: the budget ended this call; call again to resume in {out}", file=sys.stderr)
        return 3
    return code
