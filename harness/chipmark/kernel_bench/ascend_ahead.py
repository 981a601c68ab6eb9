"""`chipmark kernels ahead --target ascend910b3`: every launch through Ascend's compilers.

triton-ascend makes linalg of each kernel, and `bishengir-compile` of ascendnpu-ir lowers it, plans
the on-chip memories and refuses what does not fit. It ends where CANN's `hivmc` would make the
object, so no chip and no CANN is needed, and nothing is run. Both are set up once in an environment
of the cache. What was compiled is kept there too: the same command resumes.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chipmark.errors import ChipmarkError, UnknownNameError, UsageError
from chipmark.kernel_bench.ascend_environment import PACKAGES, found_or_made
from chipmark.terminal.console import emit_json, reporting, show_error, stderr

if TYPE_CHECKING:
    from chipmark_kernels.ascend.jobs import AscendJob
    from chipmark_kernels.ascend.memory_plan import Verdict

UNKNOWN_TYPE = "unexpected type fp8"
"""How triton-ascend's front end says that it does not know float8: the one declared exception, for
the chip multiplies none either, and dispatch never launches those kernels there."""

MOST_PROGRAMS = 65_535
"""Programs of a launch: triton-ascend's launcher keeps their number in 16 bits."""

_EPILOG = """examples:
  chipmark kernels ahead --target ascend910b3 --first     one of each kernel, a minute
  chipmark kernels ahead --target ascend910b3             every launch of the presets
  chipmark kernels ahead --target ascend910_9392 --models qwen3-8b --kernels decode_attention

exit codes: 0 all fit, but for what is declared an exception; 1 a launch overflows or is refused;
2 wrong usage; 3 the compilers cannot be had here; 130 interrupted, what was compiled is kept."""


@dataclass(slots=True)
class KernelRow:
    """A kernel and dtype: how many of its launches fit, and the fullest memory that one needs."""

    kernel: str
    family: str
    dtype: str
    compiled: int = 0
    fit: int = 0
    overflow: int = 0
    refused: int = 0
    exceptions: int = 0
    one_buffer: int = 0
    crashes: int = 0
    buffer: str = ""
    needed_bytes: int | None = None
    buffer_bytes: int | None = None
    programs: int = 0
    hardware: str = "unverified on hardware"

    def add(self, job: AscendJob, verdict: Verdict) -> None:
        """Count one launch in."""
        self.compiled += 1
        self.fit += verdict.state.value == "fits"
        self.overflow += verdict.state.value == "overflows"
        excepted = is_exception(verdict)
        self.exceptions += excepted
        self.refused += verdict.state.value == "refused" and not excepted
        self.one_buffer += verdict.state.value == "fits" and not verdict.multibuffer
        self.crashes += verdict.crashes
        self.programs = max(self.programs, job.programs)
        if verdict.needed_bytes is not None and verdict.buffer_bytes is not None:
            share = verdict.needed_bytes / verdict.buffer_bytes
            if share > (self.needed_bytes or 0) / (self.buffer_bytes or 1):
                self.buffer = verdict.buffer
                self.needed_bytes, self.buffer_bytes = verdict.needed_bytes, verdict.buffer_bytes


def is_exception(verdict: Verdict) -> bool:
    """Whether a refusal is the declared one: float8, which the front end does not know."""
    return verdict.state.value == "refused" and UNKNOWN_TYPE in verdict.reason


def parser(targets: Sequence[str]) -> argparse.ArgumentParser:
    """The options of the command."""
    from chipmark_kernels.aot import usable_cores

    made = argparse.ArgumentParser(
        prog="chipmark kernels ahead", description=__doc__, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = made.add_argument
    add("--targets", "--target", required=True, metavar="TARGET",
        help=f"one of {', '.join(targets)}")  # fmt: skip
    add("--kernels", default="", help="comma-separated launchers; all by default")
    add("--models", default="", help="comma-separated shapes; all by default")
    add("--first", action="store_true", help="one specialisation a kernel")
    add("--jobs", type=int, default=usable_cores(), help="processes; %(default)s, a core each")
    add("--limit-s", type=float, default=600.0, help="of one kernel; default: %(default)s")
    add("--python", type=Path, metavar="PATH",
        help="a Python 3.11, with the compilers or to make their environment from")  # fmt: skip
    add("--no-setup", action="store_true", help="fetch nothing; exit 3 where they are not here")
    add("--format", choices=("text", "json"), default="text")
    return made


def main(argv: Sequence[str]) -> int:
    """Run the command; its exit code."""
    from chipmark_kernels.ascend.targets import ASCEND_TARGETS

    options = parser(list(ASCEND_TARGETS)).parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(options)
    except ChipmarkError as error:
        show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        stderr().print("interrupted; what was compiled is kept, the same command resumes")
        return 130


def _chosen(given: str, known: Sequence[str], what: str) -> list[str]:
    names = [name for name in given.split(",") if name]
    for name in names:
        if name not in known:
            raise UnknownNameError(what, name, known)
    return names or list(known)


def _jobs(options: argparse.Namespace) -> list[AscendJob]:
    from chipmark_kernels import manifest
    from chipmark_kernels.ascend.jobs import ascend_jobs
    from chipmark_kernels.ascend.targets import ASCEND_TARGETS

    kernels = _chosen(options.kernels, [f.name for f in manifest.FAMILIES], "kernel")
    models = _chosen(options.models, [s.name for s in manifest.MODEL_SHAPES], "model")
    if options.jobs < 1:
        raise UsageError(f"--jobs: must be at least 1, not {options.jobs}")
    if not options.limit_s > 0:
        raise UsageError(f"--limit-s: must be over 0, not {options.limit_s:g}")
    return ascend_jobs(
        ASCEND_TARGETS[options.targets],
        [f for f in manifest.FAMILIES if f.name in kernels],
        [s for s in manifest.MODEL_SHAPES if s.name in models],
        options.first,
    )


def _run(options: argparse.Namespace) -> int:
    from chipmark.kernel_bench.ascend_compile import compile_all
    from chipmark_kernels.ascend.targets import ASCEND_TARGETS

    started_s = time.monotonic()
    jobs = _jobs(options)
    arch = str(ASCEND_TARGETS[options.targets].arch)
    verdicts: dict[int, Verdict] = {}
    with reporting() as reporter:
        environment = found_or_made(options.python, not options.no_setup, reporter.say)
        reporter.stage(f"compiling for {options.targets}")
        reporter.steps(len(jobs))
        made = compile_all(jobs, arch, environment, options.jobs, options.limit_s)
        for index, verdict in made:
            verdicts[index] = verdict
            reporter.step()
    judged = [verdicts[index] for index in range(len(jobs))]
    wall_s = round(time.monotonic() - started_s, 1)
    return _tell(options, jobs, judged, wall_s)


def rows_of(jobs: Sequence[AscendJob], verdicts: Sequence[Verdict]) -> list[KernelRow]:
    """A row a kernel, family and dtype, in the order of the jobs."""
    rows: dict[tuple[str, str, str], KernelRow] = {}
    for job, verdict in zip(jobs, verdicts, strict=True):
        key = (job.family, job.kernel, job.dtype)
        rows.setdefault(key, KernelRow(job.kernel, job.family, job.dtype)).add(job, verdict)
    return list(rows.values())


def _tell(
    options: argparse.Namespace,
    jobs: Sequence[AscendJob],
    verdicts: Sequence[Verdict],
    wall_s: float,
) -> int:
    rows = rows_of(jobs, verdicts)
    failed = sum(row.overflow + row.refused for row in rows)
    summary = {
        "target": options.targets,
        "compiled": len(jobs),
        "fit": sum(row.fit for row in rows),
        "overflow": sum(row.overflow for row in rows),
        "refused": sum(row.refused for row in rows),
        "exceptions": sum(row.exceptions for row in rows),
        "one_buffer": sum(row.one_buffer for row in rows),
        "crashes": sum(row.crashes for row in rows),
        "packages": dict(PACKAGES),
        "wall_s": wall_s,
    }
    if options.format == "json":
        told = zip(jobs, verdicts, strict=True)
        launches = [launch_as_json(job, verdict) for job, verdict in told]
        kernels = [{name: getattr(row, name) for name in row.__slots__} for row in rows]
        emit_json({"rows": kernels, "launches": launches, "summary": summary})
        return 1 if failed else 0
    sys.stdout.write("\n".join([*_table(rows), *_trouble(jobs, verdicts), _last_line(summary)]))
    sys.stdout.write("\n")
    return 1 if failed else 0


def launch_as_json(job: AscendJob, verdict: Verdict) -> dict[str, Any]:
    """One compiled launch, for the document of `--format json`."""
    return {
        "kernel": job.kernel,
        "family": job.family,
        "dtype": job.dtype,
        "example": job.example,
        "tile": job.tile,
        "launches": job.launches,
        "programs": job.programs,
        "state": "exception" if is_exception(verdict) else verdict.state.value,
        "buffer": verdict.buffer,
        "needed_bytes": verdict.needed_bytes,
        "buffer_bytes": verdict.buffer_bytes,
        "multibuffer": verdict.multibuffer,
        "crashes": verdict.crashes,
        "reason": verdict.reason,
    }


def _table(rows: Sequence[KernelRow]) -> list[str]:
    lines = [f"{'kernel':<27}{'of':<21}{'dtype':<6}{'fits':>9}  {'fullest memory':<20}notes"]
    for row in rows:
        fits = f"{row.fit} of {row.compiled}"
        memory = "-"
        if row.needed_bytes is not None and row.buffer_bytes is not None:
            needed, size = row.needed_bytes / 1024, row.buffer_bytes / 1024
            memory = f"{row.buffer} {needed:.0f} of {size:.0f} KB"
        named = f"{row.kernel:<27}{row.family:<21}{row.dtype:<6}"
        lines.append(f"{named}{fits:>9}  {memory:<20}{'; '.join(_notes(row))}".rstrip())
    return lines


def _notes(row: KernelRow) -> list[str]:
    notes = []
    if row.overflow:
        notes.append(f"{row.overflow} overflow")
    if row.refused:
        notes.append(f"{row.refused} refused")
    if row.exceptions:
        notes.append("float8 is unknown to the front end (exception)")
    if row.one_buffer:
        notes.append(f"{row.one_buffer} with multibuffer=False only")
    if row.programs > MOST_PROGRAMS:
        notes.append(f"grids up to {row.programs}, over {MOST_PROGRAMS}")
    if row.crashes:
        notes.append(f"compilers died {row.crashes} times on the way")
    return notes


def _trouble(jobs: Sequence[AscendJob], verdicts: Sequence[Verdict]) -> list[str]:
    """A line for each launch that does not fit."""
    return [
        f"{verdict.state.value}: {job.kernel} {job.dtype} {job.example} {job.tile}: "
        f"{verdict.reason}"
        for job, verdict in zip(jobs, verdicts, strict=True)
        if verdict.state.value != "fits" and not is_exception(verdict)
    ]


def _last_line(summary: dict[str, Any]) -> str:
    return (
        f"{summary['target']}: {summary['fit']} of {summary['compiled']} fit, "
        f"{summary['overflow']} overflow, {summary['refused']} refused, "
        f"{summary['exceptions']} exceptions (float8), in {summary['wall_s']} s; "
        "compiled up to hivmc, unverified on hardware"
    )
