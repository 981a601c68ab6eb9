"""The launches that are made before the clock: each kind once or twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chipmark.engine.contract import LoadSpec

if TYPE_CHECKING:
    from chipmark_models.decoder.slots.kv import Span

_CPU_WARM_TOKENS = 256


def longest_prompt(spec: LoadSpec, device_type: str) -> int:
    """Tokens of the longest prompt that is warmed; a CPU compiles nothing for a length."""
    longest = min(spec.max_chunk, spec.max_context - 1)
    return min(longest, _CPU_WARM_TOKENS) if device_type == "cpu" else longest


def warm_launches(longest: int, n_seqs: int) -> list[list[Span]]:
    """Rows of each launch: cold, append, ragged prefill, decode of 1 and of all."""
    from chipmark_models.decoder.slots.kv import Span

    half = max(1, longest // 2)
    launches: list[list[Span]] = [[Span(0, 0, longest, 0)]]
    if longest > 1:
        launches.append([Span(0, half, longest - half, 0)])
    if n_seqs > 1:
        launches.append([Span(0, 0, half, 0), Span(1, 0, max(1, longest - half), half)])
    for rows in sorted({1, n_seqs}):
        # Positions beyond the warmed ones may hold anything: the result is not used.
        launches += [[Span(slot, longest, 1, slot) for slot in range(rows)]] * 2
    return launches
