from __future__ import annotations

import pytest
import torch

from chipmark_kernels.reference.rope_kv import qknorm_rope_kvwrite_reference
from chipmark_kernels.rope_kv import qknorm_rope_kvwrite
from chipmark_kernels.tiles import Tile

PAGE = 4


def _inputs(n_heads, n_kv_heads, head_dim, dtype, rng, tokens=5):
    width = (n_heads + 2 * n_kv_heads) * head_dim
    qkv = torch.randn(tokens, width, generator=rng).to(dtype)
    angles = torch.rand(64, head_dim // 2, generator=rng) * 6.0
    positions = torch.randint(0, 64, (tokens,), generator=rng, dtype=torch.int32)
    slots = torch.randperm(6 * PAGE, generator=rng)[:tokens].to(torch.int32)
    slots[tokens // 2] = -1
    cache = torch.full((6, PAGE, n_kv_heads, head_dim), float("nan"), dtype=dtype)
    return qkv, angles.cos(), angles.sin(), positions, slots, cache, cache.clone()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("n_heads", "n_kv_heads", "head_dim"), [(1, 1, 8), (6, 2, 16), (9, 3, 80)])
@pytest.mark.parametrize(
    ("interleaved", "norm"),
    [
        (False, True),
        (True, False),
        pytest.param(False, False, marks=pytest.mark.slow),
        pytest.param(True, True, marks=pytest.mark.slow),
    ],
)
def test_queries_and_cache_agree_with_fp64(
    dtype, n_heads, n_kv_heads, head_dim, interleaved, norm, rng, assert_accurate
) -> None:
    inputs = _inputs(n_heads, n_kv_heads, head_dim, dtype, rng)
    options: dict = {"interleaved": interleaved}
    if norm:
        options |= {
            "q_norm": torch.randn(head_dim, generator=rng).to(dtype),
            "k_norm": torch.randn(head_dim, generator=rng).to(dtype),
        }
    wide = [t.double() if t.is_floating_point() else t for t in inputs]
    wide_options = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    again = [t.clone() for t in inputs]
    baseline = qknorm_rope_kvwrite_reference(*again, n_heads, **options)
    q = qknorm_rope_kvwrite(*inputs, n_heads, **options)
    oracle = qknorm_rope_kvwrite_reference(*wide, n_heads, **wide_options)
    assert_accurate(q, oracle, baseline)
    k_cache, v_cache = inputs[-2:]
    written = ~wide[-1].isnan()
    assert written.any()
    assert torch.equal(~v_cache.isnan(), written)
    assert torch.equal(~k_cache.isnan(), written)
    assert torch.equal(v_cache[written].double(), wide[-1][written])
    assert_accurate(k_cache[written], wide[-2][written], again[-2][written])


def test_slot_minus_one_writes_nothing_and_its_query_is_still_given(rng) -> None:
    inputs = _inputs(2, 1, 8, torch.float32, rng, tokens=3)
    inputs[4].fill_(-1)
    inputs[3].fill_(-1_000_000)  # what a padded row's position may hold
    q = qknorm_rope_kvwrite(*inputs, 2)
    assert inputs[-1].isnan().all()
    assert inputs[-2].isnan().all()
    assert torch.isfinite(q).all()


@pytest.mark.parametrize("heads_a_program", [2, 8])
def test_the_result_does_not_depend_on_the_tile(heads_a_program, rng) -> None:
    a = _inputs(5, 2, 16, torch.float32, rng)
    b = [t.clone() for t in a]
    one = qknorm_rope_kvwrite(*a, 5, tile=Tile(m=heads_a_program))
    other = qknorm_rope_kvwrite(*b, 5, tile=Tile(m=4))
    assert torch.equal(one, other)
    assert torch.equal(a[-2].nan_to_num(), b[-2].nan_to_num())


def test_caches_of_another_memory_order_are_written_at_their_strides(rng) -> None:
    plain = _inputs(2, 2, 8, torch.float32, rng)
    head_major = [t.clone() for t in plain]
    for i in (-2, -1):
        shape = (6, 2, PAGE, 8)
        head_major[i] = torch.full(shape, float("nan")).transpose(1, 2)
    qknorm_rope_kvwrite(*plain, 2)
    qknorm_rope_kvwrite(*head_major, 2)
    for i in (-2, -1):
        assert torch.equal(plain[i].nan_to_num(7), head_major[i].nan_to_num(7))


def test_one_norm_weight_without_the_other_is_refused(rng) -> None:
    with pytest.raises(ValueError, match="give both or none"):
        qknorm_rope_kvwrite(*_inputs(1, 1, 4, torch.float32, rng), 1, q_norm=torch.ones(4))


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (1, lambda cos: torch.cat((cos, cos), 1)[:, :2], "cos and sin: strides must agree"),
        (3, lambda positions: positions.repeat_interleave(2)[::2], "positions: the last dimension"),
    ],
)
def test_memory_that_the_kernel_would_misread_is_refused(index, change, message, rng) -> None:
    inputs = list(_inputs(1, 1, 4, torch.float32, rng))
    inputs[index] = change(inputs[index])
    with pytest.raises(ValueError, match=message):
        qknorm_rope_kvwrite(*inputs, 1)


def test_queries_whose_heads_lie_apart_are_refused(rng) -> None:
    out = torch.empty(5, 4, 8)[:, ::2]
    with pytest.raises(ValueError, match="q_out: the heads of a row must be contiguous"):
        qknorm_rope_kvwrite(*_inputs(2, 1, 8, torch.float32, rng), 2, q_out=out)
