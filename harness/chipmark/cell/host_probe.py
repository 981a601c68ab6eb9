"""The read roof of the host's memory, probed by the harness itself in a process of its own.

`python -m chipmark.cell.host_probe --bytes N --threads T` prints one JSON line. A backend on the
host has no say in it, so one that reports half of the roof cannot double its MBU. Huge pages are
asked for as for the children, by the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from chipmark.backends.host import available_memory, physical_cores
from chipmark.backends.host_read import read_bandwidth
from chipmark.backends.probe_size import HOST_SHARE, probe_bytes
from chipmark.cell.environment import run_module

_LIMIT_S = 120.0


def host_read_roof(
    wanted: int, cache: int | None, threads: int, cpus: Iterable[int] | None = None
) -> tuple[float | None, int]:
    """(bytes per second, bytes read) of a working set of `wanted` bytes or the largest safe one.

    threads: 0 takes all cores that this process may use. cpus: the mask to stay in, None for this
    process's own. The rate is None where there is not enough memory, or where the probe failed:
    that costs the roof and not the cell.
    """
    size = probe_bytes(wanted, available_memory(), cache, HOST_SHARE)
    if size is None:
        return None, wanted
    arguments = ["--bytes", str(size), "--threads", str(threads or physical_cores())]
    if cpus is not None:
        arguments += ["--cpus", ",".join(map(str, sorted(cpus)))]
    try:
        done = run_module("chipmark.cell.host_probe", *arguments, limit_s=_LIMIT_S)
        done.check_returncode()
        rate = float(json.loads(done.stdout.splitlines()[-1])["read"])
    except (subprocess.SubprocessError, OSError, ValueError, KeyError, IndexError):
        return None, size
    return (rate if rate > 0 else None), size


def offer_to_oom_killer(path: Path = Path("/proc/self/oom_score_adj")) -> None:
    """If memory runs out after all, let this process be ended and not the measured one."""
    try:
        path.write_text("1000")
    except OSError as error:
        sys.stderr.write(f"{path}: {error}\n")


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the probe's process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--cpus", default="")
    chosen = parser.parse_args(arguments)
    if chosen.cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(cpu) for cpu in chosen.cpus.split(",")})
    offer_to_oom_killer()
    print(json.dumps({"read": read_bandwidth(chosen.bytes, chosen.threads)}), flush=True)


if __name__ == "__main__":
    main()
