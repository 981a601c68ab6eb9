"""The launches of one decoder layer in decode, as the backend makes them, for every preset."""

from __future__ import annotations

import pytest
import torch

from chipmark_kernels import manifest
from chipmark_kernels.decode_attention import decode_attention
from chipmark_kernels.device import TARGETS
from chipmark_kernels.launch import recording
from chipmark_kernels.manifest import DECODE_ROWS, MODEL_SHAPES, ModelShape
from chipmark_kernels.rope_decode_attention import rope_decode_attention
from chipmark_kernels.rope_kv import qknorm_rope_kvwrite
from chipmark_kernels.skinny_gemm import fp8a16_gemm, skinny_gemm
from chipmark_kernels.weight_only import w4a16_gemm, w8a16_gemm

BF16 = torch.bfloat16


def _meta(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _product(precision: str, p: manifest.Projection, rows: int) -> None:
    x, options = _meta(rows, p.k), p.options(rows, BF16)
    scales = _meta(p.n, p.k // 128, dtype=torch.float32)
    if precision == "bf16":
        skinny_gemm(x, _meta(p.n, p.k), **options)
    elif precision == "w8a16":
        w8a16_gemm(x, _meta(p.n, p.k, dtype=torch.int8), scales, **options)
    elif precision == "fp8":
        w = _meta(p.n, p.k, dtype=torch.float8_e4m3fn)
        fp8a16_gemm(x, w, _meta(p.n, dtype=torch.float32), **options)
    else:
        w4a16_gemm(x, _meta(p.n, p.k // 2, dtype=torch.uint8), scales, **options)


def _layer(s: ModelShape, rows: int, precision: str, joined: bool = False) -> None:
    qkv, out, gate_up, down = manifest.projections(s)
    caches = [_meta(1024, 16, s.n_kv_heads, s.head_dim) for _ in range(2)]
    table = _meta(rows, 2048, dtype=torch.int32)
    ints = _meta(rows, dtype=torch.int32)
    angles = _meta(32_768, s.head_dim // 2, dtype=torch.float32)
    _product(precision, qkv, rows)
    rotation = (_meta(rows, qkv.n), angles, angles, ints, ints, *caches)
    if joined:
        rope_decode_attention(*rotation, table, ints, s.n_heads, 0.1)
    else:
        qknorm_rope_kvwrite(*rotation, s.n_heads)
        decode_attention(_meta(rows, s.n_heads, s.head_dim), *caches, table, ints, 0.1)
    for projection in (out, gate_up, down):
        _product(precision, projection, rows)


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("precision", ["bf16", "w8a16", "w4a16", "fp8"])
@pytest.mark.parametrize(("joined", "most"), [(False, 7), (True, 5)])
def test_a_layer_takes_seven_launches_at_most_and_joined_five(
    target, precision, joined, most
) -> None:
    counted = {}
    for shape in MODEL_SHAPES:
        if precision in ("w8a16", "w4a16") and any(p.k % 128 for p in manifest.projections(shape)):
            continue
        for rows in DECODE_ROWS:
            with recording(TARGETS[target]) as launches:
                _layer(shape, rows, precision, joined)
            counted[shape.name, rows] = [launch.kernel.__name__ for launch in launches]
    assert counted
    too_many = {key: names for key, names in counted.items() if len(names) > most}
    assert not too_many
