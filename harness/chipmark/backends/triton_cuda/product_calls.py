"""How the decoder calls each product, for those who call one by itself: the check and the trial."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from chipmark_models.decoder.op_table import Implementation
from chipmark_models.decoder.paged.decoder import PagedDecoder
from chipmark_models.decoder.paged.ops import takes_fp8_rows
from chipmark_models.decoder.paged.weights import Product

_FIELDS = {"out_add": "out", "gate_up_swiglu": "gate_up", "down_add": "down"}


def seeded(device: torch.device, seed: int) -> torch.Generator | None:
    """A generator on the device; None on `meta`, where a call is recorded and nothing is drawn."""
    return None if device.type == "meta" else torch.Generator(device).manual_seed(seed)


def products_of(decoder: PagedDecoder, operation: str) -> list[Product]:
    """The weights that an operation of `PRODUCTS` multiplies by, one a layer or the head alone."""
    if operation == "head":
        return [decoder.weights.head]
    name = _FIELDS.get(operation, operation)
    return [getattr(layer, name) for layer in decoder.weights.layers]


def norm_of(decoder: PagedDecoder, operation: str) -> torch.Tensor | None:
    """The norm before an operation's product, of the first layer where each has its own."""
    layer = decoder.weights.layers[0]
    norms = {
        "qkv": layer.input_norm,
        "gate_up_swiglu": layer.post_norm,
        "head": decoder.weights.final_norm,
    }
    return norms.get(operation)


def rows_and_options(
    decoder: PagedDecoder,
    operation: str,
    product: Product,
    rows: int,
    made: Callable[..., torch.Tensor],
    quantise_rows: Implementation,
) -> tuple[Any, dict[str, Any]]:
    """What is multiplied by `product` in a launch of so many rows, and its keywords.

    made(*shape): values of the activations' dtype. Products of `fp8` take many rows normed and
    quantised before.
    """
    matrix, eps = product.matrix, decoder.config.rms_eps
    n, k = matrix.shape
    x, norm = made(rows, k), norm_of(decoder, operation)
    more: dict[str, Any] = {"swiglu": operation == "gate_up_swiglu"}
    if operation.endswith("add"):
        more["residual"] = made(rows, n)
    if takes_fp8_rows(matrix, rows):
        return quantise_rows(x, norm, eps), more
    return x, more | {"norm": norm, "eps": eps}
