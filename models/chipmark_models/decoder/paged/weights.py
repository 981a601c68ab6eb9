"""The weights of the decoder over pages: plain or quantised matrices, fused as `slots` has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from chipmark_models.decoder.paged.ops import Matrix
from chipmark_models.decoder.paged.quantised import QuantisedMatrix, load_fused
from chipmark_models.decoder.reading import DTYPES, read_tensor, split_pairs
from chipmark_models.precision import precision_named
from chipmark_models.tensors import EMBEDDING, FINAL_NORM, HEAD, layer_prefix
from chipmark_models.weights.prepared import PrecisionWeights


@dataclass(frozen=True, slots=True)
class Product:
    """A weight and its bias."""

    matrix: Matrix
    """(n, k)."""

    bias: torch.Tensor | None
    """(n,), None for none."""


@dataclass(frozen=True, slots=True)
class PagedLayer:
    """One layer."""

    input_norm: torch.Tensor
    """(H,), before attention."""

    qkv: Product
    """Queries, keys and values in one product."""

    q_norm: torch.Tensor | None
    """(D,), None without head norms."""

    k_norm: torch.Tensor | None
    """(D,), None without head norms."""

    out: Product
    """Output of attention."""

    post_norm: torch.Tensor
    """(H,), before the MLP."""

    gate_up: Product
    """Gate and up in one product."""

    down: Product
    """Output of the MLP."""


@dataclass(frozen=True, slots=True)
class PagedWeights:
    """All weights on the device."""

    embedding: torch.Tensor
    """(vocab, H)."""

    layers: tuple[PagedLayer, ...]
    """One a layer."""

    final_norm: torch.Tensor
    """(H,)."""

    head: Product
    """(vocab, H); a tied head is the embedding's own memory."""

    @property
    def n_bytes(self) -> int:
        """Bytes on the device, scales included; a tied head once."""
        found: dict[int, int] = {}
        for matrix in self._matrices():
            if isinstance(matrix, QuantisedMatrix):
                found[matrix.packed.data_ptr()] = matrix.n_bytes
            else:
                found[matrix.data_ptr()] = matrix.numel() * matrix.element_size()
        return sum(found.values())

    def _matrices(self) -> list[Matrix]:
        layers = [p.matrix for x in self.layers for p in (x.qkv, x.out, x.gate_up, x.down)]
        return [self.embedding, self.head.matrix, *layers]


def activation_dtype(precision: str) -> torch.dtype:
    """Dtype of activations and KV on a device: that of the tensors which are kept."""
    return DTYPES[precision_named(precision).kept]


def load_weights(
    weights: PrecisionWeights,
    device: torch.device,
    activation: torch.dtype,
    progress: Callable[[int, int], None] | None = None,
) -> PagedWeights:
    """Read, fuse and copy tensor by tensor; tensors that are not quantised get `activation`.

    Interleaved rotary pairs become halves by moving rows, see `reading.split_pairs`.
    """
    c = weights.config

    def host(name: str, heads: int = 0) -> torch.Tensor:
        tensor = read_tensor(weights, name)
        return split_pairs(tensor, heads) if heads else tensor

    def fused(names: list[str], heads: tuple[int, ...]) -> torch.Tensor:
        parts = [host(name, n) for name, n in zip(names, heads, strict=True)]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole.to(device, activation)

    def product(names: list[str], heads: tuple[int, ...], bias: bool) -> Product:
        stored = [f"{name}.weight" for name in names]
        vector = fused([f"{name}.bias" for name in names], heads) if bias else None
        if precision_named(weights.stored_as(stored[0])).quantised:
            return Product(load_fused(weights, stored, device, heads), vector)
        return Product(fused(stored, heads), vector)

    def vector(name: str, heads: int = 0) -> torch.Tensor:
        return host(name, heads).to(device, activation)

    pairs = c.rope_interleaved
    heads = (c.n_heads, c.n_kv_heads, 0) if pairs else (0, 0, 0)
    layers = []
    for index in range(c.n_layers):
        prefix = layer_prefix(index)
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        layers.append(
            PagedLayer(
                vector(prefix + "input_layernorm.weight"),
                product([attention + f"{n}_proj" for n in "qkv"], heads, c.qkv_bias),
                vector(attention + "q_norm.weight", int(pairs)) if c.qk_norm else None,
                vector(attention + "k_norm.weight", int(pairs)) if c.qk_norm else None,
                product([attention + "o_proj"], (0,), c.attn_out_bias),
                vector(prefix + "post_attention_layernorm.weight"),
                product([mlp + "gate_proj", mlp + "up_proj"], (0, 0), c.mlp_bias),
                product([mlp + "down_proj"], (0,), c.mlp_bias),
            )
        )
        if progress:
            progress(index + 1, c.n_layers)
    table = vector(EMBEDDING)
    head = table if c.tied_embeddings else vector(HEAD)
    return PagedWeights(table, tuple(layers), vector(FINAL_NORM), Product(head, None))
