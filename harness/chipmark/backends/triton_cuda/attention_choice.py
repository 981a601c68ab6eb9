"""What attends to cold prompts, by what is fastest on this device.

A prompt that begins at position 0 has its keys and values at hand, so torch's own attention (cuDNN,
flash) can compute it; ours reads the pages, as every prompt behind a prefix must. Tried at load for
several lengths; the record names the winners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from chipmark.backends.triton_cuda import trials
from chipmark.backends.triton_cuda.batches import aligned
from chipmark.backends.triton_cuda.kernel_check import failures
from chipmark.backends.triton_cuda.product_choice import ByRows
from chipmark.backends.triton_cuda.streams import LaunchStream
from chipmark.backends.triton_cuda.trials import MOST_LAYERS, Choice, median_seconds
from chipmark_models.decoder.op_table import SEPARATE
from chipmark_models.decoder.paged.decoder import ColdRows, PagedDecoder, cold_rows_attended
from chipmark_models.decoder.paged.ops import TABLE

OPERATION = "cold_attention"
_LEAST_TOKENS = 128
"""Shorter prompts are bound by launches, of which ours is one and the others are several."""


def lengths_tried(most: int) -> tuple[int, ...]:
    """Tokens of the prompts that are tried: from _LEAST_TOKENS in fours, and the most of a launch;
    none where a launch has fewer."""
    powers = [_LEAST_TOKENS << 2 * i for i in range(8)]
    return (*(n for n in powers if n < most), most) if most >= _LEAST_TOKENS else ()


@dataclass(frozen=True, slots=True)
class Cold:
    """What attends to cold prompts.

    least: tokens of a prompt from which on another than ours does, 0 where none does. by_tokens:
    the trials by length, in which SEPARATE is ours. dropped: reasons by implementation.
    """

    least: int = 0
    by_tokens: Mapping[int, Choice] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)

    @property
    def details(self) -> dict[str, Any]:
        """For the record: JSON-safe."""
        return {
            "from_tokens": self.least,
            "by_tokens": {str(n): choice.name for n, choice in self.by_tokens.items()},
            "trials_s": {str(n): dict(choice.seconds) for n, choice in self.by_tokens.items()},
        }


def chosen_cold(
    decoder: PagedDecoder,
    names: Mapping[str, str],
    asked: Mapping[str, str],
    most: int,
    stream: LaunchStream,
    *,
    tried: bool,
) -> Cold:
    """What attends to cold prompts of up to `most` tokens: what is asked for, else the fastest.

    names, asked: implementations in use, and those that the user named, by operation. Without
    `tried` it is ours. An implementation that is wrong here is not tried.
    """
    if names[OPERATION] != SEPARATE:
        return Cold(least=1)
    if not tried or OPERATION in asked or "prefill_attention" in asked:
        return Cold()
    able, dropped = [], {}
    for name in TABLE.implementations(OPERATION):
        if name == SEPARATE:
            continue
        wrong = failures(decoder, {OPERATION: TABLE.find(OPERATION, name)}, (), most)
        if wrong:
            dropped[name] = wrong[OPERATION]
        else:
            able.append(name)
    least, found = choose_cold(decoder, able, lengths_tried(most), stream)
    for choice in found.values():
        dropped |= choice.refused
    return Cold(least, found, dropped)


def choose_cold(
    decoder: PagedDecoder, names: Sequence[str], lengths: Sequence[int], stream: LaunchStream
) -> tuple[int, dict[int, Choice]]:
    """Try `names` and ours at each length, and let the decoder use the winners.

    names: implementations of cold_attention that compute it rightly here. Returns the length from
    which on another than ours always wins, 0 where there is none such, and the trials by length;
    SEPARATE is ours there. One that raises is dropped; CellFailedError where the device is lost.
    """
    if not names or not lengths:
        return 0, {}
    found = {}
    with torch.inference_mode():
        for tokens in sorted(lengths):

            def seconds(name: str, tokens: int = tokens) -> float:
                return _seconds(decoder, name, tokens, stream)

            size = f"{tokens} tokens"
            found[tokens] = trials.tried(
                seconds, (SEPARATE, *names), OPERATION, size, decoder.device
            )
    limits, winners = list(found), [choice.name for choice in found.values()]
    first = 1 + max((i for i, name in enumerate(winners) if name == SEPARATE), default=-1)
    if first == len(winners):
        return 0, found
    calls = tuple(TABLE.find(OPERATION, name) for name in winners[first:])
    decoder.ops = replace(decoder.ops, cold_attention=ByRows(tuple(limits[first:]), calls))
    return (limits[first - 1] + 1 if first else _LEAST_TOKENS), found


def _seconds(decoder: PagedDecoder, name: str, tokens: int, stream: LaunchStream) -> float:
    """Median seconds of a layer's attention to one cold prompt, gathering its keys included."""
    c, device, scale = decoder.config, decoder.device, decoder.config.head_dim**-0.5
    generator = torch.Generator(device).manual_seed(tokens)
    made = torch.randn((tokens, c.q_size + 2 * c.kv_size), generator=generator, device=device)
    qkv = made.to(decoder.activation)
    q = qkv[:, : c.q_size].reshape(tokens, c.n_heads, c.head_dim)
    caches = list(zip(decoder.kv.k, decoder.kv.v, strict=True))[:MOST_LAYERS]
    rows = ColdRows((tokens,), torch.arange(tokens, device=device))
    used = -(-tokens // decoder.kv.page_tokens)
    # As wide as in use: a kernel is compiled for the stride of its rows.
    table = torch.zeros((1, aligned(used)), dtype=torch.int32, device=device)
    table[0, :used] = torch.arange(used, device=device)
    ends = torch.tensor([0, tokens], dtype=torch.int32, device=device)
    lens = ends[1:].clone()  # at an address of its own, aligned as in use

    def all_layers() -> tuple[torch.Tensor, ...]:
        for k, v in caches:
            if name == SEPARATE:
                y = decoder.ops.prefill_attention(q, k, v, table, ends, lens, scale)
            else:
                y = cold_rows_attended(TABLE.find(OPERATION, name), q, qkv, k, rows, scale)
        return (y,)

    return median_seconds(all_layers, stream) / len(caches)
