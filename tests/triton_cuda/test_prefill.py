"""Which prefill launches go by a graph, and that a padded one computes what an eager one does."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from chipmark.backends.triton_cuda.prefill import Bucket, Graph, Prefill, graph_bytes, token_buckets
from chipmark.backends.triton_cuda.streams import HostStream
from chipmark.engine.contract import LaunchPlan, Rows
from chipmark_models.decoder.paged.decoder import PagedBatch, PagedDecoder
from chipmark_models.decoder.paged.ops import TABLE
from chipmark_models.presets import preset
from chipmark_models.weights.prepared import ComputedWeights
from chipmark_models.weights.synthetic import SyntheticWeights

CPU = torch.device("cpu")
CONFIG = replace(preset("tiny"), n_layers=2)
PAGES = 40


@pytest.fixture(autouse=True)
def host_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a CPU the host's time is the device's, and noise would choose the buckets.
    monkeypatch.setattr(Prefill, "_host_bound", lambda self, most: most)


def decoder() -> PagedDecoder:
    weights = ComputedWeights(SyntheticWeights(CONFIG, 3), "fp32")
    ops = TABLE.select(TABLE.resolve({"cold_attention": "flash"}, "torch"))
    return PagedDecoder(weights, CPU, ops, n_pages=PAGES, max_context=160)


def plan(seed: int, start: tuple[int, ...], length: tuple[int, ...], *, sample: bool) -> LaunchPlan:
    random, n = np.random.default_rng(seed), len(start)
    width = max(-(-(s + t) // 16) for s, t in zip(start, length, strict=True))
    rows = Rows(
        seq=np.arange(n, dtype=np.int32),
        slot=np.full(n, -1, np.int32),
        start=np.array(start, np.int32),
        length=np.array(length, np.int32),
        tokens=random.integers(0, CONFIG.vocab_size, sum(length)).astype(np.int32),
        pages=random.permutation(PAGES)[: n * width].reshape(n, width).astype(np.int32),
        sample=np.full(n, sample),
    )
    return LaunchPlan("prefill_append", rows, n, max(length), width * 16)


LAUNCHES = [
    plan(1, (0,), (40,), sample=False),  # cold, not sampled
    plan(2, (0,), (33,), sample=True),
    plan(3, (37,), (12,), sample=True),
    plan(4, (0, 16, 21), (1, 7, 9), sample=True),
    plan(5, (48,), (48,), sample=False),
]


def test_a_graph_is_the_eager_launch_of_its_bucket_bit_by_bit_at_the_same_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prefill, eager, alone = (Prefill(decoder(), HostStream(), cold_from=20) for _ in range(3))
    addresses: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    forward = PagedDecoder.forward

    def watched(self: PagedDecoder, batch: PagedBatch) -> torch.Tensor:
        assert batch.cu_q is not None
        parts = (batch.ids, batch.positions, batch.slots, batch.page_table, batch.kv_lens)
        if self is prefill.decoder:
            shape = (len(batch.ids), len(batch.kv_lens))
            seen = tuple(x.data_ptr() for x in (*parts, batch.cu_q))
            addresses.setdefault(shape, set()).add(seen)
        return forward(self, batch)

    for each in (prefill, eager):
        each.capture(64, 3, 160)
        with torch.inference_mode():
            for cache in (*each.decoder.kv.k, *each.decoder.kv.v):
                cache.zero_()  # of what the trials wrote
    prefill.graphs = {bucket: Graph(g.call, 1.0) for bucket, g in prefill.graphs.items()}
    prefill.host_s = 1.0
    monkeypatch.setattr(PagedDecoder, "forward", watched)
    buckets = []
    for launch in (*LAUNCHES, *LAUNCHES[::-1]):
        bucket = prefill.bucket_of(launch.rows)
        assert bucket is not None
        buckets.append(bucket)
        by_graph = prefill.launch(launch)
        assert by_graph.graph
        assert by_graph.positions == bucket.tokens >= launch.rows.tokens.size
        assert eager._inputs is not None
        eager._inputs.fill(launch.rows, bucket.tokens, bucket.rows, eager.stream)
        batch = eager._inputs.batch(*bucket[:2], cold=bucket.cold, sampled=bucket.sampled)
        logits, ids, best = eager._computed(batch)
        n = by_graph.sampled
        assert len(n) == launch.rows.sample.sum()
        assert torch.equal(by_graph.logits[n], logits[n])
        assert torch.equal(by_graph.ids[n], ids[n])
        assert torch.equal(by_graph.best[n], best[n])
        models = (prefill.decoder.kv, eager.decoder.kv)
        for one, other in zip(*((*kv.k, *kv.v) for kv in models), strict=True):
            assert torch.equal(one, other)
        # Without padding the sums of a product are in another order.
        right = alone.eager(launch, cold=False).logits
        torch.testing.assert_close(by_graph.logits[n], right, atol=1e-4, rtol=1e-4)
    assert set(buckets) == {
        Bucket(48, 1, True, False), Bucket(48, 1, True, True), Bucket(16, 1, False, True),
        Bucket(32, 3, False, True), Bucket(48, 1, False, False),
    }  # fmt: skip
    assert len(addresses) == 3
    assert all(len(seen) == 1 for seen in addresses.values())


def test_a_graph_is_used_where_its_padding_is_cheaper_than_the_host() -> None:
    prefill = Prefill(decoder(), HostStream())
    prefill.capture(64, 3, 160)
    slow, quick = plan(1, (0,), (33,), sample=True).rows, plan(1, (0,), (48,), sample=True).rows
    key = Bucket(48, 1, False, True)
    for seconds, host_s, padded in ((1.0, 1.0, True), (1.0, 0.9, False)):
        prefill.graphs[key] = replace(prefill.graphs[key], seconds=seconds)
        prefill.host_s = host_s
        assert prefill.bucket_of(slow) == (key if padded else None)
        assert prefill.bucket_of(quick) == key  # without padding the device is no slower
    assert prefill.bucket_of(plan(1, (0,), (65,), sample=True).rows) is None
    assert prefill.bucket_of(plan(1, (0,) * 4, (3,) * 4, sample=True).rows) is None


def test_what_fails_to_be_captured_runs_eager_and_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    captured = Prefill._captured

    def short_of_memory(self: Prefill, bucket: Bucket) -> Graph:
        if bucket.tokens == 32:
            raise RuntimeError("CUDA out of memory")
        return captured(self, bucket)

    monkeypatch.setattr(Prefill, "_captured", short_of_memory)
    prefill = Prefill(decoder(), HostStream())
    prefill.capture(64, 1, 160)
    assert prefill.details["tokens"] == [16, 64]  # the largest, then from the smallest on
    assert prefill.details["refused"] == "32 tokens: RuntimeError: CUDA out of memory"
    stopped = Prefill(decoder(), HostStream())
    stopped.capture(64, 1, 160, limit_s=-1.0)
    assert stopped.details["tokens"] == []
    assert not stopped.launch(plan(1, (0,), (16,), sample=True)).graph


def test_buckets_pad_by_a_fifth_at_most_beyond_a_few_tokens() -> None:
    assert token_buckets(100) == (16, 32, 48, 64, 80, 96, 100)
    for most in (16, 17, 256, 2048, 8192):
        found = token_buckets(most)
        assert list(found) == sorted(set(found))
        assert found[-1] == most
        assert all(b <= 1.25 * a for a, b in pairwise(found) if a >= 64)
    assert graph_bytes(256, 16, 1000, 10, 2) == 2560 + len(token_buckets(256)) * 18 * 2000
