"""Liger and FlagGems: that the calls fit what they publish, by modules that stand in for them.

The signatures are those of liger_kernel 0.8.5 and flag_gems 5.0.2, the arithmetic plain torch's.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as functional

CPU = torch.device("cpu")


def _norm(x, weight, eps):
    return functional.rms_norm(x.float(), x.shape[-1:], weight.float(), eps).to(x.dtype)


def _silu_mul(a, b):
    return (functional.silu(a.float()) * b.float()).to(a.dtype)


def _rotate(x, cos, sin):
    a, b = x.float().chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


def _applied(function):
    return SimpleNamespace(apply=function)


def _module(name: str, **members) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(members)
    return module


def _fused_gate_up(y, in_place=False):
    return _silu_mul(*y.chunk(2, -1))


def _liger_rms_norm(X, W, eps, offset=0.0, casting_mode="llama", in_place=True, row_mode=None):
    return _norm(X, W, eps)


def _liger_add_norm(X, R, W, eps, offset=0.0, casting_mode="llama", in_place=False):
    return _norm(X + R, W, eps), X + R


def _liger_embedding(embeddings, indices):
    return embeddings[indices.long()]


def _liger_rope(q, k, cos, sin, position_ids=None, unsqueeze_dim=1, rotary_dim=None):
    assert q.ndim == k.ndim == 4
    assert cos.shape == (q.shape[2], rotary_dim // 2)
    return _rotate(q, cos, sin), _rotate(k, cos, sin)


LIGER = {
    "swiglu": {"LigerFusedGateUpSiLUMulFunction": _applied(_fused_gate_up)},
    "rms_norm": {"LigerRMSNormFunction": _applied(_liger_rms_norm)},
    "fused_add_rms_norm": {"LigerFusedAddRMSNormFunction": _applied(_liger_add_norm)},
    "rope": {"LigerRopeFunction": _applied(_liger_rope)},
    "experimental.embedding": {"LigerEmbeddingFunction": _applied(_liger_embedding)},
}


def _rms_norm(x, normalized_shape, weight, eps=1e-5):
    assert list(normalized_shape) == [x.shape[-1]]
    return _norm(x, weight, eps)


def _fused_add_rms_norm(x, residual, normalized_shape, weight, eps=1e-5):
    residual += x
    x.copy_(_norm(residual, weight, eps))
    return x, residual


def _rotary(q, k, cos, sin, position_ids=None, rotary_interleaved=False, inplace=False):
    c, s = cos[position_ids.long()][:, None], sin[position_ids.long()][:, None]
    return _rotate(q, c, s), _rotate(k, c, s)


def _cache(key, value, key_cache, value_cache, slot_mapping, kv_cache_dtype, k_scale, v_scale):
    kept = slot_mapping >= 0
    for cache, written in ((key_cache, key), (value_cache, value)):
        cache.flatten(0, 1)[slot_mapping[kept]] = written[kept]


def _flash(q, k, v, max_seqlen_q, cu_seqlens_q, max_seqlen_k, cu_seqlens_k=None, seqused_k=None,
           q_v=None, dropout_p=0.0, softmax_scale=None, causal=False, *, block_table):  # fmt: skip
    from chipmark_kernels.reference.attention import prefill_attention_reference

    assert causal
    assert max_seqlen_k == int(seqused_k.max())
    assert max_seqlen_q == int(cu_seqlens_q.diff().max())
    return prefill_attention_reference(q, k, v, block_table, cu_seqlens_q, seqused_k, softmax_scale)


def _scaled_mm(c, a, b, a_scale, b_scale, bias=None):
    assert a_scale.is_contiguous()
    assert b_scale.is_contiguous()
    c.copy_((a.float() @ b.float()) * a_scale * b_scale)


GEMS = {
    "silu_and_mul": lambda A, B: _silu_mul(A, B),
    "swiglu": lambda input_tensor, quantizer=None: _fused_gate_up(input_tensor),
    "rms_norm": _rms_norm,
    "fused_add_rms_norm": _fused_add_rms_norm,
    "embedding": lambda weight, indices, padding_idx=-1: weight[indices.long()],
    "apply_rotary_pos_emb": _rotary,
    "reshape_and_cache_flash": _cache,
    "flash_attn_varlen_func": _flash,
    "mm": lambda a, b: (a.float() @ b.float()).to(a.dtype),
    "cutlass_scaled_mm": _scaled_mm,
    "add": lambda a, b: a + b,
    "argmax": lambda inp, dim=None, keepdim=False: inp.argmax(dim, keepdim),
}


@pytest.fixture
def both(monkeypatch, kernel_bench):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec",
        lambda name, *a: True if name in ("liger_kernel", "flag_gems") else real(name, *a),
    )  # fmt: skip
    for name in ("liger_kernel", "liger_kernel.ops", "liger_kernel.ops.experimental"):
        monkeypatch.setitem(sys.modules, name, _module(name))
    for name, members in LIGER.items():
        full = f"liger_kernel.ops.{name}"
        monkeypatch.setitem(sys.modules, full, _module(full, **members))
    monkeypatch.setitem(sys.modules, "flag_gems", _module("flag_gems", **GEMS))
    return kernel_bench


def _run(kernel_bench, case, peer):
    inputs = case.make(torch.Generator().manual_seed(3), CPU, torch.bfloat16)
    prepared = isinstance(peer, kernel_bench.case.PreparedPeer)
    ready = kernel_bench.measuring.clones(inputs)
    got = peer.call(*peer.prepare(ready)) if prepared else peer(*ready)
    oracle = [] if case.check else kernel_bench.measuring.oracle_of(case, inputs)
    return kernel_bench.measuring.peer_problem(case, inputs, got, oracle)


def test_every_peer_takes_the_cases_inputs_and_agrees_with_the_oracle(both) -> None:
    tried = set()
    for case in both.cases.cases(small=True):
        for name, peer in both.peers.optional_peers(case).items():
            assert _run(both, case, peer) == "", f"{name}: {case.kernel} {case.name}"
            tried.add((name, case.kernel))
    assert {kernel for name, kernel in tried if name.startswith("liger")} == {
        "swiglu", "rmsnorm", "embedding_rmsnorm", "qknorm_rope_kvwrite",
    }  # fmt: skip
    assert {kernel for name, kernel in tried if name.startswith("flag_gems")} == {
        "swiglu", "rmsnorm", "embedding_rmsnorm", "qknorm_rope_kvwrite", "decode_attention",
        "prefill_attention", "skinny_gemm", "dense_gemm_hopper", "fp8_gemm", "sample",
    }  # fmt: skip


def test_a_peer_that_writes_into_its_inputs_has_its_own(both) -> None:
    case = next(c for c in both.cases.cases(small=True) if c.name.endswith("residual"))
    peer = both.peers.optional_peers(case)["flag_gems"]
    inputs = case.make(torch.Generator().manual_seed(3), CPU, torch.bfloat16)
    before = both.measuring.clones(inputs)
    peer.call(*peer.prepare(inputs))
    assert torch.equal(inputs[0], before[0])
    assert torch.equal(inputs[3], before[3])


def test_a_peer_that_computes_something_else_is_not_timed(both, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules["flag_gems"], "swiglu", lambda p: p.chunk(2, -1)[0])
    case = next(c for c in both.cases.cases(small=True) if c.kernel == "swiglu")
    device = both.fake.FakeDevice()
    bench = both.bench.KernelBench([case], CPU, device, torch.bfloat16)
    request = {
        "do": "measure", "case": (case.kernel, case.name), "have": ["parity", "ours"],
        "peers": "eager",
    }  # fmt: skip
    parts = {name: work() for name, work in bench.steps(request)}
    assert "(a)" in parts["peer flag_gems packed"]["differs"]
    assert "median_s" not in parts["peer flag_gems packed"]
    assert {"peer torch", "peer liger", "peer flag_gems"} <= set(parts)
    assert parts["peer liger"]["median_s"] == pytest.approx(1e-3)


def test_without_the_libraries_there_are_no_peers_of_theirs(kernel_bench, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    assert kernel_bench.peers.installed() == {}
    for case in kernel_bench.cases.cases(small=True):
        assert kernel_bench.peers.optional_peers(case) == {}
