"""Which implementation multiplies by each weight, by what is fastest on this device.

Tried at load, for each kind of product and number of rows, over the matrices of many layers so
that the weights come from memory as they do in use. The record names the winner.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from chipmark.backends.triton_cuda.product_calls import products_of, rows_and_options, seeded
from chipmark.backends.triton_cuda.product_candidates import able_at
from chipmark.backends.triton_cuda.streams import Call, LaunchStream
from chipmark.backends.triton_cuda.trials import MOST_LAYERS, Choice, median_seconds, tried
from chipmark_models.decoder.op_table import Implementation
from chipmark_models.decoder.paged.decoder import PagedDecoder
from chipmark_models.decoder.paged.ops import PRODUCTS, TABLE, Fp8Rows


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


def choose_products(
    decoder: PagedDecoder,
    candidates: Mapping[str, Sequence[str]],
    rows: Sequence[int],
    stream: LaunchStream,
    known: Mapping[str, Mapping[int, Mapping[str, float]]] | None = None,
) -> dict[str, dict[int, Choice]]:
    """Try the candidates of each operation at each number of rows, and let the decoder use them.

    candidates: names of implementations by operation, all of which compute it rightly here. What
    has one candidate only is not tried. known: seconds by operation, rows and implementation that
    need not be found again. One that raises is dropped; CellFailedError where all do, or where the
    device is lost.
    """
    found: dict[str, dict[int, Choice]] = {}
    ops = decoder.ops
    with torch.inference_mode():
        for operation in PRODUCTS:
            names = candidates.get(operation, ())
            if len(names) < 2:
                continue
            chosen = {
                n: _tried(
                    decoder, operation, able, n, stream, (known or {}).get(operation, {}).get(n, {})
                )
                for n in sorted(set(rows))
                if (able := able_at(names, n))
            }
            calls = tuple(TABLE.find(operation, choice.name) for choice in chosen.values())
            ops = replace(ops, **{operation: ByRows(tuple(chosen), calls)})
            found[operation] = chosen
    decoder.ops = ops
    return found


def _tried(
    decoder: PagedDecoder,
    operation: str,
    names: Sequence[str],
    rows: int,
    stream: LaunchStream,
    known: Mapping[str, float],
) -> Choice:
    def seconds(name: str) -> float:
        return _seconds(decoder, operation, name, rows, stream)

    return tried(seconds, names, operation, f"{rows} rows", decoder.device, known)


def _seconds(
    decoder: PagedDecoder, operation: str, name: str, rows: int, stream: LaunchStream
) -> float:
    """Median seconds of one product on the device."""
    n_layers = len(products_of(decoder, operation)[:MOST_LAYERS])
    return median_seconds(trial(decoder, operation, name, rows), stream) / n_layers


def trial(decoder: PagedDecoder, operation: str, name: str, rows: int) -> Call:
    """The product of so many rows by the weights of every layer, up to MOST_LAYERS."""
    call = TABLE.find(operation, name)
    weights = products_of(decoder, operation)[:MOST_LAYERS]
    generator = seeded(decoder.device, rows)

    def made(*shape: int) -> torch.Tensor:
        values = torch.randn(shape, generator=generator, device=decoder.device)
        return values.to(decoder.activation)

    quantise = decoder.ops.quantise_rows
    x, more = rows_and_options(decoder, operation, weights[0], rows, made, quantise)

    def all_layers() -> tuple[torch.Tensor, torch.Tensor]:
        for weight in weights:
            result = call(x, weight.matrix, weight.bias, **more)
        return result, result

    return all_layers
