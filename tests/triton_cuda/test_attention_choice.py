"""Which attention cold prompts get, and that the decoder's logits do not change by it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from chipmark.backends.triton_cuda import attention_choice
from chipmark.backends.triton_cuda.attention_choice import choose_cold, lengths_tried
from chipmark.backends.triton_cuda.batches import ragged_batch
from chipmark.backends.triton_cuda.streams import HostStream
from chipmark.engine.contract import LaunchPlan, Rows
from chipmark_models.decoder.op_table import SEPARATE
from chipmark_models.decoder.paged.decoder import PagedDecoder
from chipmark_models.decoder.paged.ops import TABLE
from chipmark_models.presets import preset
from chipmark_models.weights.prepared import ComputedWeights
from chipmark_models.weights.synthetic import SyntheticWeights

CPU = torch.device("cpu")
CONFIG = replace(preset("tiny"), n_layers=2)


@pytest.fixture
def decoder() -> PagedDecoder:
    weights = ComputedWeights(SyntheticWeights(CONFIG, 3), "fp32")
    ops = TABLE.select(TABLE.resolve(None, "torch"))
    return PagedDecoder(weights, CPU, ops, n_pages=64, max_context=1024)


def cold_plan(*lengths: int) -> LaunchPlan:
    n, width = len(lengths), -(-max(lengths) // 16)
    rows = Rows(
        seq=np.arange(n, dtype=np.int32),
        slot=np.full(n, -1, np.int32),
        start=np.zeros(n, np.int32),
        length=np.array(lengths, np.int32),
        tokens=np.random.default_rng(1).integers(0, 256, sum(lengths)).astype(np.int32),
        pages=np.random.default_rng(2).permutation(n * width).reshape(n, width).astype(np.int32),
        sample=np.ones(n, bool),
    )
    return LaunchPlan("prefill_cold", rows, n, max(lengths), max(lengths))


@pytest.mark.parametrize("lengths", [(70,), (40, 17, 1)])
def test_logits_of_cold_prompts_are_those_of_attention_over_pages(
    decoder: PagedDecoder, lengths: tuple[int, ...]
) -> None:
    plan = cold_plan(*lengths)
    over_pages, _ = ragged_batch(plan, 16, CPU, HostStream())
    by_themselves, _ = ragged_batch(plan, 16, CPU, HostStream(), cold=True)
    right = decoder.forward(over_pages)
    called = []

    def counted(q, k, v, scale):
        called.append(len(q))
        return TABLE.find("cold_attention", "flash")(q, k, v, scale)

    decoder.ops = replace(decoder.ops, cold_attention=counted)
    torch.testing.assert_close(decoder.forward(by_themselves), right, atol=1e-4, rtol=1e-4)
    assert called == [*lengths] * 2
    assert torch.equal(decoder.forward(over_pages), right)  # nobody said that they are cold


def test_prompts_are_tried_in_fours_up_to_a_launchs_most() -> None:
    assert lengths_tried(64) == ()
    assert lengths_tried(128) == (128,)
    assert lengths_tried(2048) == (128, 512, 2048)
    assert lengths_tried(3000) == (128, 512, 2048, 3000)


@pytest.mark.parametrize(("faster_from", "least"), [(0, 128), (129, 129), (513, 513), (9_999, 0)])
def test_another_attention_is_used_from_where_on_it_always_wins(
    decoder: PagedDecoder, monkeypatch: pytest.MonkeyPatch, faster_from: int, least: int
) -> None:
    def seconds(decoder, name, tokens, stream):
        if name == "cudnn":
            raise RuntimeError("No viable backend")
        return {SEPARATE: 2.0, "flash": 1.0 if tokens >= faster_from else 3.0}[name]

    monkeypatch.setattr(attention_choice, "_seconds", seconds)
    got, found = choose_cold(decoder, ["cudnn", "flash"], (128, 512, 1024), HostStream())
    assert got == least
    assert {n: c.name for n, c in found.items()} == {
        n: "flash" if n >= faster_from else SEPARATE for n in (128, 512, 1024)
    }
    assert all("No viable backend" in c.refused["cudnn"] for c in found.values())
    assert (decoder.ops.cold_attention is None) == (not least)


def test_a_trial_times_ours_and_others_over_the_layers(decoder: PagedDecoder) -> None:
    for name in (SEPARATE, "flash"):
        assert attention_choice._seconds(decoder, name, 128, HostStream()) > 0
