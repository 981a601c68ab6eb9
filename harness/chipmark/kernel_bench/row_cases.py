"""Cases of the kernels that work row by row: norms, embedding, SwiGLU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as functional

from chipmark.kernel_bench.case import Case, Inputs, Peer, random
from chipmark_kernels.embedding import embedding_rmsnorm
from chipmark_kernels.manifest import ModelShape
from chipmark_kernels.reference.embedding import embedding_rmsnorm_reference
from chipmark_kernels.reference.rmsnorm import rmsnorm_reference
from chipmark_kernels.reference.swiglu import swiglu_reference
from chipmark_kernels.rmsnorm import rmsnorm
from chipmark_kernels.swiglu import swiglu


def norm_cases(s: ModelShape, rows: int) -> Iterator[Case]:
    """RMS norms, with and without a residual."""

    def make(rng: Any, device: Any, dtype: Any) -> Inputs:
        x, residual = (random(rng, device, dtype, rows, s.hidden) for _ in range(2))
        return x, random(rng, device, dtype, s.hidden), 1e-6, residual

    def make_plain(rng: Any, device: Any, dtype: Any) -> Inputs:
        return make(rng, device, dtype)[:3]

    def torchs(x: torch.Tensor, weight: torch.Tensor, eps: float, residual: Any = None) -> Any:
        total = x if residual is None else x + residual
        return functional.rms_norm(total, (x.shape[1],), weight, eps), total

    peers: dict[str, Peer] = {"torch": torchs, "torch.compile": torchs}
    bound = "latency" if rows <= 64 else "memory"
    for name, made, rows_moved in (("residual", make, 4), ("plain", make_plain, 2)):
        yield Case(
            "rmsnorm", f"{s.name} rows={rows} {name}", made, rmsnorm, rmsnorm_reference,
            rows_moved * rows * s.hidden * 2, 0, bound, peers,
        )  # fmt: skip


def embedding_cases(s: ModelShape, rows: int) -> Iterator[Case]:
    """Embedding rows with their norm."""

    def ids(rng: torch.Generator) -> torch.Tensor:
        return torch.randint(0, s.vocab, (rows,), generator=rng, device=rng.device)

    def make(rng: Any, device: Any, dtype: Any) -> Inputs:
        table = random(rng, device, dtype, s.vocab, s.hidden)
        norm = random(rng, device, dtype, s.hidden)
        return ids(rng).to(device, torch.int32), table, norm, 1e-6

    def again(inputs: Inputs, rng: torch.Generator) -> Inputs:
        # Other rows of the one table: a copy of it would be gigabytes, of which few are read.
        return ids(rng).to(inputs[0]), *inputs[1:]

    def torchs(ids: torch.Tensor, table: Any, weight: torch.Tensor, eps: float) -> Any:
        hidden = functional.embedding(ids, table)
        return hidden, functional.rms_norm(hidden, weight.shape, weight, eps)

    yield Case(
        "embedding_rmsnorm", f"{s.name} rows={rows}", make, embedding_rmsnorm,
        embedding_rmsnorm_reference, 3 * rows * s.hidden * 2, 0, "latency",
        {"torch": torchs, "torch.compile": torchs}, again=again,
    )  # fmt: skip


def swiglu_cases(s: ModelShape, rows: int) -> Iterator[Case]:
    """SwiGLU of packed gate and up."""

    def make(rng: Any, device: Any, dtype: Any) -> Inputs:
        return (random(rng, device, dtype, rows, 2 * s.inner),)

    def torchs(packed: torch.Tensor) -> torch.Tensor:
        gate, up = packed.chunk(2, -1)
        return functional.silu(gate) * up

    peers: dict[str, Peer] = {"torch": torchs, "torch.compile": torchs}
    bound = "latency" if rows <= 64 else "memory"
    yield Case(
        "swiglu", f"{s.name} rows={rows}", make, swiglu, swiglu_reference, 3 * rows * s.inner * 2,
        0, bound, peers,
    )  # fmt: skip
