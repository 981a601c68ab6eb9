"""Synthetic weights made by a device: the host's bits, of every kind of tensor and precision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from chipmark_kernels.reference.philox_weights import multiply_high, philox_weights_reference
from chipmark_models.decoder import device_made
from chipmark_models.decoder.device_made import DeviceMadeWeights, difference, made_on, open_on
from chipmark_models.decoder.paged.quantised import QuantisedMatrix
from chipmark_models.decoder.paged.weights import Product, load_weights
from chipmark_models.presets import preset
from chipmark_models.weights.prepared import ComputedWeights, WeightSpec
from chipmark_models.weights.source import WeightRef
from chipmark_models.weights.synthetic import SyntheticWeights

CPU = torch.device("cpu")
# Every kind of tensor: untied head, head norms, all biases, interleaved pairs, odd widths.
ALL = replace(
    preset("tiny"), family="ernie4_5", rope_interleaved=True, qk_norm=True, qkv_bias=True,
    attn_out_bias=True, mlp_bias=True, tied_embeddings=False, n_layers=1, vocab_size=509,
)  # fmt: skip
# One whose rows of down have groups too.
GROUPED = replace(ALL, hidden_size=64, intermediate_size=96)


def pair(config, precision: str, seed: int = 3) -> tuple[DeviceMadeWeights, ComputedWeights]:
    source = SyntheticWeights(config, seed)
    return (
        DeviceMadeWeights(source, precision, CPU, philox_weights_reference),
        ComputedWeights(source, precision),
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_tensor_has_the_bits_of_the_host(precision: str) -> None:
    made, host = pair(ALL, precision)
    assert made.precision_hash == host.precision_hash
    for name in host.names():
        mine = made.made(name)
        assert mine.shape == host.tensor(name).shape
        bits = torch.int32 if precision == "fp32" else torch.int16
        expected = np.ascontiguousarray(host.tensor(name)).view(f"i{bits.itemsize}")
        np.testing.assert_array_equal(mine.view(bits).numpy(), expected)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 1_001])
def test_a_stream_may_end_within_a_count(n: int) -> None:
    source = SyntheticWeights(preset("tiny"), 0)
    name = "model.embed_tokens.weight"
    table = torch.from_numpy(source.values(name))
    mine = philox_weights_reference(table, source.key(name), n)
    np.testing.assert_array_equal(mine.numpy(), source.read(name).reshape(-1)[:n])


def test_a_stream_longer_than_a_step_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from chipmark_kernels.reference import philox_weights as module

    table = torch.arange(module.SUMS)
    whole = philox_weights_reference(table, 5 << 64 | 9, 1_000)
    monkeypatch.setattr(module, "_CHUNK", 7)
    assert torch.equal(philox_weights_reference(table, 5 << 64 | 9, 1_000), whole)


def test_the_upper_half_of_a_product_is_that_of_whole_numbers() -> None:
    numbers = [0, 1, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 0xD2E7470EE14C6C93]
    x = torch.from_numpy(np.array(numbers, np.uint64).view(np.int64))
    for by in numbers:
        high = multiply_high(x, by).numpy().view(np.uint64)
        assert [int(h) for h in high] == [n * by >> 64 for n in numbers]


@pytest.mark.parametrize("precision", ["w8", "w4", "fp8", "bf16"])
@pytest.mark.parametrize("config", [ALL, GROUPED], ids=["kept", "grouped"])
def test_a_decoder_gets_the_same_weights(config, precision: str) -> None:
    mine, host = (load_weights(w, CPU, torch.float32) for w in pair(config, precision))

    def bits(tensor: torch.Tensor | None) -> bytes:
        return b"" if tensor is None else tensor.view(torch.uint8).numpy().tobytes()

    def of(product: Product) -> list[object]:
        matrix = product.matrix
        if isinstance(matrix, QuantisedMatrix):
            parts = [matrix.precision, matrix.group, bits(matrix.packed), bits(matrix.scales)]
        else:
            parts = [bits(matrix)]
        return [*parts, bits(product.bias)]

    for one, other in zip(mine.layers, host.layers, strict=True):
        for field in ("qkv", "out", "gate_up", "down"):
            assert of(getattr(one, field)) == of(getattr(other, field)), field
        for field in ("input_norm", "q_norm", "k_norm", "post_norm"):
            assert bits(getattr(one, field)) == bits(getattr(other, field)), field
    assert bits(mine.embedding) == bits(host.embedding)
    assert of(mine.head) == of(host.head)
    assert mine.n_bytes == host.n_bytes


@pytest.mark.parametrize("precision", ["bf16", "w4"])
def test_a_kernel_that_makes_other_bits_is_found(precision: str) -> None:
    ref = WeightRef("synthetic", "smollm2-135m", None, 0)

    def off_by_one(table: torch.Tensor, key: int, n: int) -> torch.Tensor:
        return philox_weights_reference(table, key + 1, n)

    assert difference(made_on(ref, precision, CPU, philox_weights_reference)) == ""
    assert "has other bits" in difference(made_on(ref, precision, CPU, off_by_one))

    def broken(table: torch.Tensor, key: int, n: int) -> torch.Tensor:
        raise RuntimeError("no image for this device")

    assert "RuntimeError: no image" in difference(made_on(ref, precision, CPU, broken))


def test_the_host_takes_over_with_a_reason_only(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = WeightSpec(WeightRef("synthetic", "tiny", None, 0), "bf16", None)
    assert not isinstance(open_on(spec, CPU)[0], DeviceMadeWeights)
    card = torch.device("cuda", 0)
    monkeypatch.setattr(
        device_made, "made_on", lambda ref, p, device, make: made_on(ref, p, CPU, make)
    )
    for shift, reason in ((0, ""), (1, "other bits")):
        make = lambda table, key, n, s=shift: philox_weights_reference(table, key + s, n)  # noqa: E731
        monkeypatch.setattr(device_made, "maker_for", lambda device, make=make: make)
        weights, told = open_on(spec, card)
        assert isinstance(weights, DeviceMadeWeights) == (not reason)
        assert reason in told
        assert bool(told) == bool(reason)


class _DividingAsCuda(TorchFunctionMode):
    """Divides by a number of the host as CUDA does: a product with its reciprocal."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("div", "__truediv__") and isinstance(args[1], float):
            return args[0] * (torch.tensor(1.0) / torch.tensor(args[1]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["w8", "w4", "fp8"])
def test_scales_are_the_hosts_where_a_division_by_a_number_is_not_rounded_correctly(
    precision: str,
) -> None:
    top = {"w8": 127.0, "w4": 7.0, "fp8": 448.0}[precision]
    # Largest values whose quotients are next to the middle between two scales.
    middles = ((torch.arange(128, 256, dtype=torch.float64) + 0.5) * top / 128).float()
    most = (middles.view(torch.int32)[:, None] + torch.arange(-4, 5, dtype=torch.int32)).view(-1)
    most = most.view(torch.float32)[:, None, None]
    host = torch.from_numpy(most.numpy()[..., 0] / np.float32(top)).bfloat16()
    with _DividingAsCuda():
        assert not torch.equal((most[..., 0] / top).bfloat16(), host)
        _, scales = device_made._quantised(most.repeat(1, 1, 2), precision)
    assert torch.equal(scales.view(-1).bfloat16(), host.view(-1))
