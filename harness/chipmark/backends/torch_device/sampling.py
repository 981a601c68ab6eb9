"""The two largest logits of each sampled row, on the device and in its order of work."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def two_largest(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """float32 (rows, 2): the logit of the sampled id, and the largest of all others.

    logits: (rows, vocab). ids: (rows,), sampled greedily, so that these are the two largest; where
    they are not, the second exceeds the first, and the engine's checks find it. A copy and a
    maximum cost a quarter of `torch.topk`.
    """
    import torch

    at = ids.to(torch.int64).unsqueeze(1)
    best = logits.gather(1, at)
    rest = logits.scatter(1, at, float("-inf"))
    return torch.cat((best, rest.amax(dim=1, keepdim=True)), dim=1).float()
