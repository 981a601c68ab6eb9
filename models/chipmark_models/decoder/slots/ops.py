"""The operations of the decoder, and which implementation of each is used.

A table of names, so that the model's code is one for every device: another package registers its
kernels under a name and hands `{operation: name}` to the decoder. Unknown names are errors; there
is no falling back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from chipmark_models.decoder.slots import torch_ops
from chipmark_models.errors import UnknownNameError

Implementation = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Ops:
    """One implementation of each operation; signatures as in `torch_ops`."""

    embed: Implementation
    rms_norm: Implementation
    qkv: Implementation
    qk_norm_rope: Implementation
    kv_write: Implementation
    prefill_attention: Implementation
    decode_attention: Implementation
    out_add: Implementation
    gate_up_swiglu: Implementation
    down_add: Implementation
    head: Implementation
    greedy: Implementation


OPERATIONS: tuple[str, ...] = tuple(field.name for field in fields(Ops))

_TABLE: dict[str, dict[str, Implementation]] = {
    name: {"torch": getattr(torch_ops, name)} for name in OPERATIONS
}


def register(operation: str, name: str, implementation: Implementation) -> None:
    """Add an implementation; raises UnknownNameError for an operation that does not exist."""
    if operation not in _TABLE:
        raise UnknownNameError("operation", operation, OPERATIONS)
    _TABLE[operation][name] = implementation


def implementations(operation: str) -> tuple[str, ...]:
    """Names registered for an operation."""
    if operation not in _TABLE:
        raise UnknownNameError("operation", operation, OPERATIONS)
    return tuple(_TABLE[operation])


def select(chosen: Mapping[str, str] | None = None) -> Ops:
    """The table's row of implementations, "torch" where `chosen` does not name another."""
    wanted = dict(chosen or {})
    for operation, name in wanted.items():
        if name not in implementations(operation):
            raise UnknownNameError(
                f"implementation of {operation}", name, implementations(operation)
            )
    return Ops(**{name: _TABLE[name][wanted.get(name, "torch")] for name in OPERATIONS})
