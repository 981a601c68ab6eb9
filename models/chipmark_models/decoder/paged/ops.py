"""The operations of the paged decoder, and which implementation of each is used.

Three implementations stand behind one table: `triton` (the kernels), `torch` (plain torch and
cuBLAS) and `reference` (the kernels' references); `hopper` knows products of many rows only. Names
that do not exist are errors. Modules are imported when they are chosen, so that torch alone is
enough where no kernel is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any, NamedTuple

import torch

from chipmark_models.decoder.paged.quantised import QuantisedMatrix
from chipmark_models.errors import UnknownNameError

Implementation = Callable[..., Any]
Matrix = torch.Tensor | QuantisedMatrix
"""A weight (n, k), plain or quantised."""

FEW_ROWS = 64
"""Rows up to which a product is bound by reading its weight; more are bound by arithmetic."""

IMPLEMENTATIONS: dict[str, str] = {
    "triton": "chipmark_models.decoder.paged.triton_ops",
    "torch": "chipmark_models.decoder.paged.torch_ops",
    "reference": "chipmark_models.decoder.paged.reference_ops",
}
_PRODUCTS_ONLY: dict[str, str] = {"hopper": "chipmark_models.decoder.paged.hopper_ops"}


class Fp8Rows(NamedTuple):
    """Activations quantised a row at a time: float8_e4m3fn (rows, k), fp32 scales (rows,), and the
    dtype that a product of them is rounded to."""

    values: torch.Tensor
    scales: torch.Tensor
    dtype: torch.dtype


def takes_fp8_rows(matrix: Matrix, n_rows: int) -> bool:
    """Whether a product by `matrix` takes so many rows as Fp8Rows: by `fp8`, more than FEW_ROWS.

    Fewer rows gain nothing by smaller activations: they are multiplied as they are, in one launch.
    """
    return isinstance(matrix, QuantisedMatrix) and matrix.precision == "fp8" and n_rows > FEW_ROWS


@dataclass(frozen=True, slots=True)
class PagedOps:
    """One implementation of each operation.

    embed_norm(ids, table, norm, eps) -> hidden, normed. quantise_rows(x, norm, eps) -> Fp8Rows.
    qkv, out_add, gate_up_swiglu, down_add, head(x, matrix, bias, *, norm, eps, swiglu, residual)
    -> (rows, n): the norm before the product, SwiGLU and the residual after it. x: (rows, k), or
    Fp8Rows, normed, where `takes_fp8_rows` says so.
    rope_kv(qkv, cos, sin, positions, slots, k_cache, v_cache, n_heads, q_norm, k_norm, eps) -> q.
    prefill_attention(q, k_cache, v_cache, page_table, cu_q, kv_lens, scale) -> like q.
    decode_attention(q, k_cache, v_cache, page_table, kv_lens, scale) -> like q.
    greedy(logits) -> ids int32 (rows,), the lowest of equals.
    """

    embed_norm: Implementation
    quantise_rows: Implementation
    qkv: Implementation
    rope_kv: Implementation
    prefill_attention: Implementation
    decode_attention: Implementation
    out_add: Implementation
    gate_up_swiglu: Implementation
    down_add: Implementation
    head: Implementation
    greedy: Implementation


OPERATIONS: tuple[str, ...] = tuple(field.name for field in fields(PagedOps))
PRODUCTS = ("qkv", "out_add", "gate_up_swiglu", "down_add", "head")
"""Operations that are products by a weight: one function of each implementation serves all."""

_REGISTERED: dict[tuple[str, str], Implementation] = {}


def register(operation: str, name: str, implementation: Implementation) -> None:
    """Add an implementation under a new name; UnknownNameError for an unknown operation."""
    if operation not in OPERATIONS:
        raise UnknownNameError("operation", operation, OPERATIONS)
    _REGISTERED[operation, name] = implementation


def implementations(operation: str) -> tuple[str, ...]:
    """Names of what can compute an operation."""
    if operation not in OPERATIONS:
        raise UnknownNameError("operation", operation, OPERATIONS)
    own = (*IMPLEMENTATIONS, *(_PRODUCTS_ONLY if operation in PRODUCTS else ()))
    return (*own, *(name for op, name in _REGISTERED if op == operation))


def resolve(chosen: Mapping[str, str] | None = None, default: str = "triton") -> dict[str, str]:
    """Each operation with the name of its implementation; UnknownNameError for a wrong one."""
    names = dict.fromkeys(OPERATIONS, default) | dict(chosen or {})
    for operation, name in names.items():
        known = implementations(operation)
        if name not in known:
            raise UnknownNameError(f"implementation of {operation}", name, known)
    return names


def select(names: Mapping[str, str]) -> PagedOps:
    """The implementations of names as `resolve` gives them."""
    return PagedOps(**{operation: find(operation, names[operation]) for operation in OPERATIONS})


def find(operation: str, name: str) -> Implementation:
    """One operation's implementation; `name` as `implementations` lists it."""
    if (operation, name) in _REGISTERED:
        return _REGISTERED[operation, name]
    module = import_module((IMPLEMENTATIONS | _PRODUCTS_ONLY)[name])
    found: Implementation = getattr(module, "product" if operation in PRODUCTS else operation)
    return found
