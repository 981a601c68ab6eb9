"""`python -m chipmark_kernels.ascend.compile_one REQUEST`: one kernel through Ascend's compilers.

Runs in an interpreter whose `triton` is triton-ascend, in an empty folder, and writes `answer.json`
there. A kernel's module is imported for its text alone, so torch need not be there: a stand-in
takes its place.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from chipmark_kernels.ascend.memory_plan import used_bytes

TRIES = 6
"""Both compilers die of broken memory now and then, of the same input that they take the next
time."""

KEPT = 6_000
"""Characters of what a compiler printed."""

_MIX_MODE = re.compile(r', mix_mode\s*=\s*"[^"]*"')


class _StandIn(types.ModuleType):
    """Has every attribute that is asked for, each a class of its own."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


def lower(request: Mapping[str, Any]) -> str:
    """The kernel in linalg, as triton-ascend hands it to `bishengir-compile`.

    Its own `triton.compile` would ask CANN for the chip next, so the stages are called here one by
    one. Raises what Triton raises, and CalledProcessError where the lowering fails.
    """
    from triton._C.libtriton import ir
    from triton.backends.ascend.compiler import AscendAttrsDescriptor
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import ASTSource, make_backend

    kernel = getattr(importlib.import_module(request["module"]), request["kernel"])
    properties = {"tt.divisibility": request["aligned"], "tt.equal_to": []}
    attributes = AscendAttrsDescriptor.from_dict(
        {"arg_properties": properties, "cls": "AscendAttrsDescriptor"}
    )
    source = ASTSource(kernel, request["signature"], request["constants"], attributes)
    target = GPUTarget("npu", request["arch"], 0)
    backend = make_backend(target)
    options = backend.parse_options({n: request[n] for n in ("num_warps", "num_stages")})
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    stages: dict[str, Callable[..., Any]] = {}
    backend.add_stages(stages, options)
    metadata = {"hash": "", "target": target, **options.__dict__}
    module = source.make_ir(
        options, backend.get_codegen_implementation(), backend.get_module_map(), context
    )
    text: str = stages["ttadapter"](stages["ttir"](module, metadata), metadata)
    # triton-ascend takes it out too before it calls the compiler, which does not know it.
    return _MIX_MODE.sub("", text)


def _front_end(request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(linalg, what to tell): the error is "" where there is none."""
    crashes = 0
    while True:
        try:
            return lower(request), {"error": "", "crashes": crashes}
        except subprocess.CalledProcessError as error:
            if error.returncode < 0 and crashes + 1 < TRIES:
                crashes += 1
                continue
            told = (error.stderr or b"").decode(errors="replace")
            if error.returncode < 0:
                crashes += 1
                told = f"error: died of signal {-error.returncode}, each of {TRIES} times"
            found = re.search(r"error: (.+)", told)
            return "", {"error": (found[1] if found else told)[:200], "crashes": crashes}
        except Exception as error:  # Triton raises many kinds; the row shows each of them.
            # It shows the place in the source first, and what is wrong in the last line.
            lines = [line for line in str(error).splitlines() if line.strip()] or [""]
            told = f"{type(error).__name__}: {lines[-1].strip()}"
            return "", {"error": told[:200], "crashes": crashes}


def _attempt(compiler: str, arch: str, multibuffer: bool) -> dict[str, Any]:
    """Compile `kernel.mlir` of this folder with the options that triton-ascend gives."""
    command = [
        compiler,
        "kernel.mlir",
        f"--target={arch}",
        f"--enable-auto-multi-buffer={multibuffer}",
        "--enable-auto-bind-sub-block=True",
        "--enable-hfusion-compile=true",
        "--enable-hivm-compile=true",
        "--enable-triton-kernel-compile=true",
        "--enable-memory-display",
        "-o",
        "kernel.o",
    ]
    crashes = 0
    while True:
        for left in Path().glob("memory_info*.json"):
            left.unlink()
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        crashes += done.returncode < 0
        if done.returncode >= 0 or crashes == TRIES:
            break
    used: dict[str, int] = {}
    for plan in Path().glob("memory_info*.json"):
        for name, n_bytes in used_bytes(plan.read_text(errors="replace")).items():
            used[name] = max(used.get(name, 0), n_bytes)
    return {
        "multibuffer": multibuffer,
        "code": done.returncode,
        "crashes": crashes,
        "text": (done.stderr + done.stdout)[:KEPT],
        "used": used,
    }


def answered(request: Mapping[str, Any]) -> dict[str, Any]:
    """What the compilers made of a request; the second attempt is made where the first fails."""
    linalg, front_end = _front_end(request)
    attempts: list[dict[str, Any]] = []
    if not front_end["error"]:
        Path("kernel.mlir").write_text(linalg)
        for multibuffer in (True, False):
            attempts.append(_attempt(request["compiler"], request["arch"], multibuffer))
            if attempts[-1]["code"] == 0 or "External hivmc run fails" in attempts[-1]["text"]:
                break
    return {"front_end": front_end, "attempts": attempts}


def main(path: str) -> None:
    """Answer the request of a file."""
    sys.modules["torch"] = _StandIn("torch")
    request = json.loads(Path(path).read_text())
    Path("answer.json").write_text(json.dumps(answered(request)))


if __name__ == "__main__":
    main(sys.argv[1])
