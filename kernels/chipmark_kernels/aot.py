"""`python -m chipmark_kernels.aot`: compile every launch of the manifest without a GPU.

Prints registers, shared memory and spills of each; exits 1 where one does not compile, spills
(inside a loop, or more than 48 bytes), needs more shared memory than the device has, or lacks the
vector loads or the matrix instructions that its design counts on. Tiles of the rules and those of
the tables in `tuned/` alike; a table's are named with file and key. The last line is a summary.

What was compiled stays in Triton's cache on disk (TRITON_CACHE_DIR, some 0.3 MB each), so the same
command resumes where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from chipmark_kernels.device import TARGETS

if TYPE_CHECKING:
    from chipmark_kernels.aot_jobs import BuildRow, Job

EXAMPLES = """examples:
  chipmark kernels ahead --first                          one of each kernel, a minute
  chipmark kernels ahead --targets sm_90 --models qwen3-8b
  chipmark kernels ahead --targets sm_90 --tuned DIR      tables that are not committed yet
  chipmark kernels ahead --cache DIR --help               a cache to carry to a machine with a card
"""


class Progress:
    """How far it is, on a terminal's standard error; nothing elsewhere."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._failed = total, 0, 0
        self._started_s = self._shown_s = time.monotonic()
        self._shows = sys.stderr.isatty()

    def clear(self) -> None:
        """Take the line away, so that another can be printed there."""
        if self._shows:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def advance(self, failed: bool) -> None:
        """Count one more, and show the line anew, five times a second at most."""
        self._done += 1
        self._failed += failed
        now_s = time.monotonic()
        if not self._shows or now_s - self._shown_s < 0.2:
            return
        self._shown_s = now_s
        left_s = (now_s - self._started_s) / self._done * (self._total - self._done)
        text = f"{self._done}/{self._total} compiled, {self._failed} failed"
        print(f"\r\x1b[K{text}, {left_s / 60:.1f} min left", end="", file=sys.stderr, flush=True)


def _line(row: BuildRow) -> str:
    figures = (row.registers, row.shared_bytes, row.spill_bytes, row.vector_loads, row.matrix)
    cells = "".join(f"{'-' if n is None else n:>7}" for n in figures)
    state = "ok" if not row.problems else "FAILED: " + "; ".join(row.problems)
    tuned = f" ({row.tuned})" if row.tuned else ""
    return f"{row.target:<8}{row.kernel:<28}{row.dtype:<6}{cells}  {row.tile:<55}{state}{tuned}"


def _names(given: str, known: Sequence[str], what: str) -> list[str]:
    names = [name for name in given.split(",") if name]
    for name in names:
        if name not in known:
            raise ValueError(f"no {what} {name!r}; there are {', '.join(known)}")
    return names


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chipmark kernels ahead",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--targets",
        "--target",
        default=",".join(TARGETS),
        help="comma-separated; default: %(default)s. Ascend's compilers have options of their own: "
        "`chipmark kernels ahead --target ascend910b3 --help`",
    )
    parser.add_argument("--kernels", default="", help="comma-separated launchers; all by default")
    parser.add_argument("--models", default="", help="comma-separated shapes; all by default")
    parser.add_argument(
        "--first", action="store_true", help="one specialisation a kernel, and no tuned tables"
    )
    parser.add_argument("--tuned", type=Path, help="folder of tables; the package's by default")
    parser.add_argument(
        "--jobs", type=int, default=usable_cores(), help="processes; %(default)s, a core each"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")
    return parser


def _work_list(options: argparse.Namespace) -> tuple[list[str], list[Job], list[str]]:
    """(targets, jobs, what is left out); raises ValueError for a wrong name or a bad table."""
    from chipmark_kernels import manifest, tiles, tuned
    from chipmark_kernels.aot_jobs import jobs_by_rule, jobs_of_table

    if options.jobs < 1:
        raise ValueError(f"--jobs: must be at least 1, not {options.jobs}")
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise ValueError("TRITON_INTERPRET=1: interpreted kernels are not compiled; unset it")
    targets = _names(options.targets, list(TARGETS), "target")
    families = [f.name for f in manifest.FAMILIES]
    chosen = _names(options.kernels, families, "kernel") or families
    models = [s.name for s in manifest.MODEL_SHAPES]
    shapes = _names(options.models, models, "model") or models
    wanted = [f for f in manifest.FAMILIES if f.name in chosen]
    jobs: list[Job] = []
    left_out: list[str] = []
    for target in targets:
        device = TARGETS[target]
        reasons = ((name, manifest.left_out(name, device)) for name in chosen)
        left_out += [f"{name}: {why}" for name, why in reasons if why is not None]
        models_wanted = [s for s in manifest.MODEL_SHAPES if s.name in shapes]
        jobs += jobs_by_rule(device, wanted, models_wanted, options.first)
    with tiles.tables_in(options.tuned or tuned.TUNED_FOLDER):
        for table in tuned.tables():
            if table.target not in targets:
                left_out.append(f"{table.path}: for {table.target}, which is not in --targets")
            elif options.first:
                left_out.append(f"{table.path}: {len(table.entries)} tiles, because of --first")
            else:
                jobs += jobs_of_table(table, chosen if options.kernels else None)
    return targets, jobs, left_out


def _rows(jobs: Sequence[Job], n_processes: int, progress: Progress) -> Iterator[BuildRow]:
    """The rows in the order of the jobs, each as soon as those before it have ended."""
    from chipmark_kernels.aot_jobs import judged
    from chipmark_kernels.aot_pool import compile_all

    ended: dict[int, BuildRow] = {}
    next_index = 0
    for index, made in compile_all(jobs, n_processes):
        ended[index] = judged(jobs[index], made)
        progress.advance(bool(ended[index].problems))
        while next_index in ended:
            yield ended.pop(next_index)
            next_index += 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    0 when every launch compiled as designed, 1 when not, 2 on wrong usage or a bad table, 130 when
    interrupted.
    """
    options = _parser().parse_args(argv)
    started_s = time.monotonic()
    try:
        targets, jobs, left_out = _work_list(options)
    except ValueError as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    text = options.format == "text"
    if text:
        heads = "".join(f"{h:>7}" for h in ("regs", "shared", "spill", "vec16", "matrix"))
        print(f"{'target':<8}{'kernel':<28}{'dtype':<6}{heads}  tile")
    rows: list[BuildRow] = []
    progress = Progress(len(jobs))
    try:
        for row in _rows(jobs, options.jobs, progress):
            rows.append(row)
            if text:
                progress.clear()
                print(_line(row), flush=True)
    except KeyboardInterrupt:
        progress.clear()
        print(
            f"interrupted: {len(rows)} of {len(jobs)} shown; the same command resumes there",
            file=sys.stderr,
        )
        return 130
    progress.clear()
    return _summarise(rows, left_out, targets, round(time.monotonic() - started_s, 1), text)


def _summarise(
    rows: Sequence[BuildRow],
    left_out: Sequence[str],
    targets: Sequence[str],
    wall_s: float,
    text: bool,
) -> int:
    """Print the end of the report, or all of it as JSON; the exit code."""
    import triton

    from chipmark_kernels.aot_jobs import PARKED_BYTES

    failed = sum(bool(row.problems) for row in rows)
    parked = sum(bool(row.spill_bytes) and not row.problems for row in rows)
    compiled = len(rows) - failed
    if not text:
        summary = {
            "compiled": compiled,
            "failed": failed,
            "parked": parked,
            "targets": targets,
            "left_out": left_out,
            "triton": triton.__version__,
            "wall_s": wall_s,
        }
        print(json.dumps({"rows": [asdict(row) for row in rows], "summary": summary}))
        return 1 if failed else 0
    for line in left_out:
        print(f"left out: {line}")
    print(
        f"aot: {compiled} compiled as designed, {failed} failed, "
        f"{parked} park up to {PARKED_BYTES} bytes, {len(left_out)} left out, "
        f"on {', '.join(targets)} in {wall_s} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
