"""Jobs through Ascend's compilers, a process tree each; what was answered is kept in the cache."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chipmark.errors import CannotWriteError
from chipmark.kernel_bench.ascend_environment import PACKAGES, AscendEnvironment
from chipmark.supervised import Supervised
from chipmark_kernels.ascend import compile_one, memory_plan
from chipmark_kernels.ascend.jobs import AscendJob
from chipmark_kernels.ascend.memory_plan import State, Verdict, judged
from chipmark_models.cache import cache_path
from chipmark_models.scratch import Scratch

_POLL_S = 0.05


@dataclass(slots=True)
class _Running:
    index: int
    scratch: Scratch
    program: Supervised
    started_s: float

    def end(self) -> None:
        self.program.end()
        self.program.process.wait()
        self.scratch.remove()


def cached_at(job: AscendJob, arch: str) -> Path:
    """Where the answer of a job is kept: under the hash of all that enters it."""
    here = [inspect.getsource(module) for module in (compile_one, memory_plan)]
    entering = [job.cache_key, job.request(), arch, PACKAGES, here]
    digest = hashlib.sha256(json.dumps(entering, sort_keys=True).encode()).hexdigest()
    return cache_path("ascend-answers", f"{digest}.json")


def _kept(path: Path) -> Verdict | None:
    try:
        return judged(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not there, or cut short: it is compiled again


def _keep(path: Path, answer: Mapping[str, Any]) -> None:
    half = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.write_text(json.dumps(answer), encoding="utf-8")
        os.replace(half, path)
    except OSError as error:
        raise CannotWriteError(path, error) from error


def compile_all(
    jobs: Sequence[AscendJob],
    arch: str,
    environment: AscendEnvironment,
    n_processes: int,
    limit_s: float,
) -> Iterator[tuple[int, Verdict]]:
    """(position in `jobs`, verdict) as they end, in up to `n_processes` at once.

    A job that takes longer than `limit_s` is ended and not kept, so that another limit may be
    tried. Nothing that was started is left where the caller stops.
    """
    places = [cached_at(job, arch) for job in jobs]
    waiting: deque[int] = deque()
    for index, place in enumerate(places):
        kept = _kept(place)
        if kept is None:
            waiting.append(index)
        else:
            yield index, kept
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < n_processes:
                index = waiting.popleft()
                running.append(_started(index, jobs[index], arch, environment))
            ended = [one for one in running if _has_ended(one, limit_s)]
            for one in ended:
                verdict, answer = _outcome(one, limit_s)
                running.remove(one)
                one.end()
                if answer is not None:
                    _keep(places[one.index], answer)
                yield one.index, verdict
            if not ended:
                time.sleep(_POLL_S)
    finally:
        for one in running:
            one.end()


def _started(index: int, job: AscendJob, arch: str, environment: AscendEnvironment) -> _Running:
    scratch = Scratch("chipmark-ascend-")
    compiler = str(environment.compiler)
    request = job.request() | {"arch": arch, "compiler": compiler}
    (scratch.path / "request.json").write_text(json.dumps(request), encoding="utf-8")
    root = str(Path(inspect.getfile(compile_one)).parents[2])
    # Nothing of Triton's own variables is wanted there: it is another Triton.
    passed_on = {n: v for n, v in os.environ.items() if not n.startswith("TRITON_")}
    variables = passed_on | {
        "PYTHONPATH": root,
        "PYTHONDONTWRITEBYTECODE": "1",
        "TRITON_CACHE_DIR": str(scratch.path / "triton"),
    }
    command = [str(environment.python), "-m", "chipmark_kernels.ascend.compile_one", "request.json"]
    with (scratch.path / "log").open("wb") as log:
        program = Supervised(command, variables, cwd=scratch.path, stdout=log.fileno())
    return _Running(index, scratch, program, time.monotonic())


def _has_ended(one: _Running, limit_s: float) -> bool:
    late = time.monotonic() - one.started_s > limit_s
    return late or one.program.code(0.0) is not None


def _outcome(one: _Running, limit_s: float) -> tuple[Verdict, Mapping[str, Any] | None]:
    """The verdict, and the answer that is worth keeping."""
    if one.program.code(0.0) is None:
        reason = f"not compiled within {limit_s:g} s; --limit-s gives it more"
        return Verdict(State.REFUSED, reason=reason), None
    try:
        answer = json.loads((one.scratch.path / "answer.json").read_text(encoding="utf-8"))
        return judged(answer), answer
    except (OSError, ValueError, KeyError, TypeError):
        log = (one.scratch.path / "log").read_text(errors="replace").strip().splitlines()
        told = log[-1][:200] if log else "no word"
        reason = f"the compiler's process {one.program.how_it_ended(0.0)}: {told}"
        return Verdict(State.REFUSED, reason=reason), None
