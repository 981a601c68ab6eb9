"""What the design `pdl` launches, recorded on meta tensors."""

from __future__ import annotations

import pytest
import torch

from chipmark_kernels.device import TARGETS
from chipmark_kernels.launch import recording
from chipmark_models.decoder.paged import pdl_ops
from chipmark_models.decoder.paged.ops import TABLE
from chipmark_models.decoder.paged.quantised import QuantisedMatrix


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def launched(rows: int, precision: str = "bf16", k: int = 1024, n: int = 4096):
    matrix: torch.Tensor | QuantisedMatrix = meta(n, k)
    if precision == "fp8":
        scales = meta(n, dtype=torch.float32)
        matrix = QuantisedMatrix("fp8", meta(n, k, dtype=torch.float8_e4m3fn), scales, k)
    if precision == "w8":
        matrix = QuantisedMatrix("w8", meta(n, k, dtype=torch.int8), meta(n, k // 128), 128)
    with recording(TARGETS["sm_90"]) as launches:
        pdl_ops.product(meta(rows, k), matrix, norm=meta(k), eps=1e-6)
    return [(launch.kernel.__name__, bool(launch.options.get("launch_pdl"))) for launch in launches]


@pytest.mark.parametrize(
    ("rows", "precision", "expected"),
    [
        (1, "bf16", [("_gemv_kernel", True)]),
        (8, "bf16", [("_skinny_gemm_kernel", True)]),
        (64, "bf16", [("_skinny_gemm_kernel", True)]),
        (1, "fp8", [("_gemv_kernel", True)]),
        (8, "fp8", [("_skinny_gemm_kernel", True)]),
        (1, "w8", [("_weight_only_gemm_kernel", False)]),
        (65, "bf16", [("_rmsnorm_kernel", False)]),  # and cuBLAS
    ],
)
def test_products_go_to_the_kernel_of_their_rows(rows, precision, expected) -> None:
    assert launched(rows, precision) == expected


def test_scales_of_one_row_reach_the_kernel() -> None:
    matrix = QuantisedMatrix(
        "fp8", meta(8, 64, dtype=torch.float8_e4m3fn), meta(8, dtype=torch.float32), 64
    )
    for rows in (1, 2):
        with recording(TARGETS["sm_90"]) as launches:
            pdl_ops.product(meta(rows, 64), matrix)
        assert launches[0].constants["HAS_SCALES"]


def test_every_other_operation_of_a_step_is_launched_early() -> None:
    assert set(pdl_ops.OPS) == set(TABLE.partial["pdl"])
    ids, caches = meta(2, dtype=torch.int32), [meta(64, 16, 8, 128) for _ in range(2)]
    angles, slots = meta(128, 64, dtype=torch.float32), meta(2, dtype=torch.int64)
    with recording(TARGETS["sm_90"]) as launches:
        pdl_ops.OPS["embed_norm"](ids, meta(512, 1024), meta(1024), 1e-6)
        pdl_ops.OPS["rope_kv"](meta(2, 32 * 128), angles, angles, ids, slots, *caches, 16)
        table = meta(2, 64, dtype=torch.int32)
        pdl_ops.OPS["decode_attention"](meta(2, 16, 128), *caches, table, ids, 0.1)
        pdl_ops.OPS["greedy"](meta(2, 512))
    assert [launch.kernel.__name__ for launch in launches] == [
        "_embedding_rmsnorm_kernel",
        "_rope_kv_kernel",
        "_decode_attention_kernel",
        "_merge_splits_kernel",
        "_best_of_blocks_kernel",
        "_best_of_row_kernel",
    ]
    assert all(launch.options.get("launch_pdl") for launch in launches)
