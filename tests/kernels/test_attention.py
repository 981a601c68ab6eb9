from __future__ import annotations

import pytest
import torch

from chipmark_kernels.decode_attention import decode_attention, split_workspace
from chipmark_kernels.prefill_attention import prefill_attention
from chipmark_kernels.reference.attention import (
    decode_attention_reference,
    prefill_attention_reference,
)
from chipmark_kernels.tiles import Tile

PAGE = 8


def paged_cache(kv_lens, n_kv_heads, head_dim, dtype, rng, page=PAGE):
    """Caches whose unwritten rows are NaN, and a page table in random order, -1 beyond the end."""
    counts = [-(-n // page) for n in kv_lens]
    order = torch.randperm(sum(counts) + 3, generator=rng).tolist()
    table = torch.full((len(kv_lens), max([*counts, 1])), -1, dtype=torch.int32)
    shape = (len(order), page, n_kv_heads, head_dim)
    k = torch.full(shape, float("nan"), dtype=dtype)
    v = torch.full(shape, float("nan"), dtype=dtype)
    for seq, length in enumerate(kv_lens):
        for i in range(counts[seq]):
            at = order.pop()
            table[seq, i] = at
            n = min(page, length - i * page)
            k[at, :n] = torch.randn(n, n_kv_heads, head_dim, generator=rng).to(dtype)
            v[at, :n] = torch.randn(n, n_kv_heads, head_dim, generator=rng).to(dtype)
    return k, v, table


def _prefill_case(q_lens, kv_lens, n_heads, n_kv_heads, head_dim, dtype, rng, page=PAGE):
    k, v, table = paged_cache(kv_lens, n_kv_heads, head_dim, dtype, rng, page)
    q = torch.randn(sum(q_lens), n_heads, head_dim, generator=rng).to(dtype)
    cu_q = torch.tensor([0, *q_lens]).cumsum(0).to(torch.int32)
    return q, k, v, table, cu_q, torch.tensor(kv_lens, dtype=torch.int32)


def _check(kernel, reference, case, scale, assert_accurate, **options) -> None:
    wide = [t.double() if t.is_floating_point() else t for t in case]
    oracle = reference(*wide, scale)
    assert_accurate(kernel(*case, scale, **options), oracle, reference(*case, scale))


SLOW = pytest.mark.slow
HEADS = [
    pytest.param(6, 2, 16, id="3-heads-a-group"),
    pytest.param(5, 1, 40, id="5-heads-of-40"),
    pytest.param(1, 1, 16, id="one-head", marks=SLOW),
    pytest.param(4, 2, 64, id="dim-64", marks=SLOW),
    pytest.param(8, 1, 128, id="dim-128", marks=SLOW),
]
TILES = [
    pytest.param(Tile(m=32, n=32), id="32x32"),
    pytest.param(Tile(m=16, n=16), id="16x16", marks=SLOW),
    pytest.param(Tile(m=16, n=64), id="16x64", marks=SLOW),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("n_heads", "n_kv_heads", "head_dim"), HEADS)
@pytest.mark.parametrize("tile", TILES)
def test_prefill_of_a_ragged_batch_with_cached_prefixes(
    dtype, n_heads, n_kv_heads, head_dim, tile, rng, assert_accurate
) -> None:
    q_lens = [1, PAGE - 1, 0, PAGE, PAGE + 1, 5]
    kv_lens = [1, PAGE - 1, 7, 2 * PAGE, PAGE + 1, 45]
    case = _prefill_case(q_lens, kv_lens, n_heads, n_kv_heads, head_dim, dtype, rng)
    _check(
        prefill_attention,
        prefill_attention_reference,
        case,
        head_dim**-0.5,
        assert_accurate,
        tile=tile,
    )


@pytest.mark.parametrize("page", [1, 12])
def test_prefill_takes_any_page_size(page, rng, assert_accurate) -> None:
    case = _prefill_case([3, 20], [30, 40], 2, 1, 16, torch.float32, rng, page)
    _check(prefill_attention, prefill_attention_reference, case, 0.3, assert_accurate)


def test_padded_tokens_behind_the_last_sequence_are_left_alone(rng) -> None:
    q, *rest = _prefill_case([5, 3], [5, 11], 2, 1, 16, torch.float32, rng)
    padded = torch.cat((q, torch.full((9, 2, 16), float("nan"))))
    out = torch.full_like(padded, 7.0)
    tile = Tile(m=16, n=16)
    prefill_attention(padded, *rest, 0.25, out=out, tile=tile)
    torch.testing.assert_close(out[:8], prefill_attention_reference(q, *rest, 0.25))
    assert (out[8:] == 7.0).all()


def test_prefill_with_large_scores_stays_finite(rng, assert_accurate) -> None:
    case = _prefill_case([20], [50], 2, 1, 16, torch.float32, rng)
    case[0].mul_(40.0)
    wide = [t.double() if t.is_floating_point() else t for t in case]
    got = prefill_attention(*case, 1.0, tile=Tile(m=16, n=16))
    # A score of hundreds leaves 1e-5 of relative precision after the exponential in fp32.
    oracle = prefill_attention_reference(*wide, 1.0)
    assert (got.double() - oracle).abs().max() < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("n_heads", "n_kv_heads", "head_dim"), HEADS)
@pytest.mark.parametrize("split", [1, 4, pytest.param(16, marks=SLOW)])
def test_decode_over_every_length_and_number_of_splits(
    dtype, n_heads, n_kv_heads, head_dim, split, rng, assert_accurate
) -> None:
    kv_lens = [1, PAGE - 1, PAGE, PAGE + 1, 0, 59]
    k, v, table = paged_cache(kv_lens, n_kv_heads, head_dim, dtype, rng)
    q = torch.randn(len(kv_lens), n_heads, head_dim, generator=rng).to(dtype)
    case = (q, k, v, table, torch.tensor(kv_lens, dtype=torch.int32))
    _check(
        decode_attention,
        decode_attention_reference,
        case,
        head_dim**-0.5,
        assert_accurate,
        tile=Tile(m=16, n=16, split=split),
    )


def test_decode_reads_nothing_of_a_stale_workspace(rng) -> None:
    k, v, table = paged_cache([20, 0], 1, 16, torch.float32, rng)
    q = torch.randn(2, 2, 16, generator=rng)
    lens = torch.tensor([20, 0], dtype=torch.int32)
    workspace = split_workspace(q, 8)
    workspace.partial.fill_(float("nan"))
    workspace.lse.fill_(float("nan"))
    tile = Tile(m=16, n=16, split=8)
    got = decode_attention(q, k, v, table, lens, 0.25, workspace=workspace, tile=tile)
    torch.testing.assert_close(got, decode_attention_reference(q, k, v, table, lens, 0.25))
    assert torch.equal(got[1], torch.zeros(2, 16))


def test_a_workspace_for_fewer_splits_is_refused(rng) -> None:
    k, v, table = paged_cache([20], 1, 16, torch.float32, rng)
    q = torch.randn(1, 2, 16, generator=rng)
    lens = torch.tensor([20], dtype=torch.int32)
    small = split_workspace(q, 4)
    with pytest.raises(ValueError, match=r"workspace\.partial has 128 elements, 256 are needed"):
        decode_attention(q, k, v, table, lens, 1.0, workspace=small, tile=Tile(16, 16, split=8))


def test_prefill_of_no_sequence_does_nothing(rng) -> None:
    q, k, v, table, cu_q, lens = _prefill_case([4], [4], 1, 1, 16, torch.float32, rng)
    out = torch.full_like(q, 7.0)
    assert prefill_attention(q, k, v, table[:0], cu_q[:1], lens[:0], 1.0, out=out) is out
    assert (out == 7.0).all()


def test_decode_equals_prefill_of_one_token(rng) -> None:
    lens = [33, 16]
    k, v, table = paged_cache(lens, 2, 16, torch.float32, rng)
    q = torch.randn(2, 4, 16, generator=rng)
    kv_lens = torch.tensor(lens, dtype=torch.int32)
    cu_q = torch.arange(3, dtype=torch.int32)
    a = decode_attention(q, k, v, table, kv_lens, 0.25, tile=Tile(m=16, n=16, split=2))
    b = prefill_attention(q, k, v, table, cu_q, kv_lens, 0.25, tile=Tile(m=16, n=16))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_queries_and_outputs_may_be_views_into_wider_rows(rng) -> None:
    k, v, table = paged_cache([9], 1, 16, torch.float32, rng)
    packed = torch.randn(1, 4, 16, generator=rng)
    q = packed[:, 1:3]
    lens = torch.tensor([9], dtype=torch.int32)
    out = torch.zeros(1, 4, 16)
    decode_attention(q, k, v, table, lens, 0.25, out=out[:, 2:], tile=Tile(m=16, n=16, split=1))
    torch.testing.assert_close(out[:, 2:], decode_attention_reference(q, k, v, table, lens, 0.25))
    assert torch.equal(out[:, :2], torch.zeros(1, 2, 16))
