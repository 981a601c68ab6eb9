"""What a load launches, recorded on meta tensors."""

from __future__ import annotations

from collections import Counter

import pytest

pytest.importorskip("triton")

from chipmark.backends.triton_cuda.recorded import Shape, launches_of
from chipmark.backends.triton_cuda.streams import HostStream
from chipmark_kernels.device import TARGETS
from chipmark_models.presets import preset

SHAPE = Shape(n_seqs=4, max_context=512, max_chunk=128)


def _names(launches) -> set[str]:
    return {launch.kernel.__name__ for launch in launches}


@pytest.fixture(scope="module")
def hopper():
    return launches_of(preset("tiny"), "bf16", SHAPE, TARGETS["sm_90"])


def test_every_kernel_of_a_step_is_recorded(hopper) -> None:
    assert _names(hopper) >= {
        "_embedding_rmsnorm_kernel",
        "_rope_kv_kernel",
        "_prefill_attention_kernel",
        "_decode_attention_kernel",
        "_skinny_gemm_kernel",
        "_swiglu_kernel",
        "_dense_gemm_hopper_kernel",
        "_gemv_kernel",
        "_rope_decode_attention_kernel",
        "_philox_weights_kernel",
    }


def test_launches_of_a_chain_are_recorded_as_they_are_made_where_there_are_such(hopper) -> None:
    early = {launch.kernel.__name__ for launch in hopper if launch.options.get("launch_pdl")}
    assert early >= {"_gemv_kernel", "_skinny_gemm_kernel", "_rope_kv_kernel"}
    ampere = launches_of(preset("tiny"), "bf16", SHAPE, TARGETS["sm_80"])
    assert not any(launch.options.get("launch_pdl") for launch in ampere)


def test_hoppers_product_is_recorded_only_for_hopper() -> None:
    ampere = launches_of(preset("tiny"), "bf16", SHAPE, TARGETS["sm_80"])
    assert "_dense_gemm_hopper_kernel" not in _names(ampere)


def test_prefill_is_recorded_in_every_bucket_however_slow_this_machine_is(monkeypatch) -> None:
    counts = []
    for seconds in (0.0, 1e9):
        # By a clock a slow launch would end the search for what is worth capturing.
        monkeypatch.setattr(HostStream, "seconds", lambda *_, told=seconds: told)
        found = launches_of(preset("tiny"), "bf16", SHAPE, TARGETS["sm_90"])
        counts.append(Counter(launch.kernel.__name__ for launch in found))
    assert counts[0] == counts[1]


def _parts(max_context: int) -> set[int]:
    shape = Shape(n_seqs=1, max_context=max_context, max_chunk=128)
    found = launches_of(preset("tiny"), "bf16", shape, TARGETS["sm_90"])
    merges = (x for x in found if x.kernel.__name__ == "_merge_splits_kernel")
    return {launch.constants["MAX_SPLITS"] for launch in merges}


def test_a_longer_context_is_read_in_more_parts() -> None:
    assert max(_parts(4_096)) > max(_parts(512))


def test_quantised_weights_launch_their_own_products() -> None:
    found = launches_of(preset("tiny"), "w8", SHAPE, TARGETS["sm_80"])
    assert "_weight_only_gemm_kernel" in _names(found)
