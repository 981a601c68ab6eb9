from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch

from chipmark_kernels import device as device_module
from chipmark_kernels import launch, manifest, tiles, tuned
from chipmark_kernels.device import TARGETS, facts_of, product_key
from chipmark_kernels.dtypes import ceil_div, next_power_of_2
from chipmark_kernels.rmsnorm import rmsnorm
from chipmark_kernels.tiles import Tile, choose

SM90 = TARGETS["sm_90"]
H100_NAME, H200_NAME = "NVIDIA H100 80GB HBM3", "NVIDIA H200"
H100, H200 = (
    dataclasses.replace(SM90, product=product_key(name)) for name in (H100_NAME, H200_NAME)
)


@pytest.fixture
def tuned_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tuned, "TUNED_FOLDER", tmp_path)
    choose.cache_clear()
    yield tmp_path
    choose.cache_clear()


def _table(folder, entries, name=H200.product):
    path = folder / f"{name}.json"
    document = {"device": name, "target": "sm_90", "triton": "3.6.0", "entries": entries}
    path.write_text(json.dumps(document))
    return path


ENTRY = {
    "kernel": "skinny_gemm",
    "dtype": "bf16",
    "shape": {"rows": 4, "n": 1024, "k": 2048, "glu": 0},
    "tile": {"m": 16, "n": 64, "k": 64, "split": 2, "num_warps": 8, "num_stages": 5},
}


@pytest.mark.parametrize("target", TARGETS)
def test_every_tile_of_the_manifest_is_launchable(target) -> None:
    device = TARGETS[target]
    for entry in manifest.entries(device):
        tile = entry.launch.tile
        for size in (tile.m, tile.n, tile.k, tile.split, tile.num_warps):
            assert size == 0 or size == next_power_of_2(size), entry
        assert tile.num_warps * device.warp_size <= 1024, entry
        assert all(1 <= n <= launch.MAX_GRID for n in entry.launch.grid), entry


def test_the_manifest_has_every_family_and_leaves_fp8_out_where_there_is_no_unit() -> None:
    every = {family.name for family in manifest.FAMILIES}
    assert {e.family for e in manifest.entries(SM90)} == every
    early = {family.name for family in manifest.FAMILIES if family.early}
    assert {e.family for e in manifest.entries(TARGETS["sm_80"])} == every - early - {
        "fp8_gemm",
        "fp8a16_gemm",
        "dense_gemm_hopper",
    }
    for family in ("fp8_gemm", "fp8a16_gemm"):
        assert "float8_e4m3fn" in str(manifest.left_out(family, TARGETS["gfx942"]))


def test_the_same_question_has_the_same_answer() -> None:
    shape = {"rows": 8, "n": 4096, "k": 4096, "glu": 0}
    assert choose("skinny_gemm", "bf16", SM90, **shape) == choose(
        "skinny_gemm", "bf16", SM90, **shape
    )


@pytest.mark.parametrize("rows", [1, 2, 64])
@pytest.mark.parametrize("n", [1024, 4096, 151_936])
@pytest.mark.parametrize("k", [1024, 4096, 12_288])
def test_a_small_gemm_is_split_until_the_device_is_full(rows, n, k) -> None:
    tile = choose("skinny_gemm", "bf16", SM90, rows=rows, n=n, k=k, glu=0)
    blocks = ceil_div(n, tile.n) * ceil_div(rows, tile.m)
    if tile.split > 1:
        assert blocks < SM90.n_sm
        assert k // tile.split >= tile.k
    assert blocks * tile.split <= max(blocks, 2 * SM90.n_sm)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", ["w8a16_gemm", "w4a16_gemm"])
@pytest.mark.parametrize("k", [32, 64, 96, 160])
@pytest.mark.parametrize("rows", [1, 2, 32, 64])
def test_a_row_of_few_quantised_groups_has_a_tile(target, kernel, k, rows) -> None:
    tile = choose(kernel, "bf16", TARGETS[target], rows=rows, n=64, k=k, glu=0)
    assert tile.m == (1 if rows == 1 else max(rows, 16))
    assert (tile.k, tile.split) == (1, 1)
    assert min(tile.n, tile.num_warps, tile.num_stages) >= 1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("kernel", "bits"), [("w8a16_gemm", 8), ("w4a16_gemm", 4)])
@pytest.mark.parametrize(("k", "group"), [(576, 64), (96, 32), (4096, 128)])
def test_one_row_reads_16_bytes_a_thread_of_short_groups_too(target, kernel, bits, k, group):
    device = TARGETS[target]
    tile = choose(kernel, "bf16", device, rows=1, n=64, k=k, glu=0)
    threads = tile.num_warps * device.warp_size
    assert tile.n * group * bits // 8 >= 16 * threads


@pytest.mark.parametrize("kernel", ["decode_attention", "rope_decode_attention"])
@pytest.mark.parametrize("seqs", [1, 8, 64])
def test_decode_splits_fill_the_device_and_are_a_block_at_least(kernel, seqs) -> None:
    shape = {"kv_heads": 8, "group": 2, "head_dim": 128, "seqs": seqs}
    tile = choose(kernel, "bf16", SM90, context=32_768, **shape)
    programs = seqs * 8 * tile.split
    assert programs >= SM90.n_sm
    # No more places than two programs a multiprocessor, but two for a long sequence among short.
    assert tile.split == 2 or programs <= 2 * SM90.n_sm
    for context in (64, 128, 256):
        short = choose(kernel, "bf16", SM90, context=context, **shape)
        assert short.split == min(tile.split, context // 64)


def test_blocks_on_their_way_are_as_many_as_still_fit_the_programs() -> None:
    shape = {"kv_heads": 8, "group": 4, "head_dim": 128, "context": 32_768}
    one, many = (choose("decode_attention", "bf16", SM90, seqs=n, **shape) for n in (1, 64))
    block_bytes = 2 * 64 * 128 * 2
    assert one.split == 32
    for tile, programs in ((one, 2), (many, 3)):
        # The last stage is in registers: so many buffers of keys and values.
        assert programs * (tile.num_stages - 1) * block_bytes < SM90.smem_per_block_bytes
    assert one.num_stages > many.num_stages >= 3


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("group", [1, 4, 8, 16])
def test_a_merge_reads_as_many_splits_at_once_as_registers_hold(target, group) -> None:
    device = TARGETS[target]
    shape = {"seqs": 1, "kv_heads": 2, "group": group, "head_dim": 128, "context": 32_768}
    tile = choose("rope_decode_attention", "bf16", device, **shape)
    assert 1 <= tile.k <= tile.split
    threads = tile.num_warps * device.warp_size
    assert tile.k * group * 128 <= 64 * threads


def test_a_smaller_shared_memory_gives_fewer_stages() -> None:
    small = dataclasses.replace(SM90, name="small", smem_per_block_bytes=48 * 1024)
    shape = {"rows": 512, "head_dim": 128, "group": 1}
    big = choose("prefill_attention", "bf16", SM90, **shape)
    assert choose("prefill_attention", "bf16", small, **shape).num_stages < big.num_stages


def test_a_tuned_tile_wins_for_its_bucket_only(tuned_folder) -> None:
    _table(tuned_folder, [ENTRY])
    same = {"rows": 3, "n": 1024, "k": 2048, "glu": 0}
    assert choose("skinny_gemm", "bf16", H200, **same) == Tile(16, 64, 64, 2, 8, 5)
    rule = tiles.RULES["skinny_gemm"]
    other = same | {"rows": 5}
    assert choose("skinny_gemm", "bf16", H200, **other) == rule("bf16", other, H200)
    assert choose("skinny_gemm", "fp16", H200, **same) == rule("fp16", same, H200)


@pytest.mark.parametrize("without_table", [H100, SM90])
def test_a_device_without_a_table_has_the_rule_and_not_anothers_tiles(
    without_table, tuned_folder
) -> None:
    _table(tuned_folder, [ENTRY])
    _table(tuned_folder, [ENTRY], name="sm_90")
    same = {"rows": 3, "n": 1024, "k": 2048, "glu": 0}
    rule = tiles.RULES["skinny_gemm"]("bf16", same, without_table)
    assert rule != Tile(**ENTRY["tile"])
    assert choose("skinny_gemm", "bf16", without_table, **same) == rule


def test_a_table_under_another_devices_name_is_refused(tuned_folder) -> None:
    copied = _table(tuned_folder, [ENTRY]).rename(tuned_folder / f"{H100.product}.json")
    with pytest.raises(ValueError, match=r"device: 'nvidia-h200', but the file's name says"):
        tuned.read_table(copied)


def test_two_products_of_one_target_are_told_apart_by_their_own_names(monkeypatch) -> None:
    properties = SimpleNamespace(
        major=9, minor=0, multi_processor_count=132, shared_memory_per_block=48 * 1024
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", (H100_NAME, H200_NAME).__getitem__)
    device_module._facts_of_cuda.cache_clear()
    found = [facts_of(torch.device("cuda", index)) for index in (0, 1)]
    device_module._facts_of_cuda.cache_clear()
    assert [f.name for f in found] == ["sm_90", "sm_90"]
    assert [f.product for f in found] == ["nvidia-h100-80gb-hbm3", "nvidia-h200"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": 3}, "entry 0: kernel: must be a string"),
        ({"shape": {"rows": "4"}}, "entry 0: shape: must hold whole numbers only"),
        ({"tile": {"m": 16}}, "entry 0: tile: must have m, n, k, split"),
        ({"tile": ENTRY["tile"] | {"num_warps": 0}}, "split, warps, stages >= 1"),
    ],
)
def test_a_bad_tuned_table_is_refused_with_file_entry_and_field(
    change, message, tuned_folder
) -> None:
    path = _table(tuned_folder, [ENTRY | change])
    with pytest.raises(ValueError, match=message) as raised:
        tuned.read_table(path)
    assert str(path) in str(raised.value)


def test_a_table_without_its_target_is_refused_by_name(tuned_folder) -> None:
    path = tuned_folder / "nvidia-h200.json"
    path.write_text(json.dumps({"device": "nvidia-h200", "entries": []}))
    with pytest.raises(ValueError, match=r"nvidia-h200\.json: target: must name"):
        tuned.read_table(path)


def test_a_table_that_is_no_json_is_refused_by_name(tuned_folder) -> None:
    path = tuned_folder / "sm_90.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"sm_90\.json: no JSON"):
        tuned.read_table(path)


def test_an_unknown_kernel_is_an_error() -> None:
    with pytest.raises(KeyError, match="no_such_kernel"):
        choose("no_such_kernel", "bf16", SM90)


def test_recording_starts_nothing_and_uses_the_assumed_device() -> None:
    x = torch.empty(4, 4096, device="meta", dtype=torch.bfloat16)
    weight = torch.empty(4096, device="meta", dtype=torch.bfloat16)
    with launch.recording(TARGETS["gfx942"]) as launches:
        rmsnorm(x, weight, 1e-6)
    assert len(launches) == 1
    assert launches[0].grid == (4,)
    assert launches[0].tile == choose("rmsnorm", "bf16", TARGETS["gfx942"], cols=4096)
    assert launch.device_facts(x) == facts_of(x.device)


def test_a_grid_over_the_portable_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="is over 65535"):
        launch.launch(test_a_grid_over_the_portable_limit_is_refused, (1, 70_000), Tile())
