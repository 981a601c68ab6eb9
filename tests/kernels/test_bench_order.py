"""Which cases come first, and which sources a row depends on."""

from __future__ import annotations

import dataclasses
import json

import pytest

from chipmark_kernels import tiles, tuned
from chipmark_kernels.tile import Tile


def test_the_decode_step_of_the_large_model_comes_first(kernel_bench) -> None:
    found = kernel_bench.cases.cases()
    order = kernel_bench.order
    groups = list(dict.fromkeys(order.group_of(case).name for case in found))
    assert groups == [group.name for group in order.GROUPS]
    assert groups == ["8b-1", "8b-64", "8b-prefill", "0.6b", "others", "quantised"]
    first = [case for case in found if order.group_of(case).name == "8b-1"]
    kernels = ["skinny_gemm"] * 5 + ["gemv_hopper"] * 5 + ["decode_attention"] * 2
    assert [c.kernel for c in first[:12]] == kernels
    assert {c.size.get("rows", c.size.get("seqs")) for c in first} == {1}
    places = [groups.index(order.group_of(case).name) for case in found]
    assert places == sorted(places)


def test_equal_work_of_two_models_is_measured_once(kernel_bench) -> None:
    found = kernel_bench.cases.cases()
    others = [c for c in found if kernel_bench.order.group_of(c).name == "others"]
    models = {(c.kernel, kernel_bench.order.model_of(c)) for c in others}
    # qwen3-1.7b has the heads of qwen3-0.6b and the vocabulary of both.
    assert ("decode_attention", "qwen3-1.7b") not in models
    assert ("sample", "qwen3-1.7b") not in models
    assert {("decode_attention", "llama-3.2-1b"), ("skinny_gemm", "qwen3-1.7b")} <= models


@pytest.fixture
def edited(kernel_bench, monkeypatch):
    """The cases whose hash changes when a module's source does."""
    sources = kernel_bench.row_sources
    small = kernel_bench.cases.cases(small=True)

    def codes():
        # What modules import and where rules stand is not what these edits change.
        sources._sources_of.cache_clear()
        sources._rule_text.cache_clear()
        return {c.kernel: sources.code_of(c) for c in small}

    def of(module, change):
        before, real = codes(), sources._source
        with monkeypatch.context() as patch:
            patch.setattr(
                sources, "_source",
                lambda name: change(real(name)) if name == module else real(name),
            )  # fmt: skip
            after = codes()
        codes()
        return {kernel for kernel in before if before[kernel] != after[kernel]}

    return of


def _line(source: bytes) -> bytes:
    return source + b"\n# edited\n"


def test_an_edit_reaches_the_rows_that_depend_on_it_alone(edited, kernel_bench) -> None:
    assert "qknorm_rope_kvwrite" in edited("chipmark_kernels.rope_kv", _line)
    assert edited("chipmark_kernels.rope_kv", _line) <= {
        "qknorm_rope_kvwrite", "rope_decode_attention",
    }  # fmt: skip
    assert edited("chipmark_kernels.sampling", _line) == {"sample"}
    products = {"skinny_gemm", "fp8a16_gemm", "w8a16_gemm", "w4a16_gemm", "fp8_gemm"}
    assert products <= edited("chipmark_kernels.gemm", _line)
    assert "decode_attention" not in edited("chipmark_kernels.gemm", _line)
    assert edited("chipmark.kernel_bench.row_cases", _line) == {
        "rmsnorm", "embedding_rmsnorm", "swiglu",
    }  # fmt: skip
    everything = {case.kernel for case in kernel_bench.cases.cases(small=True)}
    assert edited("chipmark.kernel_bench.timing", _line) == everything
    assert edited("chipmark_kernels.reference.sampling", _line) == {"sample", "nucleus_cutoff"}


def test_an_edit_of_one_rule_of_tiles_reaches_its_kernels_alone(edited) -> None:
    def change(source: bytes) -> bytes:
        assert source.count(b"blocks * 5 // 2") == 1
        return source.replace(b"blocks * 5 // 2", b"blocks * 7 // 2")

    # fp8_gemm takes a helper of the skinny product's module.
    assert edited("chipmark_kernels.tiles", change) == {
        "fp8_gemm", "quantize_rows_fp8", "skinny_gemm", "fp8a16_gemm", "w8a16_gemm", "w4a16_gemm",
    }  # fmt: skip
    assert edited(
        "chipmark_kernels.tiles", lambda s: s.replace(b"4096 if wide", b"2048 if wide")
    ) == {"sample"}


def test_a_measured_table_reaches_the_kernels_that_it_names(
    kernel_bench, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(tuned, "TUNED_FOLDER", tmp_path)
    small = kernel_bench.cases.cases(small=True)
    code_of = kernel_bench.row_sources._sources_of

    def codes():
        code_of.cache_clear()
        tuned.read_table.cache_clear()
        return {c.kernel: kernel_bench.row_sources.code_of(c, "nvidia-h200") for c in small}

    before = codes()
    entry = {"kernel": "decode_attention", "dtype": "bf16", "shape": {"seqs": 1},
             "tile": dataclasses.asdict(Tile())}  # fmt: skip
    (tmp_path / "nvidia-h200.json").write_text(
        json.dumps({"device": "nvidia-h200", "target": "sm_90", "entries": [entry]})
    )
    after = codes()
    code_of.cache_clear()
    tuned.read_table.cache_clear()
    assert {k for k in before if before[k] != after[k]} == {
        "decode_attention", "rope_decode_attention",
    }  # fmt: skip


def test_every_case_has_its_sources(kernel_bench) -> None:
    found = kernel_bench.cases.cases()
    codes = kernel_bench.row_sources.codes_of(found, {"device": "NVIDIA H200"})
    assert set(codes.rows) == {(c.kernel, c.name) for c in found}
    for case in found:
        mine = kernel_bench.row_sources._closure([kernel_bench.row_sources._launcher_module(case)])
        rules = kernel_bench.row_sources._rules_of(case.kernel, mine)
        assert case.kernel in rules or case.kernel not in tiles.RULES, case.kernel
