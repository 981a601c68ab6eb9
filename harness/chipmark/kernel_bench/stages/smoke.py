"""Each kernel once, at the smallest shape of its tests, launched alone and checked.

The process has CUDA_LAUNCH_BLOCKING=1, so that a fault ends the part that has the kernel's name.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from chipmark.kernel_bench.case import Case
from chipmark.kernel_bench.cases import cases
from chipmark.kernel_bench.measuring import SEED, check, parity_row
from chipmark.kernel_bench.stages.contract import MAIN, Asked, Part
from chipmark.kernel_bench.stages.environment import tool
from chipmark_kernels.device import facts_of
from chipmark_kernels.manifest import left_out

SANITIZER = "compute-sanitizer"
_SANITIZER_S = 50.0
_TAIL = 4_000


def smoke(asked: Asked) -> Iterator[Part]:
    """A part a kernel, the simple ones first; after a fault what `compute-sanitizer` says of it.

    parameters: `device` and `dtype`, "cuda" and "bfloat16" by default.
    """
    where = torch.device(asked.parameters.get("device", "cuda"))
    dtype = getattr(torch, asked.parameters.get("dtype", "bfloat16"))
    found = smallest()
    for case in found:
        if case.kernel in asked.broke:
            yield f"{SANITIZER} {case.kernel}", partial(sanitised, case.kernel)
    right: list[str] = []
    for case in found:
        yield case.kernel, partial(_counted, case, where, dtype, right)


def smallest() -> list[Case]:
    """The case of least bytes of each kernel, in order of bytes."""
    found: dict[str, Case] = {}
    for case in sorted(cases(small=True), key=lambda c: c.bytes):
        found.setdefault(case.kernel, case)
    return list(found.values())


def launched(case: Case, where: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Launch and check it. Raises ArithmeticError for a wrong result."""
    family = "fp8_gemm" if case.kernel == "quantize_rows_fp8" else case.kernel
    if reason := left_out(family, facts_of(where)):
        return {"left_out": reason}
    with torch.inference_mode():
        inputs = case.make(torch.Generator(where).manual_seed(SEED), where, dtype)
        parity = parity_row(check(case, inputs))
    if not parity["ok"]:
        problems = [q for result in parity["results"] for q in result["problems"]]
        raise ArithmeticError(f"{case.name}: {'; '.join(dict.fromkeys(problems))}")
    return {"case": case.name, **parity}


def _counted(
    case: Case, where: torch.device, dtype: torch.dtype, right: list[str]
) -> dict[str, Any]:
    found = launched(case, where, dtype)
    right += [case.kernel] * ("left_out" not in found)
    return found | {MAIN: f"{len(right)} kernels are right"}


def sanitised(kernel: str) -> dict[str, Any]:
    """What memcheck says of the kernel's smallest case, in a process of its own."""
    program = tool(SANITIZER)
    if program is None:
        return {"left_out": f"{SANITIZER} is not here"}
    command = [program, "--tool", "memcheck", sys.executable, "-m", __name__, kernel]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SANITIZER_S, check=False
        )
    except subprocess.TimeoutExpired as late:
        told = (late.stdout or b"").decode(errors="replace")
        return {"ended": f"over {_SANITIZER_S:.0f} s", "tail": told[-_TAIL:]}
    return {"ended": done.returncode, "tail": (done.stdout + done.stderr)[-_TAIL:]}


if __name__ == "__main__":
    asked_for = {case.kernel: case for case in smallest()}[sys.argv[1]]
    launched(asked_for, torch.device("cuda"), torch.bfloat16)
    torch.cuda.synchronize()
