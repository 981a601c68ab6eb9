"""Runs the kernels in Triton's interpreter, as `tests/kernels/conftest.py` does and says why.

Modules that are interpreted already (that folder's, in the same run) are taken as they are.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

OURS = (
    "chipmark_kernels",
    "chipmark_models.decoder.paged.triton_ops",
    "chipmark_models.decoder.paged.fused",
    "chipmark_models.decoder.paged.mixed_ops",
    "chipmark_models.decoder.paged.scaled_ops",
)


def _import_interpreted() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        loaded = sys.modules.get("chipmark_kernels.rmsnorm")
        if loaded is None or isinstance(loaded._rmsnorm_kernel, JITFunction):
            for name in [n for n in sys.modules if n.startswith(OURS)]:
                del sys.modules[name]
        for name in ("triton_ops", "mixed_ops", "scaled_ops", "fused_ops", "fused_ahead_ops"):
            importlib.import_module(f"chipmark_models.decoder.paged.{name}")


_import_interpreted()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    # Barriers of two threads cost a scheduler's slice each on a busy machine.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def interpreted_library() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for name, function in list(vars(triton.language.standard).items()):
            if isinstance(function, JITFunction):
                interpreted = InterpretedFunction(function.fn)
                patch.setattr(triton.language.standard, name, interpreted)
                if hasattr(tl, name):
                    patch.setattr(tl, name, interpreted)
        yield
