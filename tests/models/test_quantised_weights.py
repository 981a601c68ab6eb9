"""Quantised models: golden bytes, on disk and computed, fused on a device, in the oracle."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chipmark_kernels.reference.gemm import (
    fp8_gemm_reference,
    quantize_rows_fp8_reference,
    w4a16_gemm_reference,
)
from chipmark_models.decoder.paged.quantised import load_fused
from chipmark_models.decoder.reading import read_tensor, split_pairs
from chipmark_models.errors import BadInputError
from chipmark_models.oracle import Oracle
from chipmark_models.precision import QUANTISED
from chipmark_models.presets import preset
from chipmark_models.rounding import ROUNDINGS, round_rows_fp8
from chipmark_models.weights import quantise as quantise_module
from chipmark_models.weights.open import open_weights
from chipmark_models.weights.prepared import (
    ComputedWeights,
    PreparedWeights,
    prepare,
    prepare_spec,
    stored_bytes,
)
from chipmark_models.weights.quantise import quantise
from chipmark_models.weights.source import WeightRef
from chipmark_models.weights.stored import SCALES
from chipmark_models.weights.synthetic import SyntheticWeights
from chipmark_models.weights.writer import encode_all

REF = WeightRef("synthetic", "tiny", None, 0)
SOURCE = open_weights(REF)
GOLDEN = {
    "w8": "8fcc0c0d75d403cae0f05e9d6c141c217b1f83a024b8991cedae4a4c055804cc",
    "w4": "17359d8d9a91f7125e4c67c3850d64bb9b1caaec92b2cf942906e754cb235a29",
    "fp8": "8fe22f5174772bfa1957f4be68e9ca82be24ca158b73710f111cfe7d51f6419b",
}
GATE, UP = (f"model.layers.1.mlp.{n}_proj.weight" for n in ("gate", "up"))
DOWN = "model.layers.1.mlp.down_proj.weight"
IDS = [np.arange(3, 40), np.arange(100, 117)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def source_logits() -> list[np.ndarray]:
    return Oracle(SOURCE.config, SOURCE.read).logits(IDS)


@pytest.fixture(params=QUANTISED)
def prepared(request: pytest.FixtureRequest, folder: Path) -> PreparedWeights:
    return prepare(REF, request.param, folder)


@pytest.mark.parametrize("precision", QUANTISED)
def test_quantised_weights_have_their_golden_hash(precision: str) -> None:
    assert encode_all(SOURCE, precision).precision_hash == GOLDEN[precision]


def test_what_was_prepared_is_what_quantising_gives(prepared: PreparedWeights) -> None:
    precision = prepared.precision
    again = PreparedWeights(prepared.folder)
    again.verify()
    assert again.names() == SOURCE.names()
    assert (again.source_hash, again.precision_hash) == (SOURCE.hash, GOLDEN[precision])
    data = again.path.read_bytes()
    for name in (GATE, DOWN):
        if name == DOWN and precision != "fp8":  # rows of 176: no group
            assert again.stored_as(name) == "bf16"
            np.testing.assert_array_equal(again.float32(name), SOURCE.read(name))
            continue
        expected = quantise(SOURCE.read(name), precision)
        found = again.quantised(name)
        np.testing.assert_array_equal(found.packed, expected.packed)
        np.testing.assert_array_equal(found.scales, expected.scales)
        np.testing.assert_array_equal(again.float32(name), expected.dequantise())
        for part, array in ((name, expected.packed), (name + SCALES, expected.scales)):
            at = again.offset(part)
            assert at % 64 == 0
            assert data[at : at + again.n_bytes(part)] == array.tobytes()
    assert stored_bytes(SOURCE, precision) == sum(
        again.n_bytes(n + s) for n in again.names() for s in ("", SCALES) if n + s in _parts(again)
    )


def _parts(weights: PreparedWeights) -> set[str]:
    length = int.from_bytes(weights.path.read_bytes()[:8], "little")
    return set(json.loads(weights.path.read_bytes()[8 : 8 + length]))


def test_computed_and_prepared_weights_are_the_same(
    prepared: PreparedWeights, tmp_path: Path
) -> None:
    spec = prepare_spec(REF, prepared.precision, tmp_path, to_disk=False)
    computed = ComputedWeights(open_weights(spec.ref), spec.precision)
    assert computed.precision_hash == prepared.precision_hash
    assert computed.weight_error == prepared.weight_error
    for name in computed.names():
        np.testing.assert_array_equal(computed.float32(name), prepared.float32(name))


def test_the_file_is_valid_safetensors_with_the_types_of_the_field(
    prepared: PreparedWeights,
) -> None:
    reference = pytest.importorskip("safetensors.torch")
    theirs = reference.load_file(prepared.path)
    packed, scales = theirs[GATE], theirs[GATE + SCALES]
    types = {
        "w8": (torch.int8, torch.bfloat16),
        "w4": (torch.uint8, torch.bfloat16),
        "fp8": (torch.float8_e4m3fn, torch.float32),
    }
    assert (packed.dtype, scales.dtype) == types[prepared.precision]
    mine = load_fused(prepared, [GATE], torch.device("cpu"))
    assert (mine.packed.dtype, mine.scales.dtype) == (packed.dtype, scales.dtype)
    assert torch.equal(mine.packed.view(torch.uint8), packed.view(torch.uint8))
    assert torch.equal(mine.scales, scales)


def test_the_wrong_question_is_refused(prepared: PreparedWeights) -> None:
    with pytest.raises(BadInputError, match=f"stored as {prepared.precision}"):
        prepared.tensor(GATE)
    with pytest.raises(BadInputError, match="it has no scales"):
        prepared.quantised("model.norm.weight")
    norm = read_tensor(prepared, "model.norm.weight")
    assert norm.dtype == torch.bfloat16
    np.testing.assert_array_equal(norm.float().numpy(), SOURCE.read("model.norm.weight"))


def test_files_of_an_earlier_rule_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr("chipmark_models.weights.prepared.RULE", "nearest-0")
        old = prepare(REF, "w4", tmp_path)
    with pytest.raises(BadInputError, match="quantiser"):
        PreparedWeights(old.folder)
    assert prepare(REF, "w4", tmp_path).precision_hash == GOLDEN["w4"]


def test_a_damaged_scale_or_a_lacking_part_is_found(tmp_path: Path) -> None:
    done = prepare(REF, "w8", tmp_path)
    content = bytearray(done.path.read_bytes())
    content[done.offset(UP + SCALES)] ^= 1
    done.path.write_bytes(bytes(content))
    with pytest.raises(BadInputError, match="not those that were written"):
        PreparedWeights(done.folder).verify()
    done.path.write_bytes(
        bytes(content).replace(b"up_proj.weight_scale", b"up_proj.weight_scalf", 1)
    )
    with pytest.raises(BadInputError, match=r"up_proj\.weight_scale': the tensor is missing"):
        PreparedWeights(done.folder)


def test_fusing_on_a_device_is_quantising_the_fused(prepared: PreparedWeights) -> None:
    fused = load_fused(prepared, [GATE, UP], torch.device("cpu"))
    both = quantise(np.concatenate([SOURCE.read(GATE), SOURCE.read(UP)]), prepared.precision)
    assert fused.shape == both.shape
    assert fused.n_bytes == both.n_bytes
    np.testing.assert_array_equal(fused.packed.view(torch.uint8), both.packed.view(np.uint8))
    bits = fused.scales if prepared.precision == "fp8" else fused.scales.view(torch.int16)
    np.testing.assert_array_equal(bits, both.scales.view(bits.numpy().dtype))


def test_interleaved_pairs_are_split_by_rows() -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    moved = load_fused(ComputedWeights(SOURCE, "w8"), [name], torch.device("cpu"), [6])
    expected = quantise(split_pairs(torch.from_numpy(SOURCE.read(name)), 6).numpy(), "w8")
    np.testing.assert_array_equal(moved.packed, expected.packed)


def test_the_references_of_the_kernels_multiply_what_the_oracle_computes_with(
    folder: Path,
) -> None:
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    four = load_fused(prepare(REF, "w4", folder), [GATE], torch.device("cpu"))
    dense = torch.from_numpy(prepare(REF, "w4", folder).float32(GATE)).double()
    assert torch.equal(w4a16_gemm_reference(x, four.packed, four.scales), x @ dense.T)
    eight = load_fused(prepare(REF, "fp8", folder), [GATE], torch.device("cpu"))
    dense = torch.from_numpy(prepare(REF, "fp8", folder).float32(GATE)).double()
    x8, ones = x.to(torch.float8_e4m3fn), torch.ones(5)
    ours = fp8_gemm_reference(x8, ones, eight.packed, eight.scales, torch.float64)
    torch.testing.assert_close(ours, x8.double() @ dense.T, rtol=1e-12, atol=1e-12)


def test_the_oracle_computes_with_the_dequantised_weights(
    prepared: PreparedWeights, source_logits: list[np.ndarray], logit_loss: Any
) -> None:
    theirs = {n: prepared.float32(n) for n in prepared.names()}
    expected = Oracle(SOURCE.config, theirs.__getitem__).logits(IDS)
    logits = Oracle(prepared.config, prepared.float32).logits(IDS)
    for ours, other in zip(logits, expected, strict=True):
        np.testing.assert_array_equal(ours, other)
    loss = logit_loss(source_logits, logits)
    assert loss.positions == 54
    # Quantising shows, and the more the fewer bits a weight has.
    low, high = {"w8": (0.002, 0.05), "fp8": (0.03, 0.2), "w4": (0.1, 0.8)}[prepared.precision]
    assert low < loss.rms_rel < high
    assert loss.kl_max >= loss.kl_mean > 0


def test_the_error_of_the_weights_is_in_the_record(prepared: PreparedWeights) -> None:
    error = prepared.weight_error
    assert error is not None
    names = [n for n in prepared.names() if prepared.stored_as(n) == prepared.precision]
    left = [SOURCE.read(n).astype(np.float64) - prepared.float32(n) for n in names]
    total = sum(float((SOURCE.read(n).astype(np.float64) ** 2).sum()) for n in names)
    assert error.rms_rel == pytest.approx((sum(float((e**2).sum()) for e in left) / total) ** 0.5)
    assert error.worst_rms_rel >= error.rms_rel
    assert error.worst_tensor in names


def test_plain_weights_have_no_error_of_quantising(folder: Path) -> None:
    assert prepare(REF, "bf16", folder).weight_error is None


def test_logits_equal_to_themselves_lose_nothing(
    source_logits: list[np.ndarray], logit_loss: Any
) -> None:
    loss = logit_loss(source_logits, source_logits)
    assert (loss.rms_rel, loss.kl_mean, loss.kl_max, loss.top1) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="no position"):
        logit_loss([], [])
    with pytest.raises(ValueError, match="against"):
        logit_loss(source_logits, [a[:-1] for a in source_logits])


def test_large_models_are_streamed_tensor_by_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer of qwen3-8b's widths is quantised without a copy of the matrix in float32."""
    config = dataclasses.replace(preset("qwen3-8b"), n_layers=1)
    weights = ComputedWeights(SyntheticWeights(config, 0), "w4")
    assert prepare_spec(WeightRef("synthetic", "qwen3-8b", None, 0), "w4").folder is None
    seen: list[int] = []
    original = quantise_module.round_to

    def watched(array: np.ndarray, precision: str) -> np.ndarray:
        seen.append(array.size)
        return original(array, precision)

    monkeypatch.setattr(quantise_module, "round_to", watched)
    tensor = weights.quantised("model.layers.0.self_attn.k_proj.weight")
    assert tensor.shape == (1024, 4096)
    assert tensor.n_bytes == 1024 * 4096 * (4 + 16 / 128) / 8
    assert len(seen) == 4
    assert max(seen) * tensor.group <= 1 << 20


def test_activations_round_to_e4m3_row_by_row(prepared: PreparedWeights, logit_loss: Any) -> None:
    x = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(2)) * 1e3
    x[1, 2] = 0.0
    rounded = round_rows_fp8(x)
    theirs, scales = quantize_rows_fp8_reference(x.reshape(6, 40))
    assert torch.equal(rounded.reshape(6, 40), theirs.float() * scales[:, None])
    plain = Oracle(prepared.config, prepared.float32).logits(IDS)
    moved = Oracle(prepared.config, prepared.float32, rounding=ROUNDINGS["fp8"]).logits(IDS)
    assert 0.03 < logit_loss(plain, moved).rms_rel < 0.3
