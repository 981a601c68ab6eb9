"""What ran on the device, by the operators that were dispatched; `meta` is a device of its own."""

from __future__ import annotations

import types

import pytest
import torch

from chipmark.backends.torch_device import coverage as cov
from chipmark.backends.torch_device.coverage import (
    Coverage,
    DispatchedWork,
    coverage,
    may_fall_back,
)
from chipmark.backends.torch_device.sampling import two_largest

CUDA = types.SimpleNamespace(type="cuda")
META = torch.device("meta")


def on_device():
    a = torch.ones(64, 64, device="meta")
    return (a @ a).t()[1:].relu()


def on_host():
    a = torch.ones(16, 16)
    return a @ a


def test_work_is_counted_by_where_its_tensors_are():
    with DispatchedWork() as counted:
        on_device()
    assert counted.host == [0.0, 0.0]
    assert counted.all[0] == 2 * 64**3
    assert counted.device_share == 1.0
    with counted:
        on_host()
    assert counted.host[0] == 2 * 16**3
    assert counted.device_share == pytest.approx(
        min(1 - counted.host[k] / counted.all[k] for k in (0, 1))
    )
    assert 0.9 < counted.device_share < 0.99


def test_views_and_copies_to_the_device_are_no_work_of_the_host():
    with DispatchedWork() as counted:
        torch.ones(8, device="meta").add(1)
        held = torch.arange(8)
        held[2:].view(3, 2).t().unsqueeze(0)
        held.to("meta")
    assert counted.host == [0.0, 0.0]
    assert counted.all[1] > 0


def test_coverage_is_counted_certain_or_unknown():
    assert coverage(torch.device("cpu"), [on_host]) == Coverage(1.0)
    assert coverage(CUDA, [on_device]) == Coverage(1.0)
    found = coverage(CUDA, [on_device, on_host])
    assert 0.9 < found.share < 0.99
    (product,) = found.operators
    assert (product.name, product.count) == ("aten::mm", 1)
    assert product.flops_share == pytest.approx(16**3 / (16**3 + 64**3))
    assert 0 < product.bytes_share < 0.1
    # A vendor's plug-in may compute on the host below the dispatcher; where the profiler does not
    # see its copies, a share is known only where what was dispatched is too little already.
    assert coverage(META, [on_device]) == Coverage(None)
    assert coverage(META, [on_device, on_host]) == found
    small = lambda: torch.ones(2) + 1  # noqa: E731
    assert coverage(META, [on_device, small]).share is None
    assert coverage(META, [on_device, small]).operators[0].name == "aten::add"
    assert coverage(CUDA, []) == Coverage(None)


def test_cards_that_torch_is_built_for_have_no_fallback_and_posing_ones_have(monkeypatch):
    assert may_fall_back(torch.device("meta"))
    monkeypatch.setattr(cov, "poses", lambda facts: False)
    assert not may_fall_back(CUDA)
    monkeypatch.setattr(cov, "poses", lambda facts: True)
    assert may_fall_back(CUDA)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_two_largest_are_those_of_a_sort(dtype):
    logits = torch.randn(5, 1000, generator=torch.Generator().manual_seed(3)).to(dtype)
    ids = logits.argmax(-1)
    assert torch.equal(two_largest(logits, ids), logits.topk(2).values.float())
    other = two_largest(logits, (ids + 1) % 1000)
    assert (other[:, 1] > other[:, 0]).all()
    assert two_largest(logits[:0], ids[:0]).shape == (0, 2)


def test_products_and_attention_count_in_inference_mode_too():
    """There they reach the mode whole, and torch's registry knows them taken apart only."""
    rows, weight = torch.randn(3, 8), torch.randn(5, 8)
    query, key = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 7, 4)
    with torch.inference_mode(), DispatchedWork() as counted:
        torch.nn.functional.linear(rows, weight)
        torch.matmul(rows, weight.T)
        torch.nn.functional.scaled_dot_product_attention(query, key, key)
    product, attention = 2 * 3 * 8 * 5, 2 * 2 * 2 * 3 * 7 * 4
    assert [call.flops for call in counted.calls] == [product, product, attention]
