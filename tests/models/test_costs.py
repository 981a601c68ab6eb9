"""Bytes and FLOPs, worked by hand for the preset `tiny`.

tiny: vocab 512, hidden 64, intermediate 176, 3 layers, 6 query and 2 KV heads of 16; tied.
A layer: q 96x64 + k 32x64 + v 32x64 + o 64x96 = 16,384; gate, up, down 3 x 176x64 = 33,792;
two norms 128. So 50,304 a layer, 150,912 in three, and the final norm 64: 150,976.
"""

from __future__ import annotations

import dataclasses

import pytest

from chipmark_models import costs
from chipmark_models.errors import UnknownNameError
from chipmark_models.presets import preset

TINY = preset("tiny")
UNTIED = dataclasses.replace(TINY, tied_embeddings=False)
LAYERS, TABLE = 150_976, 512 * 64


def test_parameters_of_tiny() -> None:
    assert costs.non_embedding_parameters(TINY) == LAYERS
    assert costs.parameters(TINY) == LAYERS + TABLE
    assert costs.parameters(UNTIED) == LAYERS + 2 * TABLE
    assert costs.non_embedding_parameters(UNTIED) == LAYERS


def test_biases_and_head_norms_count() -> None:
    rich = dataclasses.replace(TINY, qkv_bias=True, attn_out_bias=True, mlp_bias=True, qk_norm=True)
    more = 3 * ((96 + 32 + 32) + 64 + (176 + 176 + 64) + 2 * 16)
    assert costs.non_embedding_parameters(rich) == LAYERS + more


def test_kv_bytes_of_a_token() -> None:
    # 2 (key, value) x 3 layers x 2 heads x 16
    assert costs.kv_bytes_per_token(TINY, "fp32") == 192 * 4
    assert costs.kv_bytes_per_token(TINY, "bf16") == 192 * 2
    with pytest.raises(UnknownNameError, match="bf16"):
        costs.kv_bytes_per_token(TINY, "bf8")


def test_a_launch_reads_a_tied_table_once_and_of_an_untied_one_its_rows() -> None:
    assert costs.weight_bytes_per_launch(TINY, "fp32", 8) == 4 * (LAYERS + TABLE)
    assert costs.weight_bytes_per_launch(UNTIED, "fp32", 8) == 4 * (LAYERS + TABLE + 8 * 64)
    assert costs.weight_bytes_per_launch(TINY, "bf16", 8) == 2 * (LAYERS + TABLE)


def test_a_launch_without_a_head_reads_gathered_rows_only() -> None:
    for config in (TINY, UNTIED):
        read = costs.weight_bytes_per_launch(config, "fp32", 8, head=False)
        assert read == 4 * (LAYERS + 8 * 64)


def test_more_gathered_rows_than_the_table_has_read_the_table() -> None:
    read = costs.weight_bytes_per_launch(UNTIED, "fp32", 9_999)
    assert read == 4 * (LAYERS + 2 * TABLE)


def test_quantised_bytes_hold_their_scales_and_leave_vectors_16_bit() -> None:
    vectors = 7 * 64
    expected = (LAYERS - vectors + TABLE) * (4 + 16 / 32 + 4 / 32) / 8 + vectors * 2
    assert costs.weight_bytes_stored(TINY, "int4-g32") == pytest.approx(expected)


def test_w8_w4_and_fp8_hold_their_scales_and_leave_table_head_and_vectors_16_bit() -> None:
    # tiny: k is 64 (q, k, v, gate, up: one group of 64), 96 (o: three of 32), 176 (down: no group
    # for integers, so 16-bit; one scale a row for fp8).
    from_64 = 3 * (96 + 32 + 32 + 176 + 176)  # rows of the three layers
    from_96, from_176 = 3 * 64, 3 * 64
    kept = 2 * (7 * 64 + TABLE)
    down = 2 * from_176 * 176
    assert costs.weight_bytes_stored(TINY, "w8") == (
        kept + down + from_64 * (64 + 2) + from_96 * (96 + 3 * 2)
    )
    assert costs.weight_bytes_stored(TINY, "w4") == (
        kept + down + from_64 * (32 + 2) + from_96 * (48 + 3 * 2)
    )
    fp8 = kept + from_64 * (64 + 4) + from_96 * (96 + 4) + from_176 * (176 + 4)
    assert costs.weight_bytes_stored(TINY, "fp8") == fp8
    assert costs.weight_bytes_stored(UNTIED, "fp8") == fp8 + 2 * TABLE


def test_a_launch_of_qwen3_8b_in_w4() -> None:
    # 36 layers of 192,937,984 matrix weights at 4 + 16/128 bits, norms and the head at 16.
    c = preset("qwen3-8b")
    matrices = 36 * (4096 * (4096 + 2 * 1024 + 4096) + 3 * 4096 * 12_288)
    vectors = 36 * (2 * 4096 + 2 * 128) + 4096
    head = 151_936 * 4096
    expected = matrices * 4.125 / 8 + 2 * (vectors + head + 4 * 4096)
    assert costs.weight_bytes_per_launch(c, "w4", 4) == expected


def test_a_precision_that_does_not_exist_is_named() -> None:
    with pytest.raises(UnknownNameError, match="w4"):
        costs.weight_bytes_stored(TINY, "w5")


def test_flops_of_a_prefill() -> None:
    # 3 new tokens after 5: contexts 6 + 7 + 8 = 21; head for the last row only.
    assert costs.causal_context_sum(5, 3) == 21
    expected = 2 * LAYERS * 3 + 2 * TABLE + 4 * 3 * 96 * 21
    assert costs.prefill_flops(TINY, 3, 21, 1) == expected
    assert costs.prefill_flops(UNTIED, 3, 21, 1) == expected
    assert costs.prefill_flops(TINY, 3, 21, 0) == expected - 2 * TABLE
    assert costs.attention_flops(TINY, 21) == 4 * 3 * 96 * 21


def test_chunks_of_a_prefill_sum_to_the_whole() -> None:
    whole = costs.prefill_flops(TINY, 100, costs.causal_context_sum(0, 100), 1)
    first = costs.prefill_flops(TINY, 64, costs.causal_context_sum(0, 64), 0)
    second = costs.prefill_flops(TINY, 36, costs.causal_context_sum(64, 36), 1)
    assert first + second == whole
