"""The one planner of shapes: which rows share a launch, and what they are padded to.

Pure functions over sizes. Padding is recoverable from events: `batch_bucket * chunk_bucket`
positions are computed for `n_tokens` useful ones.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chipmark.engine.contract import Caps, Phase


@dataclass(frozen=True, slots=True)
class Chunk:
    """Prompt tokens `start .. start + length` of a row's context, all of one phase."""

    row: int
    start: int
    length: int
    phase: Phase
    sample: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest launches that a backend takes: `Caps` with its buckets taken into account."""

    decode_rows: int
    prefill_rows: int
    chunk: int
    batch_buckets: tuple[int, ...]
    chunk_buckets: tuple[int, ...]
    context_buckets: tuple[int, ...]
    mixed: bool

    @classmethod
    def of(cls, caps: Caps) -> Limits:
        """Raises ValueError where the capabilities contradict each other."""
        check_caps(caps)
        largest = caps.batch_buckets[-1] if caps.batch_buckets else caps.max_batch
        rows = min(caps.max_batch, largest)
        longest = caps.chunk_buckets[-1] if caps.chunk_buckets else caps.max_chunk
        return cls(
            decode_rows=rows,
            prefill_rows=min(caps.prefill_rows, rows),
            chunk=min(caps.max_chunk, longest),
            batch_buckets=caps.batch_buckets,
            chunk_buckets=caps.chunk_buckets,
            context_buckets=caps.context_buckets,
            mixed=caps.mixed,
        )


def check_caps(caps: Caps) -> None:
    """Raise ValueError naming what in `caps` cannot be planned for."""
    for name in ("max_context", "max_batch", "max_chunk", "prefill_rows", "in_flight"):
        if getattr(caps, name) < 1:
            raise ValueError(f"caps.{name} is {getattr(caps, name)}; at least 1")
    for name in ("chunk_buckets", "batch_buckets", "context_buckets"):
        buckets = getattr(caps, name)
        if any(b < 1 for b in buckets) or list(buckets) != sorted(set(buckets)):
            raise ValueError(f"caps.{name} is {buckets}; positive and ascending")
    if caps.kv == "paged":
        if caps.prefix == "copy" or caps.page_tokens < 1 or caps.n_pages < 1:
            raise ValueError("paged caps need pages, and share prefixes or do not reuse them")
    elif caps.prefix == "share" or caps.n_slots < 1:
        raise ValueError("slot caps need slots, and copy prefixes or do not reuse them")


def bucket(size: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `size`; `size` itself where any goes.

    Raises ValueError where none holds it.
    """
    if not buckets:
        return size
    index = bisect_left(buckets, size)
    if index == len(buckets):
        raise ValueError(f"{size} is over the largest bucket {buckets[-1]}")
    return buckets[index]


def split_decode(n_rows: int, limits: Limits) -> Iterator[slice]:
    """Slices of the decode rows, one a launch: at most ceil(n / largest batch) of them."""
    for start in range(0, n_rows, limits.decode_rows):
        yield slice(start, min(start + limits.decode_rows, n_rows))


def group_chunks(chunks: Sequence[Chunk], limits: Limits, mixed_with: int = 0) -> list[list[Chunk]]:
    """Chunks of a step, in order, as launches.

    A launch has one phase (unless the backend takes mixed ones), at most `prefill_rows` rows, at
    most `chunk` tokens, and one chunk of a row, because the next chunk attends to it. Where
    chunks are padded to buckets, only chunks of the same bucket share a launch, so that a short
    one is not padded to a long one. `mixed_with`: decode rows that join the first launch.
    """
    launches: list[list[Chunk]] = []
    tokens = 0
    for chunk in _split(chunks, limits.chunk):
        last = launches[-1] if launches else []
        beside = mixed_with if len(launches) == 1 else 0
        if last and tokens + chunk.length <= limits.chunk and _joins(chunk, last, limits, beside):
            last.append(chunk)
            tokens += chunk.length
        else:
            launches.append([chunk])
            tokens = chunk.length
    return launches


def _joins(chunk: Chunk, others: list[Chunk], limits: Limits, beside: int) -> bool:
    first = others[0]
    return (
        (limits.mixed or first.phase == chunk.phase)
        and len(others) < limits.prefill_rows
        and len(others) + beside < limits.decode_rows
        and all(other.row != chunk.row for other in others)
        and (
            not limits.chunk_buckets
            or bucket(chunk.length, limits.chunk_buckets)
            == bucket(first.length, limits.chunk_buckets)
        )
    )


def _split(chunks: Sequence[Chunk], largest: int) -> Iterator[Chunk]:
    for chunk in chunks:
        start, end = chunk.start, chunk.start + chunk.length
        while end - start > largest:
            yield Chunk(chunk.row, start, largest, chunk.phase, False)
            start += largest
        yield Chunk(chunk.row, start, end - start, chunk.phase, chunk.sample)
