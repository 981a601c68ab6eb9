"""The start of every plug-in here: a real backend, and ways to bend its attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np  # noqa: F401  (for the plug-ins)
import torch

from chipmark.backends.torch_device.backend import TorchBackend

Attention = Callable[..., torch.Tensor]


def attend(backend: TorchBackend, wrap: Callable[[Attention], Attention]) -> None:
    """Put a wrapper around decode's attention of a loaded backend."""
    decoder = backend._loaded()
    decoder.ops = replace(decoder.ops, decode_attention=wrap(decoder.ops.decode_attention))


def last_keys(window: int) -> Callable[[Attention], Attention]:
    """A wrapper that attends to the last keys only, and so reads less."""

    def wrap(attention: Attention) -> Attention:
        def shortened(q: torch.Tensor, cache: torch.Tensor, spans: Any) -> torch.Tensor:
            outs = []
            for row, span in enumerate(spans):
                low = max(0, span.end - window)
                part = cache.narrow(2, low, span.end - low)
                one = [replace(span, start=span.start - low)]
                outs.append(attention(q[row : row + 1], part, one))
            return torch.cat(outs)

        return shortened

    return wrap
