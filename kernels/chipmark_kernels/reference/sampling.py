"""Sampling in plain torch: the same noise, bit by bit, as the kernel's."""

from __future__ import annotations

from typing import TypeVar

import torch

_MASK = 0xFFFFFFFF


Words = TypeVar("Words", int, torch.Tensor)


def _product(a: Words, b: int) -> tuple[Words, Words]:
    """High and low 32 bits of a * b, both below 2**32, in signed 64-bit arithmetic."""
    low, high = a * (b & 0xFFFF), a * (b >> 16)
    return (high + (low >> 16)) >> 16, (low + ((high & 0xFFFF) << 16)) & _MASK


def philox_first_word(counter: Words, seed: int) -> Words:
    """First 32-bit word of Philox-4x32-10 (Salmon et al. 2011), counter (counter, 0, 0, 0).

    counter: one number, or int64 of any shape.
    """
    c0 = counter & _MASK
    c1 = c2 = c3 = c0 & 0
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(10):
        high0, low0 = _product(c0, 0xD2511F53)
        high1, low1 = _product(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0


def gumbel_noise(n_vocab: int, seed: int, device: torch.device | None = None) -> torch.Tensor:
    """Gumbel variates (n_vocab,) float64 of one row's seed."""
    words = philox_first_word(torch.arange(n_vocab, device=device), seed)
    v = (words.to(torch.float64) + 0.5) * 2.0**-32
    return -torch.log(-torch.log1p(-v))


def sample_reference(
    logits: torch.Tensor,
    *,
    temperatures: torch.Tensor | None = None,
    seeds: torch.Tensor | None = None,
    cutoffs: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `chipmark_kernels.sampling.sample`."""
    x = logits.to(torch.float64)
    if cutoffs is not None:
        x = x.masked_fill(logits.float() < cutoffs[:, None], float("-inf"))
    if temperatures is not None and seeds is not None:
        for row, (temperature, seed) in enumerate(
            zip(temperatures.tolist(), seeds.tolist(), strict=True)
        ):
            if temperature > 0:
                x[row] = x[row] / temperature + gumbel_noise(x.shape[1], seed, x.device)
    best = x.amax(-1, keepdim=True)
    return (x == best).int().argmax(-1).to(torch.int32)


def nucleus_cutoff_reference(
    logits: torch.Tensor, temperatures: torch.Tensor, top_ps: torch.Tensor
) -> torch.Tensor:
    """As `chipmark_kernels.top_p.nucleus_cutoff`, by a sort in float64."""
    x = logits.to(torch.float64)
    warm = torch.where(temperatures > 0, temperatures, torch.ones_like(temperatures))
    ordered, _ = (x / warm[:, None].double()).sort(-1, descending=True)
    mass = ordered.softmax(-1).cumsum(-1)
    count = (mass < top_ps[:, None].double()).sum(-1).clamp(max=x.shape[1] - 1)
    return x.sort(-1, descending=True)[0].gather(1, count[:, None])[:, 0].float()
