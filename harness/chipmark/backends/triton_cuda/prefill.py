"""Prefill launches: by a CUDA graph where one is at hand and pays, else operation by operation.

An eager launch takes the host milliseconds (nine launches a layer), in which a device computes
hundreds of tokens, so short prompts wait for the host. Graphs are captured for buckets of tokens up
to where the device is the slower one; a launch is padded to its bucket, which its positions count.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from chipmark.backends.torch_device.devices import answers, synchronize
from chipmark.backends.torch_device.sampling import two_largest
from chipmark.backends.triton_cuda.batches import PrefillInputs, ragged_batch
from chipmark.backends.triton_cuda.streams import Call, LaunchStream
from chipmark.engine.contract import I32, LaunchPlan, Rows
from chipmark.errors import CellFailedError
from chipmark_kernels.formats import PAGE_TOKENS
from chipmark_models.decoder.paged.decoder import PagedBatch, PagedDecoder
from chipmark_models.plain_text import one_line

_LEAST = 16
_HOST_BOUND = 2.0
"""Graphs are captured up to a launch that takes the device so many times as long as the host."""

CAPTURE_S = 15.0
"""Seconds of a load after which no further graph is captured: what is left runs eager."""


class Bucket(NamedTuple):
    """One captured launch: so many tokens and rows, whether its row is cold (attends to itself
    alone), and whether its last tokens are sampled."""

    tokens: int
    rows: int
    cold: bool
    sampled: bool


@dataclass(frozen=True, slots=True)
class Graph:
    """A captured launch and the seconds that it takes the device."""

    call: Call
    seconds: float


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A queued launch.

    logits, ids, best: of rows, of which those of `sampled` are wanted. positions: computed ones,
    padding included. sent: bytes to the device. graph: how it went there.
    """

    logits: torch.Tensor
    ids: torch.Tensor
    best: torch.Tensor
    sampled: Any
    positions: int
    sent: int
    graph: bool


def token_buckets(most: int) -> tuple[int, ...]:
    """Tokens that prefill is captured for: 16, 32, 48, 64, then four in each doubling, and `most`:
    over 64 tokens at most a fifth of a launch is padding."""
    steps = [_LEAST * n << octave for octave in range(16) for n in (4, 5, 6, 7)]
    return (*(n for n in (16, 32, 48, *steps) if n < most), most)


def graph_bytes(chunk: int, rows: int, vocab: int, token_bytes: int, item: int) -> int:
    """Memory of the graphs: activations of a chunk, which they share, and logits of each.

    token_bytes: activations of a token. item: bytes of an element.
    """
    kept = len(token_buckets(chunk)) * (rows + 2) * vocab * item
    return chunk * token_bytes + kept


@dataclass(slots=True)
class Prefill:
    """Prefill launches of one loaded decoder.

    cold_from: tokens from which on a row that begins at position 0 attends to itself alone, by the
    decoder's `cold_attention`; 0 where none does.
    """

    decoder: PagedDecoder
    stream: LaunchStream
    cold_from: int = 0
    graphs: dict[Bucket, Graph] = field(default_factory=dict)
    host_s: float = 0.0
    """Host seconds of an eager launch."""
    refused: str = ""
    """Why further graphs were not captured, where a capture failed."""
    _inputs: PrefillInputs | None = None
    _tokens: I32 = field(default_factory=lambda: np.zeros(0, np.int32))
    _rows: int = 1

    def launch(self, plan: LaunchPlan) -> Prefilled:
        """Queue a launch."""
        bucket = self.bucket_of(plan.rows)
        if bucket is None:
            return self.eager(plan, cold=self._is_cold(plan.rows))
        assert self._inputs is not None
        sent = self._inputs.fill(plan.rows, bucket.tokens, bucket.rows, self.stream)
        logits, ids, best = self.graphs[bucket].call()
        sampled = np.flatnonzero(plan.rows.sample) if bucket.sampled else np.zeros(0, np.int64)
        return Prefilled(logits, ids, best, sampled, bucket.tokens, sent, True)

    def eager(self, plan: LaunchPlan, *, cold: bool) -> Prefilled:
        """Queue a launch as it is, without padding."""
        page_tokens, device = self.decoder.kv.page_tokens, self.decoder.device
        batch, sent = ragged_batch(plan, page_tokens, device, self.stream, cold=cold)
        sampled = np.arange(int(plan.rows.sample.sum()))
        logits, ids, best = self._computed(batch)
        return Prefilled(logits, ids, best, sampled, plan.rows.tokens.size, sent, False)

    def _computed(self, batch: PagedBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = self.decoder.forward(batch)
        ids = self.decoder.ops.greedy(logits) if len(logits) else batch.ids[:0]
        return logits, ids, two_largest(logits, ids)

    def _is_cold(self, rows: Rows) -> bool:
        least = self.cold_from
        return bool(least and (rows.start == 0).all() and rows.length.min() >= least)

    def bucket_of(self, rows: Rows) -> Bucket | None:
        """The graph for these rows; None where none holds them, or where its padding takes the
        device longer than an eager launch takes device and host."""
        n, n_rows = rows.tokens.size, rows.seq.size
        at = int(np.searchsorted(self._tokens, n))
        if at == self._tokens.size or n_rows > self._rows:
            return None
        tokens, cold = int(self._tokens[at]), self._is_cold(rows)
        several = n_rows > 1
        sampled = several or bool(rows.sample[0])
        bucket = Bucket(tokens, self._rows if several else 1, cold and not several, sampled)
        graph = self.graphs.get(bucket)
        if graph is None or (cold and several):
            return None
        eager_s = max(self.host_s, graph.seconds * n / tokens)
        return bucket if graph.seconds <= eager_s else None

    def capture(self, most: int, rows: int, max_context: int, limit_s: float = CAPTURE_S) -> None:
        """Capture launches of up to `most` tokens, and of one row and of up to `rows`.

        The largest first, so that the others fit into its memory, then from the smallest on, which
        gain the most, until `limit_s` seconds are over. One that fails ends it; CellFailedError
        where it lost the device.
        """
        begin = time.perf_counter()
        self.host_s = self._host_seconds(_LEAST)
        tokens = token_buckets(self._host_bound(most))
        decoder = self.decoder
        page = decoder.kv.page_tokens
        self._inputs = PrefillInputs(tokens[-1], rows, max_context, page, decoder.device)
        self._rows = rows
        whole = []
        for n in (tokens[-1], *tokens[:-1]):
            if time.perf_counter() - begin > limit_s:
                break
            try:
                self.graphs |= {bucket: self._captured(bucket) for bucket in self._buckets(n)}
            except Exception as error:  # out of memory, an operation that asks the host
                self.refused = one_line(f"{n} tokens: {type(error).__name__}: {error}", 200)
                if not answers(decoder.device):
                    raise CellFailedError(
                        f"the capture of prefill lost the device: {self.refused}",
                        "load again without it: --option triton:prefill_graphs=false",
                    ) from error
                break
            whole.append(n)
        self._tokens = np.array(sorted(whole), np.int32)

    def _buckets(self, tokens: int) -> Iterator[Bucket]:
        for sampled in (True, False):
            yield Bucket(tokens, 1, False, sampled)
            if 0 < self.cold_from <= tokens:
                yield Bucket(tokens, 1, True, sampled)
        if self._rows > 1:
            yield Bucket(tokens, self._rows, False, True)

    def _captured(self, bucket: Bucket) -> Graph:
        assert self._inputs is not None
        tokens, rows, cold, sampled = bucket
        batch = self._inputs.batch(tokens, rows, cold=cold, sampled=sampled)
        n_rows = min(rows, tokens)
        self._inputs.fill(trial(tokens, n_rows).rows, tokens, rows, self.stream)
        call = self.stream.capture(lambda: self._computed(batch), kept=True)
        call()  # the first launch of a graph brings it to the device
        first = self.stream.mark()
        call()
        last = self.stream.mark()
        self.stream.wait(last)
        return Graph(call, self.stream.seconds(first, last))

    def _host_seconds(self, tokens: int) -> float:
        """Least host seconds of queueing an eager launch of one row."""
        plan, seconds = trial(tokens, 1), []
        for _ in range(3):
            synchronize(self.decoder.device)
            begin = time.perf_counter()
            self.eager(plan, cold=False)
            seconds.append(time.perf_counter() - begin)
        synchronize(self.decoder.device)
        return min(seconds)

    def _host_bound(self, most: int) -> int:
        """Tokens up to which the host is worth saving: doubled until the device takes longer."""
        tokens = min(_LEAST, most)
        while tokens < most:
            first = self.stream.mark()
            self.eager(trial(tokens, 1), cold=False)
            last = self.stream.mark()
            self.stream.wait(last)
            if self.stream.seconds(first, last) > _HOST_BOUND * self.host_s:
                break
            tokens = min(2 * tokens, most)
        return tokens

    def warm(self, tokens: int, n_rows: int) -> None:
        """An eager launch of every kind that launches of this size may be."""
        for cold in {False, 0 < self.cold_from <= tokens // n_rows}:
            self.eager(trial(tokens, n_rows), cold=cold)

    @property
    def details(self) -> dict[str, Any]:
        """What is captured, for the record: JSON-safe."""
        return {
            "tokens": self._tokens.tolist(),
            "rows": sorted({bucket.rows for bucket in self.graphs}),
            "graphs": len(self.graphs),
            "host_s": self.host_s,
            "refused": self.refused,
        }


def trial(tokens: int, n_rows: int) -> LaunchPlan:
    """A launch of so many tokens whose keys are not read later: its pages are written anew."""
    length = np.full(n_rows, tokens // n_rows, np.int32)
    length[-1] += tokens - int(length.sum())
    width = -(-int(length.max()) // PAGE_TOKENS)
    rows = Rows(
        seq=np.arange(n_rows, dtype=np.int32),
        slot=np.full(n_rows, -1, np.int32),
        start=np.zeros(n_rows, np.int32),
        length=length,
        tokens=np.zeros(tokens, np.int32),
        pages=np.tile(np.arange(width, dtype=np.int32), (n_rows, 1)),
        sample=np.ones(n_rows, np.bool_),
    )
    return LaunchPlan("prefill_cold", rows, n_rows, int(length.max()), int(length.max()))
