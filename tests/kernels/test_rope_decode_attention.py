"""One launch for norms, rotation, cache write and attention, against the two that it joins."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from triton.runtime import interpreter

from chipmark_kernels.arrival_merge import JoinedWorkspace
from chipmark_kernels.decode_attention import split_workspace
from chipmark_kernels.device import TARGETS
from chipmark_kernels.launch import Launch, recording
from chipmark_kernels.reference.rope_decode_attention import rope_decode_attention_reference
from chipmark_kernels.rope_decode_attention import rope_decode_attention
from chipmark_kernels.tiles import Tile

PAGE = 4
LENGTHS = [1, PAGE, 0, PAGE + 1, 39]


@dataclass
class Step:
    """One decode step of several sequences; what is not written is NaN."""

    rotation: tuple[torch.Tensor, ...]
    caches: tuple[torch.Tensor, torch.Tensor]
    table: torch.Tensor
    lens: torch.Tensor
    n_heads: int
    norms: dict

    def run(self, function, caches=None, rows=slice(None), **options) -> torch.Tensor:
        qkv, cos, sin, positions, slots = self.rotation
        at = (qkv[rows], cos, sin, positions[rows], slots[rows])
        rest = (*(caches or self.caches), self.table[rows], self.lens[rows])
        return function(*at, *rest, self.n_heads, 0.25, **(self.norms | options))

    def copies(self) -> tuple[torch.Tensor, torch.Tensor]:
        k, v = self.caches
        return k.clone(), v.clone()

    def widened(self) -> Step:
        def wide(t):
            return t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t

        norms = {name: wide(value) for name, value in self.norms.items()}
        rotation, caches = (tuple(map(wide, each)) for each in (self.rotation, self.caches))
        return Step(rotation, caches, self.table, self.lens, self.n_heads, norms)


def _step(
    rng, dtype=torch.float32, heads=(4, 2, 16), lengths=LENGTHS, norm=True, interleaved=False
) -> Step:
    n_heads, n_kv_heads, dim = heads
    lens = torch.tensor(lengths, dtype=torch.int32)
    width = max(-(-n // PAGE) for n in lengths)
    order = torch.randperm(len(lengths) * width + 2, generator=rng)[: len(lengths) * width]
    held = order.view(len(lengths), width)
    caches = []
    for _ in range(2):
        cache = torch.full((order.max() + 3, PAGE, n_kv_heads, dim), float("nan"), dtype=dtype)
        for pages, length in zip(held, lengths, strict=True):
            made = torch.randn(width * PAGE, n_kv_heads, dim, generator=rng).to(dtype)
            made[max(length - 1, 0) :] = float("nan")  # the newest token is not there yet
            cache[pages] = made.view(width, PAGE, n_kv_heads, dim)
        caches.append(cache)
    last = (lens - 1).clamp(min=0).long()
    places = held.gather(1, (last // PAGE)[:, None])[:, 0] * PAGE + last % PAGE
    used = torch.arange(width)[None] * PAGE < lens[:, None]
    table = torch.where(used, held, -1).to(torch.int32)
    qkv = torch.randn(len(lengths), (n_heads + 2 * n_kv_heads) * dim, generator=rng).to(dtype)
    qkv[lens == 0] = 50.0  # what a padded row holds must have no influence
    angles = torch.rand(64, dim // 2, generator=rng) * 6.0
    norms: dict = {"interleaved": interleaved}
    if norm:
        norms |= {n: torch.randn(dim, generator=rng).to(dtype) for n in ("q_norm", "k_norm")}
    rotation = (qkv, angles.cos(), angles.sin(), lens - 1, torch.where(lens > 0, places, -1))
    return Step(rotation, (caches[0], caches[1]), table, lens, n_heads, norms)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


SLOW = pytest.mark.slow


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("heads", "norm", "interleaved"),
    [
        ((6, 2, 16), True, False),
        ((5, 1, 40), False, True),
        pytest.param((2, 2, 64), False, False, marks=SLOW),
        pytest.param((16, 2, 64), True, False, marks=SLOW),
        pytest.param((4, 1, 128), True, False, marks=SLOW),
    ],
)
@pytest.mark.parametrize("split", [1, 4, pytest.param(16, marks=SLOW)])
def test_output_and_cache_are_those_of_the_two_operations(
    dtype, heads, norm, interleaved, split, rng, assert_accurate
) -> None:
    step = _step(rng, dtype, heads, norm=norm, interleaved=interleaved)
    wide, rounded = step.widened(), step.copies()
    oracle = wide.run(rope_decode_attention_reference)
    baseline = step.run(rope_decode_attention_reference, rounded)
    tile = Tile(m=16, n=16, k=min(split, 2), split=split)
    got = step.run(rope_decode_attention, tile=tile)
    assert_accurate(got, oracle, baseline)
    assert torch.equal(got[LENGTHS.index(0)], torch.zeros_like(got[0]))
    (k, v), (wide_k, wide_v) = step.caches, wide.caches
    written = ~wide_k.isnan()
    assert torch.equal(written, ~k.isnan())
    assert _same(v.double(), wide_v)
    assert_accurate(k[written], wide_k[written], rounded[0][written])


def _workspace(n_seqs: int, split: int) -> JoinedWorkspace:
    """For the four queries and two KV heads of 16 dimensions of a step."""
    tickets = torch.zeros(n_seqs * 2, dtype=torch.int32)
    return JoinedWorkspace(split_workspace(torch.empty(n_seqs, 4, 16), split), tickets)


def _in_order(monkeypatch: pytest.MonkeyPatch, places: list[int]) -> None:
    """The interpreter runs the programs of a sequence and head in another order."""
    builder = interpreter.interpreter_builder
    set_place = builder.set_grid_idx
    monkeypatch.setattr(builder, "set_grid_idx", lambda x, y, z: set_place(x, y, places[z]))


def test_who_arrives_last_does_not_change_a_bit_and_leaves_the_tickets_at_zero(
    rng, monkeypatch
) -> None:
    step, tile = _step(rng, lengths=[39, 17, 0]), Tile(m=16, n=16, k=2, split=4)
    workspace = _workspace(3, tile.split)
    results = []
    for places in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        with monkeypatch.context() as patch:
            _in_order(patch, places)
            # What an earlier launch left there must have no influence.
            workspace.splits.partial.fill_(float("nan"))
            workspace.splits.lse.fill_(float("nan"))
            caches = step.copies()
            out = step.run(rope_decode_attention, caches, workspace=workspace, tile=tile)
        assert not workspace.tickets.any()
        results.append((out, *caches))
    for other in results[1:]:
        assert all(_same(a, b) for a, b in zip(results[0], other, strict=True))
    torch.testing.assert_close(results[0][0], step.run(rope_decode_attention_reference))


def test_a_launch_that_finds_other_tickets_merges_nothing(rng) -> None:
    step, tile = _step(rng, lengths=[39]), Tile(m=16, n=16, k=2, split=4)
    workspace = _workspace(1, tile.split)
    workspace.tickets.fill_(100)
    out = torch.full((1, 4, 16), 7.0)
    step.run(rope_decode_attention, out=out, workspace=workspace, tile=tile)
    assert (out == 7.0).all()
    assert workspace.tickets.tolist() == [103, 103]  # three live splits of four


def test_the_devices_own_tickets_serve_launch_after_launch_of_any_size(rng) -> None:
    tile = Tile(m=16, n=16, k=1, split=2)
    for lengths in ([39, 20], [18], [30, 0, 33]):
        step = _step(rng, lengths=lengths, norm=False)
        expected = step.run(rope_decode_attention_reference, step.copies())
        torch.testing.assert_close(step.run(rope_decode_attention, tile=tile), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k_norm": None}, "give both or none"),
        ({"ahead": (torch.empty(2, 3),) * 3}, "ahead: give up to two contiguous weights"),
        ({"ahead": (torch.empty(2, 3).T,)}, "ahead: give up to two contiguous weights"),
        ({"pdl": True}, "pdl: sm_90 has no dependent launch here"),
    ],
)
def test_what_the_kernel_would_misread_is_refused(change, message, rng) -> None:
    with pytest.raises(ValueError, match=message):
        _step(rng, lengths=[1]).run(rope_decode_attention, **change)


@pytest.mark.parametrize(
    ("small", "message"),
    [
        (_workspace(1, 4), r"workspace\.splits\.partial has 256 elements, 512 are needed"),
        (
            replace(_workspace(2, 4), tickets=torch.zeros(2, dtype=torch.int32)),
            r"workspace\.tickets has 2 elements, 4 are needed",
        ),
    ],
)
def test_a_workspace_that_is_too_small_is_refused(small, message, rng) -> None:
    with pytest.raises(ValueError, match=message):
        _step(rng, lengths=[9, 9]).run(
            rope_decode_attention, workspace=small, tile=Tile(m=16, n=16, k=1, split=4)
        )


def _recorded(target: str, ahead_rows: tuple[int, ...] = ()) -> Launch:
    made = _step(torch.Generator().manual_seed(1), torch.bfloat16, (4, 2, 64))
    rotation, caches = (tuple(t.to("meta") for t in each) for each in (made.rotation, made.caches))
    norms = {n: t.to("meta") if torch.is_tensor(t) else t for n, t in made.norms.items()}
    step = Step(rotation, caches, made.table.to("meta"), made.lens.to("meta"), 4, norms)
    ahead = tuple(
        torch.empty(rows, 4096, dtype=torch.bfloat16, device="meta") for rows in ahead_rows
    )
    with recording(TARGETS[target]) as launches:
        step.run(rope_decode_attention, ahead=ahead)
    (launch,) = launches
    return launch


@pytest.mark.parametrize(
    ("target", "early"), [("sm_80", False), ("sm_90", True), ("sm_100", True), ("gfx942", False)]
)
def test_it_is_a_dependent_launch_where_there_are_such(target, early) -> None:
    launch = _recorded(target, (64,))
    assert launch.constants["PDL"] is early
    assert launch.options.get("launch_pdl", False) is early
    assert launch.constants["AHEAD_LINES"] == (64 * 4096 * 2 // 128 if early else 0)


def test_weights_are_asked_for_ahead_up_to_16_mib_in_order() -> None:
    lines = 2**24 // 128
    constants = _recorded("sm_90", (1024, 4096)).constants
    assert (constants["AHEAD_LINES"], constants["THEN_LINES"]) == (lines // 2, lines // 2)
    constants = _recorded("sm_90", (4096, 64)).constants
    assert (constants["AHEAD_LINES"], constants["THEN_LINES"]) == (lines, 0)
