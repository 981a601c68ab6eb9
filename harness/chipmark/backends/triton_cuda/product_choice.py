"""Which implementation multiplies by each weight, by what is fastest on this device.

Tried at load, for each kind of product and number of rows, over the matrices of many layers so
that the weights come from memory as they do in use. The record names the winner.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from chipmark.backends.triton_cuda.streams import Stream
from chipmark_models.decoder import paged_ops
from chipmark_models.decoder.paged import PagedDecoder
from chipmark_models.decoder.paged_ops import PRODUCTS, Fp8Rows, Implementation
from chipmark_models.decoder.paged_weights import Product
from chipmark_models.decoder.quantised import QuantisedMatrix

REPEATS = 5
MOST_LAYERS = 16
MANY_ROWS = 64
"""Rows above which Hopper's own kernel is tried."""


@dataclass(frozen=True, slots=True)
class ByRows:
    """One operation that passes a launch on by its rows: to calls[i] up to limits[i] of them, to
    the last beyond."""

    limits: tuple[int, ...]
    calls: tuple[Implementation, ...]

    def __call__(self, x: torch.Tensor | Fp8Rows, *args: Any, **keywords: Any) -> torch.Tensor:
        """The product."""
        rows = (x.values if isinstance(x, Fp8Rows) else x).shape[0]
        at = min(bisect_left(self.limits, rows), len(self.calls) - 1)
        result: torch.Tensor = self.calls[at](x, *args, **keywords)
        return result


@dataclass(frozen=True, slots=True)
class Choice:
    """Seconds of one product by implementation, and the fastest."""

    seconds: Mapping[str, float]

    @property
    def name(self) -> str:
        """The fastest."""
        return min(self.seconds, key=lambda name: self.seconds[name])


def choose_products(
    decoder: PagedDecoder,
    candidates: Mapping[str, Sequence[str]],
    rows: Sequence[int],
    stream: Stream,
) -> dict[str, dict[int, Choice]]:
    """Try the candidates of each operation at each number of rows, and let the decoder use them.

    candidates: names of implementations by operation, all of which compute it rightly here. What
    has one candidate only is not tried.
    """
    found: dict[str, dict[int, Choice]] = {}
    ops = decoder.ops
    with torch.inference_mode():
        for operation in PRODUCTS:
            names = candidates.get(operation, ())
            if len(names) < 2:
                continue
            chosen = {
                n: Choice({name: _seconds(decoder, operation, name, n, stream) for name in able})
                for n in sorted(set(rows))
                if (able := [name for name in names if name != "hopper" or n > MANY_ROWS])
            }
            calls = tuple(implementation(operation, choice.name) for choice in chosen.values())
            ops = replace(ops, **{operation: ByRows(tuple(chosen), calls)})
            found[operation] = chosen
    decoder.ops = ops
    return found


def implementation(operation: str, name: str) -> Implementation:
    """One operation's implementation by name, of a module that may know products only."""
    return paged_ops.find(operation, name)


def _seconds(decoder: PagedDecoder, operation: str, name: str, rows: int, stream: Stream) -> float:
    """Median seconds of one product on the device."""
    call = implementation(operation, name)
    weights = _weights(decoder, operation)
    made = torch.Generator(decoder.device).manual_seed(rows)
    n, k = weights[0].matrix.shape
    plain = torch.randn((rows, k), generator=made, device=decoder.device).to(decoder.activation)
    x: torch.Tensor | Fp8Rows = plain
    more: dict[str, Any] = {"swiglu": operation == "gate_up_swiglu"}
    if operation.endswith("add"):
        more["residual"] = plain.new_zeros((rows, n))
    norm = decoder.weights.layers[0].input_norm if operation in ("qkv", "gate_up_swiglu") else None
    norm = decoder.weights.final_norm if operation == "head" else norm
    matrix = weights[0].matrix
    if isinstance(matrix, QuantisedMatrix) and matrix.precision == "fp8":
        x = decoder.ops.quantise_rows(plain, norm, decoder.config.rms_eps)
    else:
        more |= {"norm": norm, "eps": decoder.config.rms_eps}

    def all_layers() -> tuple[torch.Tensor, torch.Tensor]:
        for weight in weights:
            result = call(x, weight.matrix, weight.bias, **more)
        return result, result

    play = stream.capture(all_layers)
    play()
    seconds = []
    for _ in range(REPEATS):
        first = stream.mark()
        play()
        last = stream.mark()
        stream.wait(last)
        seconds.append(stream.seconds(first, last) / len(weights))
    return statistics.median(seconds)


def _weights(decoder: PagedDecoder, operation: str) -> list[Product]:
    if operation == "head":
        return [decoder.weights.head]
    field = {"out_add": "out", "gate_up_swiglu": "gate_up", "down_add": "down"}
    name = field.get(operation, operation)
    return [getattr(layer, name) for layer in decoder.weights.layers[:MOST_LAYERS]]
