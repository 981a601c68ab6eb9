"""`chipmark kernels ahead --cache`: what a run of models launches, compiled into a Triton cache.

The cache is packed, carried to the machine with the card and unpacked there, where a first run then
compiles nothing. Only the same Triton, Python and sources of kernels find it; --unpack reports what
does not agree.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chipmark.errors import ChipmarkError, UnknownNameError, UsageError
from chipmark.terminal.console import show_error
from chipmark_kernels.aot import Progress, usable_cores
from chipmark_kernels.device import TARGETS, DeviceFacts, product_key
from chipmark_models.plain_text import one_line
from chipmark_models.precision import PRECISIONS
from chipmark_models.presets import PRESETS

if TYPE_CHECKING:
    from chipmark_kernels.launch import Launch

MODELS = ("qwen3-0.6b", "qwen3-1.7b", "llama-3.2-1b", "qwen3-8b")
"""Those of the suites for one GPU."""

SESSIONS, CHUNK = 64, 2048
"""As the suites have: decode is made for every bucket of rows up to SESSIONS."""

CONTEXTS = (1_153, 2_048, 4_096, 8_193, 16_897, 32_768)
"""Tokens of the longest sequence, of which the number of parts of decode attention follows."""

_EPILOG = """examples:
  chipmark kernels ahead --cache carried/ --models qwen3-8b      fill and pack it
  chipmark kernels ahead --unpack triton-cache.tar.gz --cache /tmp/triton
                               on the other machine; then TRITON_CACHE_DIR=/tmp/triton

exit codes: 0 done; 1 a kernel does not compile, or is not found again; 2 wrong usage or an archive
that is none; 3 nothing of the unpacked cache will be found here; 130 interrupted."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A filled cache. launches: recorded. kernels: different ones among them. found_again: by a
    second pass of their own launchers."""

    cache: str
    archive: str
    triton: str
    target: str
    launches: int
    kernels: int
    made: int
    found: int
    found_again: int
    failed: tuple[str, ...]
    record_s: float
    compile_s: float
    cache_mb: float
    archive_mb: float


def parser() -> argparse.ArgumentParser:
    """Options of this form of the subcommand."""
    made = argparse.ArgumentParser(
        prog="chipmark kernels ahead --cache",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--cache", type=Path, required=True, metavar="DIR", help="Triton's cache")
    made.add_argument("--unpack", type=Path, metavar="FILE", help="a packed cache to lay into DIR")
    made.add_argument("--target", "--targets", default="sm_90", help="one; default: %(default)s")
    made.add_argument("--product", default="", help="the card's own name, for its measured tiles")
    made.add_argument("--models", default=",".join(MODELS), help="default: %(default)s")
    made.add_argument("--precision", default="bf16", help="default: %(default)s")
    made.add_argument("--sessions", type=int, default=SESSIONS, help="at most; %(default)s")
    made.add_argument(
        "--contexts", default=",".join(map(str, CONTEXTS)), help="tokens; default: %(default)s"
    )
    made.add_argument("--chunk", type=int, default=CHUNK, help="prompt tokens; %(default)s")
    made.add_argument(
        "--bench", action="store_true", help="also what `kernels run` launches for these models"
    )
    made.add_argument("--jobs", type=int, default=usable_cores(), help="processes; %(default)s")
    made.add_argument("--format", choices=("text", "json"), default="text")
    return made


def main(argv: Sequence[str]) -> int:
    """Fill or unpack a cache; the exit code."""
    asked = parser().parse_args(argv)
    try:
        if asked.unpack is not None:
            return _unpacked(asked.unpack, asked.cache, asked.target)
        outcome = filled(asked)
    except ChipmarkError as error:
        show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted: what was compiled stays; call again to resume", file=sys.stderr)
        return 130
    if asked.format == "json":
        print(json.dumps(dataclasses.asdict(outcome)))
    else:
        print(_text(outcome))
    return int(bool(outcome.failed) or outcome.found_again < outcome.kernels)


def filled(asked: argparse.Namespace) -> Outcome:
    """Record, compile, look again, pack. UsageError for a wrong option."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise UsageError("TRITON_INTERPRET=1: interpreted kernels are not compiled; unset it")
    facts = _facts(asked)
    from chipmark_kernels import carried_cache, warm

    begin = time.monotonic()
    launches = list(_launches(asked, facts))
    wanted = warm.distinct(launches, facts)
    record_s = time.monotonic() - begin
    progress = Progress(len(wanted))
    asked.cache.mkdir(parents=True, exist_ok=True)
    done = warm.fill(wanted, asked.cache, asked.jobs, progress.advance)
    progress.clear()
    again = (launch for job, launch in wanted.items() if job not in done.failed)
    found_again = warm.hits(again, facts, asked.cache)
    archive = carried_cache.pack(asked.cache, facts.name)
    info = carried_cache.cache_info(asked.cache)
    return Outcome(
        str(asked.cache),
        str(archive),
        info.triton,
        facts.name,
        len(launches),
        len(wanted),
        done.made,
        done.found,
        found_again,
        tuple(f"{job}: {reason}" for job, reason in done.failed.items()),
        round(record_s, 1),
        round(done.seconds, 1),
        _megabytes(path for path in asked.cache.rglob("*") if path != archive),
        _megabytes([archive]),
    )


def _facts(asked: argparse.Namespace) -> DeviceFacts:
    if asked.target not in TARGETS:
        raise UnknownNameError("target", asked.target, list(TARGETS))
    return dataclasses.replace(TARGETS[asked.target], product=product_key(asked.product))


def _launches(asked: argparse.Namespace, facts: DeviceFacts) -> Iterator[Launch]:
    from chipmark.backends.triton_cuda.recorded import Shape, launches_of
    from chipmark_kernels import manifest

    if asked.precision not in PRECISIONS:
        raise UnknownNameError("precision", asked.precision, list(PRECISIONS))
    models = [name for name in asked.models.split(",") if name]
    for name in models:
        if name not in PRESETS:
            raise UnknownNameError("model", name, list(PRESETS))
    for option in ("sessions", "chunk", "jobs"):
        if getattr(asked, option) < 1:
            raise UsageError(f"--{option}: must be at least 1, not {getattr(asked, option)}")
    for name, context in itertools.product(models, _numbers("--contexts", asked.contexts)):
        shape = Shape(asked.sessions, context, asked.chunk)
        yield from launches_of(PRESETS[name], asked.precision, shape, facts)
    if asked.bench:
        shapes = tuple(shape for shape in manifest.MODEL_SHAPES if shape.name in models)
        for entry in manifest.entries(facts, manifest.FAMILIES, shapes):
            if entry.dtype == "bf16":
                yield entry.launch


def _numbers(option: str, given: str) -> list[int]:
    try:
        numbers = [int(word) for word in given.split(",") if word]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise UsageError(f"{option}: must be numbers of at least 1 with commas, not {given!r}")
    return numbers


def _unpacked(archive: Path, folder: Path, target: str) -> int:
    from chipmark_kernels import carried_cache

    try:
        info = carried_cache.unpack(archive, folder)
    except carried_cache.CacheError as error:
        raise UsageError(one_line(str(error), 200)) from error
    print(f"{info.kernels} kernels for {info.target} by triton {info.triton} in {folder}")
    if missed := info.misses(target):
        print(missed, file=sys.stderr)
        return 3
    if warning := info.warns():
        print(warning, file=sys.stderr)
    print(f"export TRITON_CACHE_DIR={folder.resolve()}")
    return 0


def _megabytes(paths: Iterable[Path]) -> float:
    n_bytes = sum(path.stat().st_size for path in paths if path.is_file())
    return round(n_bytes / 1e6, 1)


def _text(outcome: Outcome) -> str:
    lines = [f"failed: {line}" for line in outcome.failed]
    o = outcome
    lines += [
        f"{o.launches} launches, {o.kernels} different kernels for {o.target} by triton "
        f"{o.triton}: {o.made} made, {o.found} were there, {len(o.failed)} failed, in "
        f"{o.record_s} s to record and {o.compile_s} s to compile",
        f"second pass: {o.found_again} of {o.kernels} found",
        f"{o.cache}: {o.cache_mb} MB; {o.archive}: {o.archive_mb} MB to carry",
    ]
    return "\n".join(lines)
