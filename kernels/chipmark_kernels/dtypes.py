"""Names of dtypes and the small shape arithmetic that every launcher needs."""

from __future__ import annotations

import torch

DTYPE_NAMES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "i1",
}
"""Triton's names; with a leading `*` they are the pointer types of a signature."""


def dtype_name(dtype: torch.dtype) -> str:
    """Triton's name of a torch dtype; raises TypeError for one that no kernel takes."""
    if dtype not in DTYPE_NAMES:
        raise TypeError(f"no kernel takes {dtype}; they take {', '.join(map(str, DTYPE_NAMES))}")
    return DTYPE_NAMES[dtype]


def wide_dtype(x: torch.Tensor) -> torch.dtype:
    """What a plain reference computes in: float64 for such an input, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def ceil_div(a: int, b: int) -> int:
    """The smallest integer that is no less than a / b."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is no less than n; 1 for n <= 1."""
    return 1 << max(n - 1, 0).bit_length()


def require_unit_stride(**tensors: torch.Tensor | None) -> None:
    """Raise ValueError naming the tensor whose last dimension is not contiguous."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            raise ValueError(
                f"{name}: the last dimension must be contiguous, not {tensor.stride()}"
            )


def require_elements(name: str, tensor: torch.Tensor, needed: int) -> None:
    """Raise ValueError where `tensor`, a workspace, is not contiguous or has too few elements."""
    if not tensor.is_contiguous():
        raise ValueError(f"{name}: must be contiguous, not {tensor.stride()}")
    if tensor.numel() < needed:
        raise ValueError(f"{name} has {tensor.numel()} elements, {needed} are needed")
