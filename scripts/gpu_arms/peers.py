"""Kernels of other libraries where they are installed; their calls were never run on this code's
own machines, so one that fails is a row with its error and counts for nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch

PACKAGES = {"liger": "liger_kernel", "flag_gems": "flag_gems"}


def installed() -> dict[str, bool]:
    """Which of the libraries are here, without importing them."""
    return {n: importlib.util.find_spec(p) is not None for n, p in PACKAGES.items()}


def _liger_swiglu(packed: torch.Tensor) -> Any:
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    gate, up = packed.chunk(2, -1)
    return LigerSiLUMulFunction.apply(gate.contiguous(), up.contiguous())


def _liger_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor) -> Any:
    from liger_kernel.ops.fused_add_rms_norm import LigerFusedAddRMSNormFunction

    return LigerFusedAddRMSNormFunction.apply(x, residual, weight, eps)


def _flag_gems_swiglu(packed: torch.Tensor) -> Any:
    import flag_gems

    return flag_gems.silu_and_mul(*packed.chunk(2, -1))


def _flag_gems_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor
) -> Any:
    import flag_gems

    # It writes into both inputs, as serving engines call it.
    return flag_gems.fused_add_rms_norm(x, residual, [x.shape[1]], weight, eps)


_PEERS: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "swiglu": {"liger": _liger_swiglu, "flag_gems": _flag_gems_swiglu},
    "rmsnorm": {"liger": _liger_norm, "flag_gems": _flag_gems_norm},
}


def optional_peers(kernel: str) -> dict[str, Callable[..., Any]]:
    """Calls of the installed libraries with the inputs of the kernel's cases."""
    here = installed()
    return {name: call for name, call in _PEERS.get(kernel, {}).items() if here[name]}
