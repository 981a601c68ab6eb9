"""Operators as the decoder over slots computes them, on a torch device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional

from chipmark.backends.host import chosen_threads
from chipmark.backends.torch_device import devices, roofs
from chipmark.chips.cpu import read_cpu
from chipmark.kernel_bench.operators.case import Operator, OperatorCase
from chipmark.kernel_bench.operators.reference import Inputs
from chipmark.kernel_bench.operators.runner import Prepared
from chipmark_models.config import ModelConfig
from chipmark_models.decoder.reading import DTYPES, split_pairs
from chipmark_models.decoder.slots import torch_ops
from chipmark_models.decoder.slots.kv import Span
from chipmark_models.decoder.slots.weights import WeightLoader
from chipmark_models.rope import cos_sin_tables
from chipmark_models.tensors import layer_prefix
from chipmark_models.weights.prepared import PrecisionWeights

Step = Callable[[], torch.Tensor]


class TorchRunner:
    """`torch:DEVICE`. Raises what `open_device` raises."""

    def __init__(self, device: str, weights: PrecisionWeights, options: dict[str, Any]) -> None:
        self._device = devices.open_device(device)
        self._weights = weights
        self._dtype = DTYPES[weights.precision]
        self._activation = torch.float32 if self._device.type == "cpu" else self._dtype
        self._loader = WeightLoader(weights, self._device, self._activation)
        if self._device.type == "cpu":
            torch.set_num_threads(chosen_threads())

    def identity(self) -> dict[str, Any]:
        """Device, version of torch and threads."""
        return {
            "device": devices.device_name(self._device) or str(self._device),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }

    def synchronize(self) -> None:
        """Wait for the device."""
        devices.synchronize(self._device)

    def cache_bytes(self) -> int | None:
        """The host's last-level cache, or the device's as torch reports it."""
        if self._device.type == "cpu":
            return read_cpu().llc_bytes
        found = devices.hardware(self._device).get("l2_cache_bytes")
        return found if isinstance(found, int) else None

    def read_bytes_per_s(self, n_bytes: int) -> float | None:
        """By a sum on the device."""
        size = roofs.largest_probe(self._device, n_bytes)
        return None if size is None else roofs.read_bandwidth(self._device, size)

    def flops(self) -> float | None:
        """By square products."""
        return roofs.matmul_rate(self._device, self._weights.precision)

    def prepare(self, case: OperatorCase, inputs: Sequence[Inputs]) -> Prepared:
        """A call an input."""
        with torch.inference_mode():
            steps = [self._step(case, given, layer) for layer, given in enumerate(inputs)]

        def run(step: Step) -> Callable[[], torch.Tensor]:
            def call() -> torch.Tensor:
                with torch.inference_mode():
                    return step()

            return call

        calls = [run(step) for step in steps]
        return Prepared(calls, 1, lambda: _host(calls[0]()))

    def _step(self, case: OperatorCase, given: Inputs, layer: int) -> Step:
        config, loader = case.config, self._loader
        if case.operator is Operator.EMBED:
            table, ids = loader.table(), torch.from_numpy(given["ids"]).to(self._device)
            return lambda: torch_ops.embed(table, ids, self._activation)
        if case.operator is Operator.ATTENTION:
            return self._attention(case, given, layer)
        x = self._on_device(given["x"])
        if case.operator is Operator.RMS_NORM:
            norm = loader.vector(f"{layer_prefix(layer)}input_layernorm.weight")
            return lambda: torch_ops.rms_norm(x, norm, config.rms_eps)
        if case.operator is Operator.SWIGLU:
            width = config.intermediate_size
            return lambda: functional.silu(x.narrow(1, 0, width)).mul_(x.narrow(1, width, width))
        if case.operator is Operator.GREEDY:
            return lambda: torch_ops.greedy(x)
        if case.operator is Operator.HEAD:
            head = loader.head(loader.table())
            return lambda: head(x)
        product = loader.product(case.operator.value, layer)  # type: ignore[arg-type]
        if case.operator is Operator.QKV and config.rope_interleaved:
            return lambda: _pairs_side_by_side(product(x), config)
        return lambda: product(x)

    def _attention(self, case: OperatorCase, given: Inputs, layer: int) -> Step:
        c, n = case.config, case.tokens
        heads = torch.from_numpy(given["qkv"]).view(case.rows, -1, c.head_dim)
        cached = [torch.from_numpy(given[f"past_{kind}"]) for kind in ("key", "value")]
        if c.rope_interleaved:
            # The decoder's projections give pairs as halves; scores do not see the order.
            turned = c.n_heads + c.n_kv_heads
            heads = torch.cat((_halves(heads[:, :turned]), heads[:, turned:]), dim=1)
            cached[0] = _halves(cached[0])
        # Rotated in place: the caller's array stays as it is.
        heads = heads.to(self._device, self._activation, copy=True)
        shape = (case.batch, 2 * c.n_kv_heads, case.context + n, c.head_dim)
        cache = torch.zeros(shape, dtype=self._dtype, device=self._device)
        cache[:, :, : case.context] = torch.cat(cached, dim=1).to(self._device, self._dtype)
        spans = [Span(row, case.context, n, row * n) for row in range(case.batch)]
        cos, sin = cos_sin_tables(c, n, start=case.context)
        cosine, sine = (
            self._on_device(np.tile(np.concatenate(halves, axis=1), (case.batch, 1))).unsqueeze(1)
            for halves in ((cos, cos), (-sin, sin))
        )
        q_norm, k_norm = self._loader.head_norms(layer)
        rotated = heads.narrow(1, 0, c.n_heads + c.n_kv_heads)
        queries = heads.narrow(1, 0, c.n_heads)
        new = heads.narrow(1, c.n_heads, 2 * c.n_kv_heads)
        masks = [None if n == 1 or not case.context else self._mask(case) for _ in spans]

        def step() -> torch.Tensor:
            torch_ops.qk_norm_rope(rotated, c.n_heads, q_norm, k_norm, c.rms_eps, cosine, sine)
            torch_ops.kv_write(cache, new, spans)
            if n == 1:
                return torch_ops.decode_attention(queries, cache, spans)
            return torch_ops.prefill_attention(queries, cache, spans, masks)

        return step

    def _mask(self, case: OperatorCase) -> torch.Tensor:
        shape = (case.tokens, case.context + case.tokens)
        hidden = torch.full(shape, float("-inf"), dtype=self._activation, device=self._device)
        return hidden.triu_(case.context + 1)

    def _on_device(self, array: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device, self._activation)


def _halves(x: torch.Tensor) -> torch.Tensor:
    """Pairs (2i, 2i + 1) of the last axis as halves."""
    return torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1)


def _pairs_side_by_side(qkv: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    """Undo `split_pairs` on the columns of queries and keys, for the comparison."""
    rows = torch.arange(qkv.shape[1])
    queries, rest = rows[: config.q_size], rows[config.q_size :]
    keys, values = rest[: config.kv_size], rest[config.kv_size :]
    order = torch.cat(
        (split_pairs(queries, config.n_heads), split_pairs(keys, config.n_kv_heads), values)
    )
    back = torch.empty_like(qkv)
    back[:, order.to(qkv.device)] = qkv
    return back


def _host(value: torch.Tensor) -> npt.NDArray[np.generic]:
    wide = value.float() if value.is_floating_point() else value
    return np.asarray(wide.cpu().numpy())
