"""Triton's cache on this machine: whether what was carried here hits, and what it lacks made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from chipmark.kernel_bench.stages.contract import MAIN, Asked, Part
from chipmark_kernels import carried_cache
from chipmark_kernels.device import DeviceFacts, facts_of
from chipmark_models.files import whole_file

_HEADROOM_S = 10.0
"""Left of the call when a fill is ended; what was compiled by then stays in the cache."""

_TAIL = 2_000


def folder() -> Path:
    """Where Triton keeps compiled kernels."""
    import triton

    named = os.environ.get("TRITON_CACHE_DIR") or triton.knobs.cache.dir
    return Path(named)


def state(target: str) -> dict[str, Any]:
    """What made the cache, and in a sentence whether a run on `target` will find kernels in it."""
    where = folder()
    here = asdict(carried_cache.made_here(target, carried_cache.kernels_in(where)))
    found: dict[str, Any] = {"folder": str(where), "here": here}
    try:
        info = carried_cache.cache_info(where)
    except carried_cache.CacheError as error:
        return found | {"carried": None, "misses": str(error), "warns": ""}
    return found | {
        "carried": asdict(info), "misses": info.misses(target), "warns": info.warns(),
    }  # fmt: skip


def hits(found: dict[str, Any]) -> bool:
    """Whether all that was made ahead is found as it is."""
    return not found["misses"] and not found["warns"]


def precompile(asked: Asked) -> Iterator[Part]:
    """What a decode step of some models launches, by `chipmark kernels ahead --cache` in a process
    of its own, which compiles in many; nothing where a carried cache hits.

    parameters: `models` and `contexts`, as that command takes them. One part, for the command
    marks a cache as made ahead when all of it is there.
    """
    facts = facts_of(torch.device("cuda"))
    yield "filled", partial(_filled, asked, facts)


def _filled(asked: Asked, facts: DeviceFacts) -> dict[str, Any]:
    if hits(state(facts.name)):
        return {"left_out": "the carried cache hits", MAIN: "the carried cache hits"}
    command = [
        sys.executable, "-m", "chipmark.kernel_bench", "ahead", "--cache", str(folder()),
        "--models", asked.parameters["models"], "--contexts", asked.parameters["contexts"],
        "--target", facts.name, "--product", facts.product, "--format", "json",
    ]  # fmt: skip
    limit = max(1.0, asked.until_s - time.monotonic() - _HEADROOM_S)
    # Of this process's group: it is ended with it where the part is late.
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    if not done.stdout.strip():
        raise RuntimeError(f"kernels ahead ended with {done.returncode}: {done.stderr[-_TAIL:]}")
    outcome = json.loads(done.stdout)
    if outcome["failed"]:
        raise RuntimeError(f"{len(outcome['failed'])} do not compile: {outcome['failed'][0]}")
    told = f"{outcome['made']} made, {outcome['found']} were there, in {outcome['compile_s']} s"
    return {**outcome, MAIN: told}


def pack_cache(asked: Asked) -> Iterator[Part]:
    """`triton-cache.tar.gz`, which `chipmark kernels ahead --unpack` lays out elsewhere."""
    target = facts_of(torch.device(asked.parameters.get("device", "cuda"))).name
    yield "packed", partial(packed, folder(), asked.folder / carried_cache.ARCHIVE, target)


def packed(cache: Path, out: Path, target: str) -> dict[str, Any]:
    """Pack the cache into the file; RuntimeError for an empty one."""
    if not carried_cache.kernels_in(cache):
        raise RuntimeError(f"{cache} holds no compiled kernel")
    made = carried_cache.pack(cache, target)
    with whole_file(out) as hidden:
        shutil.copyfile(made, hidden)
    kernels, megabytes = carried_cache.kernels_in(cache), out.stat().st_size / 1e6
    return {
        "file": out.name, "kernels": kernels, "mb": round(megabytes, 1),
        MAIN: f"{kernels} kernels, {megabytes:.1f} MB",
    }  # fmt: skip
