"""A decoder's weights on a device, read tensor by tensor and fused: q, k, v and gate, up.

Interleaved rotary pairs (2i, 2i + 1) become halves (i, i + D/2) by moving the rows of the query
and key projections: scores are sums over a head and do not see the order, so one rotation serves
all families.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from chipmark_models.config import ModelConfig
from chipmark_models.decoder.reading import DTYPES, read_tensor, split_pairs
from chipmark_models.decoder.slots.linear import (
    DEVICE_PLAN,
    Linear,
    LinearPlan,
    choose,
    cpu_candidates,
    fits_fp16,
)
from chipmark_models.tensors import EMBEDDING, FINAL_NORM, HEAD, layer_prefix
from chipmark_models.weights.prepared import PrecisionWeights

Role = Literal["qkv", "out", "gate_up", "down"]
"""The products of a layer."""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer; norms are in the activations' type."""

    input_norm: torch.Tensor
    """(H,), before attention."""

    qkv: Linear
    """Queries, keys and values in one product."""

    q_norm: torch.Tensor | None
    """(D,), None without head norms."""

    k_norm: torch.Tensor | None
    """(D,), None without head norms."""

    out: Linear
    """Output of attention."""

    post_norm: torch.Tensor
    """(H,), before the MLP."""

    gate_up: Linear
    """Gate and up in one product."""

    down: Linear
    """Output of the MLP."""


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """All weights on the device."""

    embedding: torch.Tensor
    """(vocab, H)."""

    layers: tuple[LayerWeights, ...]
    """One a layer."""

    final_norm: torch.Tensor
    """(H,)."""

    head: Linear
    """(vocab, H); where it can be, a tied head is the embedding's own memory."""

    plans: Mapping[str, LinearPlan]
    """How each product is stored and called."""

    trials: Mapping[str, Mapping[str, float]]
    """Seconds measured for the choice; none on accelerators."""

    tuning_s: float
    """Seconds that the choice took."""


class WeightLoader:
    """Reads, fuses and stores weights for one device."""

    def __init__(
        self, weights: PrecisionWeights, device: torch.device, activation: torch.dtype
    ) -> None:
        self._weights = weights
        self._config: ModelConfig = weights.config
        self._device, self._activation = device, activation
        self._dtype = DTYPES[weights.precision]
        self.plans: dict[str, LinearPlan] = {}
        self.trials: dict[str, Mapping[str, float]] = {}
        self.tuning_s = 0.0

    def load(self, progress: Callable[[int, int], None] | None = None) -> DecoderWeights:
        """All weights; at no time more than one tensor beyond those stored."""
        c = self._config
        layers = []
        for index in range(c.n_layers):
            layers.append(self._layer(index))
            if progress:
                progress(index + 1, c.n_layers)
        table = self.table()
        head = self.head(table)
        # On a CPU with `rows`, and on every accelerator, a tied head shares the table's memory.
        norm = self.vector(FINAL_NORM)
        return DecoderWeights(
            table, tuple(layers), norm, head, self.plans, self.trials, self.tuning_s
        )

    def _layer(self, index: int) -> LayerWeights:
        q_norm, k_norm = self.head_norms(index)
        prefix = layer_prefix(index)
        return LayerWeights(
            input_norm=self.vector(f"{prefix}input_layernorm.weight"),
            qkv=self.product("qkv", index),
            q_norm=q_norm,
            k_norm=k_norm,
            out=self.product("out", index),
            post_norm=self.vector(f"{prefix}post_attention_layernorm.weight"),
            gate_up=self.product("gate_up", index),
            down=self.product("down", index),
        )

    def table(self) -> torch.Tensor:
        """The embedding (vocab, H)."""
        return self._read(EMBEDDING)

    def head(self, table: torch.Tensor) -> Linear:
        """The head; `table` is the embedding, whose memory a tied head shares where it can."""
        source = table if self._config.tied_embeddings else self._read(HEAD)
        return self._linear("head", source, None, many=False)

    def head_norms(self, layer: int) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
        """Norms of query and key heads (D,), pairs as halves; None where the model has none."""
        if not self._config.qk_norm:
            return None, None
        prefix = f"{layer_prefix(layer)}self_attn."
        q_norm, k_norm = (self.vector(f"{prefix}{n}_norm.weight") for n in "qk")
        if self._config.rope_interleaved:
            return split_pairs(q_norm, 1), split_pairs(k_norm, 1)
        return q_norm, k_norm

    def product(self, role: Role, layer: int) -> Linear:
        """A product of a layer, its matrices in one."""
        c, prefix = self._config, layer_prefix(layer)
        heads = (c.n_heads, c.n_kv_heads, 0) if c.rope_interleaved else (0, 0, 0)
        modules, pair_heads, bias = {
            "qkv": ([f"self_attn.{n}_proj" for n in "qkv"], heads, c.qkv_bias),
            "out": (["self_attn.o_proj"], (0,), c.attn_out_bias),
            "gate_up": (["mlp.gate_proj", "mlp.up_proj"], (0, 0), c.mlp_bias),
            "down": (["mlp.down_proj"], (0,), c.mlp_bias),
        }[role]
        weight = self._fused([f"{prefix}{n}.weight" for n in modules], pair_heads)
        vector = self._fused([f"{prefix}{n}.bias" for n in modules], pair_heads) if bias else None
        return self._linear(role, weight, vector, many=True)

    def _linear(
        self, role: str, weight: torch.Tensor, bias: torch.Tensor | None, *, many: bool
    ) -> Linear:
        plan = self._plan(role, weight, many=many)
        return Linear(weight, None if bias is None else bias.to(self._activation), plan)

    def _plan(self, role: str, weight: torch.Tensor, *, many: bool) -> LinearPlan:
        if self._device.type != "cpu":
            self.plans[role] = DEVICE_PLAN
            return DEVICE_PLAN
        if role not in self.plans:
            shape, start = (weight.shape[0], weight.shape[1]), time.perf_counter()
            self.plans[role], self.trials[role] = choose(
                shape, self._dtype, cpu_candidates(self._dtype), many
            )
            self.tuning_s += time.perf_counter() - start
        plan = self.plans[role]
        if plan.storage == "packed-fp16" and not fits_fp16(weight):
            # Packing would round some value: this weight stays as it is stored.
            plan = LinearPlan("rows", "mv", "linear", "widened")
            self.plans[f"{role} beyond float16"] = plan
        return plan

    def _fused(self, names: list[str], pair_heads: tuple[int, ...]) -> torch.Tensor:
        parts = [
            split_pairs(self._host(n), h) if h else self._host(n)
            for n, h in zip(names, pair_heads, strict=True)
        ]
        fused = parts[0] if len(parts) == 1 else torch.cat(parts)
        return fused.to(self._device)

    def _read(self, name: str) -> torch.Tensor:
        return self._host(name).to(self._device)

    def vector(self, name: str) -> torch.Tensor:
        """A vector in the activations' type."""
        return self._read(name).to(self._activation)

    def _host(self, name: str) -> torch.Tensor:
        return read_tensor(self._weights, name)
