"""Runs the kernels of this folder in Triton's interpreter, whatever else the process did before.

`triton.jit` looks at TRITON_INTERPRET when a function is decorated. So our modules are imported
here with the variable set, and the functions of Triton's own library (`tl.sum` and others), which
are decorated when Triton is first imported, are swapped for the time of these tests only.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

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
)
KERNEL_MODULES = (
    "rmsnorm",
    "embedding",
    "swiglu",
    "rope_kv",
    "prefill_attention",
    "decode_attention",
    "rope_decode_attention",
    "gemm",
    "skinny_gemm",
    "weight_only",
    "fp8_gemm",
    "dense_gemm_hopper",
    "gemv_hopper",
    "philox_weights",
    "sampling",
    "top_p",
)


def _import_interpreted() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        loaded = sys.modules.get("chipmark_kernels.rmsnorm")
        # Modules that are interpreted already are taken as they are: `tests/triton_cuda` may have
        # bound a decoder to them, which a second import would leave with kernels of its own.
        if loaded is None or isinstance(loaded._rmsnorm_kernel, JITFunction):
            for name in [n for n in sys.modules if n.startswith(OURS)]:
                del sys.modules[name]
        for name in KERNEL_MODULES:
            importlib.import_module(f"chipmark_kernels.{name}")


_import_interpreted()


@pytest.fixture(autouse=True)
def interpreted_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for name, function in list(vars(triton.language.standard).items()):
        if isinstance(function, JITFunction):
            interpreted = InterpretedFunction(function.fn)
            monkeypatch.setattr(triton.language.standard, name, interpreted)
            if hasattr(tl, name):
                monkeypatch.setattr(tl, name, interpreted)


# Largest relative error of rms and of a single value: a systematic drift shows in the first long
# before it shows in the second. The interpreter cuts fp32 to bf16 instead of rounding it, up to a
# whole unit in the last place for each of three roundings in a row; a GPU is held to (4e-3, 2e-2).
_LIMITS = {
    torch.float32: (2e-6, 1e-4),
    torch.float16: (1e-3, 5e-3),
    torch.bfloat16: (1.2e-2, 4e-2),
}

Check = Callable[..., None]


def _largest(got: torch.Tensor, oracle: torch.Tensor) -> float:
    """Largest error relative to the value or to the rms of all, whichever is greater."""
    rms = oracle.square().mean().sqrt().item()
    return ((got.double() - oracle).abs() / oracle.abs().clamp(min=rms or 1.0)).max().item()


@pytest.fixture
def assert_accurate() -> Check:
    """Check `got` against a float64 oracle, and against the error of plain torch in got's dtype.

    baseline: torch's own result in the same precision; the kernel may have twice its largest error
    and one unit in the last place of the largest value.
    """

    def check(
        got: torch.Tensor, oracle: torch.Tensor, baseline: torch.Tensor | None = None
    ) -> None:
        assert got.shape == oracle.shape
        assert oracle.dtype == torch.float64
        assert torch.isfinite(got.float()).all()
        rms_limit, max_limit = _LIMITS[got.dtype]
        if baseline is not None:
            # Several roundings in a row, or few values: torch's own error is the yardstick then.
            own = (baseline.double() - oracle).square().mean() / oracle.square().mean()
            rms_limit = max(rms_limit, 1.25 * own.sqrt().item())
            max_limit = max(max_limit, 2 * _largest(baseline, oracle))
        error = (got.double() - oracle).abs()
        rms = oracle.square().mean().sqrt().item()
        rms_error = error.square().mean().sqrt().item()
        assert rms_error <= rms_limit * rms, f"rms error {rms_error / rms:.2e}"
        relative = _largest(got, oracle)
        assert relative <= max_limit, f"largest error {relative:.2e}"
        if baseline is not None:
            ulp = torch.finfo(got.dtype).eps * oracle.abs().max().item()
            factor, ulps = (4, 2) if got.dtype == torch.bfloat16 else (2, 1)
            own_error = (baseline.double() - oracle).abs().max().item()
            allowed = factor * own_error + ulps * ulp
            assert error.max().item() <= allowed, f"{error.max().item():.2e} over {allowed:.2e}"

    return check


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(20_261)


@pytest.fixture
def kernel_bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the kernel bench, and the fake benches that a child process can import."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "benches"))
    names = (
        "attention_cases", "bench", "case", "cases", "command", "document", "figures",
        "gemm_cases", "measuring",
        "order", "peers", "phases", "quantiser_cases", "roofs", "rotation", "row_sources",
        "sampling_cases", "selection", "supervisor", "targets", "tile_bench",
        "tile_document", "tiling", "timing", "tune", "verdict",
        "watch",
    )  # fmt: skip
    found = {name: importlib.import_module(f"chipmark.kernel_bench.{name}") for name in names}
    found["fake"] = importlib.import_module("fake_bench")
    return SimpleNamespace(**found)
