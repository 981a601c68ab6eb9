"""Captured decode and prefill through the engine: what a graph bakes in, and whose memory it is.

A stream records the operators of a launch with their tensors and plays just these again, as a CUDA
graph does: values that the host read are as they were, and a read by the host is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from chipmark.backends.triton_cuda import loading
from chipmark.backends.triton_cuda.backend import TritonBackend
from chipmark.backends.triton_cuda.prefill import Prefill
from chipmark.backends.triton_cuda.streams import Call, HostStream
from chipmark.engine.contract import LoadSpec
from chipmark.engine.loop import run
from chipmark.engine.plan import RunPlan
from chipmark.engine.trial import SessionShape, TurnShape, trial_trace
from chipmark_kernels.reference.rmsnorm import rmsnorm_reference
from chipmark_models.decoder.paged import flash_ops, torch_ops, triton_ops
from chipmark_models.decoder.paged.ops import TABLE
from chipmark_models.oracle import Oracle
from chipmark_models.presets import preset
from chipmark_models.weights.prepared import WeightSpec, open_any
from chipmark_models.weights.source import WeightRef

TINY = preset("tiny")
WEIGHTS = WeightSpec(WeightRef("synthetic", "tiny", None, 7), "fp32", None)
HOST_READS = ("aten::_local_scalar_dense", "aten::item", "aten::nonzero")
COMPUTED_BY = {
    **{op: "torch" for op in TABLE.operations if op not in TABLE.separate},
    "prefill_attention": "triton",  # by a function of this file
    "cold_attention": "flash",
}


def _tensors(value: object) -> list[torch.Tensor]:
    return [x for x in tree_leaves(value) if isinstance(x, torch.Tensor)]


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Recording(TorchDispatchMode):
    """Operators that write, each with what it was given and the results that have new memory."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[Callable[..., Any], Any, Any, list[torch.Tensor | None]]] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func._schema.name in HOST_READS:
            raise RuntimeError(f"{func}: operation not permitted when stream is capturing")
        result = func(*args, **given)
        read = {_memory(x) for x in _tensors((args, given))}
        new = [None if _memory(x) in read else x for x in _tensors(result)]
        if not func.is_view or any(x is not None for x in new):
            self.written.append((func, args, given, new))
        return result


class Recorded(HostStream):
    """What is captured is played again from its operators. Memory that graphs share does not
    outlive the play of another, and the first play takes longer, as its upload does."""

    def __init__(self) -> None:
        self.kept: list[tuple[torch.Tensor, ...]] = []
        self.now = 0.0

    def mark(self) -> float:
        return self.now

    def capture(self, call: Call, *, kept: bool) -> Call:
        call()
        recording = Recording()
        with recording:
            results = call()
        own = [x for x in results if x.numel()]
        self.kept.append(tuple(own))
        plays = 0

        @torch.inference_mode()
        def replay() -> tuple[torch.Tensor, ...]:
            nonlocal plays
            self.now += 1.0 if plays else 9.0
            plays += 1
            for other in self.kept:
                for tensor in other:
                    tensor.fill_(float("nan") if tensor.is_floating_point() else -1)
            for func, args, given, new in recording.written:
                for place, value in zip(new, _tensors(func(*args, **given)), strict=True):
                    if place is not None:
                        place.copy_(value)
            return results

        return replay


def attention_without_the_host(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    cu_q: torch.Tensor,
    kv_lens: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Prefill attention by masks; tokens behind the last row get what memory may hold."""
    tokens, n_kv = torch.arange(q.shape[0]), k_cache.shape[2]
    behind = (tokens[:, None] >= cu_q[None, 1:]).sum(1)
    row = behind.clamp(max=page_table.shape[0] - 1)
    at = kv_lens[row] - cu_q[row + 1] + tokens
    k, v = (cache[page_table[row].long()].flatten(1, 2) for cache in (k_cache, v_cache))
    scores = torch.einsum("tkgd,tnkd->tkgn", q.unflatten(1, (n_kv, -1)), k) * scale
    hidden = torch.arange(k.shape[1])[None] > at[:, None]
    weights = scores.masked_fill(hidden[:, None, None], float("-inf")).softmax(-1)
    attended = torch.einsum("tkgn,tnkd->tkgd", weights, v).flatten(1, 2)
    return torch.where(behind[:, None, None] < page_table.shape[0], attended, float("nan"))


def cold_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    heads = [x.transpose(0, 1)[None] for x in (q, k, v)]
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(*heads, is_causal=True, scale=scale, enable_gqa=True)[0].transpose(0, 1)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    made = Recorded()
    chosen = loading.chosen_cold
    monkeypatch.setattr(loading, "stream_of", lambda device: made)
    monkeypatch.setattr(torch_ops, "rms_norm", lambda *args: rmsnorm_reference(*args)[0])
    monkeypatch.setattr(triton_ops, "OPS", {"prefill_attention": attention_without_the_host})
    monkeypatch.setattr(flash_ops, "OPS", {"cold_attention": cold_attention})
    monkeypatch.setattr(
        loading, "chosen_cold", lambda *args, **more: replace(chosen(*args, **more), least=12)
    )
    monkeypatch.setattr(Prefill, "_host_bound", lambda self, most: most)
    monkeypatch.setattr(Prefill, "_host_seconds", lambda self, tokens: 1.0)
    return made


@pytest.mark.long
def test_graphs_compute_what_the_oracle_does_for_rows_that_come_and_go(stream: Recorded) -> None:
    backend = TritonBackend("interpreter")
    options = {"ops": COMPUTED_BY, "prefill_graphs": True}
    loaded = backend.load(LoadSpec(WEIGHTS.to_dict(), "fp32", 3, 80, 120, 24, options=options))
    assert loaded.details["prefill_graphs"]["refused"] == ""
    assert loaded.details["prefill_graphs"]["tokens"] == [16, 24]
    graphs = backend._engine.prefill.graphs
    assert {graph.seconds for graph in graphs.values()} == {1.0}  # not those of the first play
    assert {bucket.cold for bucket in graphs} == {True, False}
    shapes = [
        SessionShape((TurnShape(5 + 9 * i, 2 + i), TurnShape(3, 2)), group=i % 2, shared=18)
        for i in range(4)
    ]
    trace = trial_trace(shapes, TINY.vocab_size)
    result = run(backend, trace, RunPlan(caps=loaded.caps, concurrency=3, logits_of_all=True))
    oracle, seen = Oracle(TINY, open_any(WEIGHTS).float32), 0
    for session in trace.sessions:
        for turn in session.turns:
            ids = np.concatenate([session.prompt(turn), session.output(turn)])
            expected = oracle.logits([ids])[0]
            for captured in result.logits:
                if (captured.session, captured.turn) == (session.id, turn.index):
                    assert np.abs(captured.logits - expected[captured.position]).max() <= 1e-4
                    seen += 1
    assert seen == len(result.logits) > 20
    played = backend._counts
    assert played["prefill_cold:graph"] > 0
    assert played["prefill_append:graph"] > 0
