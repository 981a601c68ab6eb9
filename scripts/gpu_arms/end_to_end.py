"""`scripts/gpu end-to-end`: the suite of end_to_end.toml by `chipmark run`, into results/CHIP.

Every cell is checked against the oracle before it counts, and metered by NVML. A call stops before
its budget; the next one goes on with the cells that have no record yet.
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from chipmark_kernels.device import product_key

SUITE = Path(__file__).with_suffix(".toml")
NEEDS = ("pydantic", "rich", "typer", "pandas", "pyarrow", "scipy", "psutil", "pynvml")
"""What the measuring process needs beside torch and triton; the measured one needs NumPy only."""

_GRACE_S = 30.0


def folder_of(device: str) -> str:
    """`results/` folder of a device by the name that it gives itself."""
    name = product_key(device)
    return name if name.startswith("nvidia") else f"nvidia-{name}"


def command(out: Path, extra: Sequence[str]) -> list[str]:
    """The command line of the suite; prompts go in chunks that fill a GPU."""
    return [
        sys.executable, "-m", "chipmark.cli.main", "run", str(SUITE), "-o", str(out),
        "--chunk", "2048", *extra,
    ]  # fmt: skip


def run_within(argv: Sequence[str], budget_s: float) -> tuple[int, bool]:
    """Exit code, and whether the budget ended it: by SIGINT, which leaves whole records."""
    process = subprocess.Popen(argv)
    try:
        return process.wait(budget_s), False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
        return process.wait(), True


def main(argv: Sequence[str] | None = None) -> int:
    """0 done; 2 wrong usage or a package is missing; 3 no GPU, or cells are left for another call;
    4 a cell failed."""
    parser = argparse.ArgumentParser(prog="scripts/gpu end-to-end", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, help="default: results/CHIP")
    parser.add_argument("--budget-s", type=float, default=520.0, help="stop before this")
    options, extra = parser.parse_known_args(argv)
    begun = time.monotonic()
    import torch

    if not torch.cuda.is_available():
        print(
            "gpu: no CUDA device here (torch.cuda.is_available() is false): nothing was measured."
            " Run this on a machine with a GPU; `chipmark doctor` says what is missing.",
            file=sys.stderr,
        )
        return 3
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        print(f"error: not installed: {', '.join(missing)} (pip install chipmark)", file=sys.stderr)
        return 2
    out = options.out or Path("results") / folder_of(torch.cuda.get_device_name())
    budget = options.budget_s - (time.monotonic() - begun) - _GRACE_S
    code, ended = run_within(command(out, extra), max(1.0, budget))
    if ended:
        print(f"gpu: the budget ended this call; call again to go on in {out}", file=sys.stderr)
        return 3
    return code


if __name__ == "__main__":
    sys.exit(main())
