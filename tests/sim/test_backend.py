from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chipmark.backends.sim.backend import SimBackend
from chipmark.backends.sim.cells import context_hash
from chipmark.backends.sim.spec import SPECS
from chipmark.engine.contract import KvOp, LaunchPlan, LoadSpec, Rows, Step
from chipmark.errors import ContractError, DoesNotFitError, UnknownNameError

LOAD = LoadSpec({}, "fp32", n_seqs=2, max_context=32, kv_tokens=64, max_chunk=16)


def i32(*values):
    return np.array(values, dtype=np.int32)


def paged_rows(start, tokens, pages, seq=7):
    return Rows(
        i32(seq),
        i32(-1),
        i32(start),
        i32(len(tokens)),
        i32(*tokens),
        i32(*pages).reshape(1, -1),
        np.array([True]),
    )


def slot_rows(start, tokens, slot, seq=7):
    return replace(paged_rows(start, tokens, (0,), seq), slot=i32(slot), pages=None)


def launch(rows, phase="prefill_cold", **change):
    n, longest = rows.seq.size, int(rows.length.max())
    plan = LaunchPlan(phase, rows, n, longest, int((rows.start + rows.length).max()))
    return replace(plan, **change)


def loaded(name="golden", **caps):
    backend = SimBackend(replace(SPECS[name], page_tokens=4))
    backend.load(replace(LOAD, options={"caps": caps}))
    return backend


def do(backend, *launches, ops=()):
    backend.submit(Step(0, tuple(ops), launches))
    return backend.wait()


def test_the_sampled_id_is_that_of_the_whole_context_through_pages():
    backend = loaded()
    do(backend, launch(paged_rows(0, (5, 6, 7, 8, 9), (3, 1))))
    done = do(backend, launch(paged_rows(5, (4,), (3, 1)), "decode"))
    assert done.sampled.tolist() == [(context_hash(i32(5, 6, 7, 8, 9, 4)) >> 33) % 512]


def test_the_closed_rule_says_what_is_sampled_after_each_token():
    tokens = i32(5, 6, 7, 8, 9)
    expected = [(context_hash(tokens[: n + 1]) >> 33) % 512 for n in range(5)]
    assert SimBackend.expected_ids(tokens, 512).tolist() == expected
    backend = loaded()
    done = do(backend, launch(paged_rows(0, (5, 6, 7, 8, 9), (3, 1))))
    assert done.sampled.tolist() == expected[-1:]
    assert context_hash(tokens[:0]) == 0


def test_time_and_energy_follow_the_formula():
    backend = loaded(max_chunk=16)
    spec = backend.spec
    done = do(backend, launch(paged_rows(0, (5, 6, 7), (3,))))
    took = 3 * spec.prefill_s + 6 * spec.context_s
    assert backend.clock.now() == done.launches[-1].end_s == pytest.approx(took)
    backend.clock.sleep_until(1.0)
    time_s, energy_j, power_w = backend.power_samples()
    assert time_s.tolist() == pytest.approx([0.0, took, 1.0])
    assert power_w.tolist() == [300.0, 80.0, 80.0]
    assert energy_j[-1] == pytest.approx(took * 300 + (1 - took) * 80)


def test_a_copied_slot_holds_the_same_context():
    backend = loaded("golden-slots")
    do(backend, launch(slot_rows(0, (5, 6, 7), 0)))
    copy = KvOp("copy", 0, 2, 2, 8)
    done = do(backend, launch(slot_rows(2, (9,), 2, seq=8), "decode"), ops=(copy,))
    assert done.sampled.tolist() == [(context_hash(i32(5, 6, 9)) >> 33) % 512]
    assert [x.plan for x in done.launches] == [-1, 0]
    assert done.kv_copied_bytes == 2 * backend.spec.kv_bytes_per_token


FIRST = launch(paged_rows(0, (5, 6, 7, 8, 9), (3, 1)))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (launch(paged_rows(6, (1,), (3, 1)), "decode"), "never written"),
        (launch(paged_rows(5, (1,), (1, 3)), "decode"), "another's cells|never written"),
        (launch(paged_rows(5, (1,), (3, -1)), "decode"), "do not cover"),
        (launch(paged_rows(4, (1,), (3, 3)), "decode"), "one page twice"),
        (launch(paged_rows(5, (1,), (3, 1, 2)), "decode"), "pages beyond"),
        (launch(paged_rows(5, (1,), (3, 99)), "decode"), "do not cover"),
        (launch(paged_rows(5, (1, 2), (3, 1)), "decode"), "one token"),
        (launch(paged_rows(5, (1, 2), (3, 1)), chunk_bucket=1), "over their buckets"),
        (launch(paged_rows(5, (1, 2), (3, 1)), context_bucket=6), "over their buckets"),
        (launch(paged_rows(5, (1, 2), (3, 1)), context_bucket=33), "context bucket"),
        (launch(paged_rows(5, (1, 2), (3, 1)), "mixed"), "mixed"),
        (launch(replace(paged_rows(5, (1,), (3, 1)), pages=None)), "page tables"),
        (launch(replace(paged_rows(5, (1,), (3, 1)), tokens=i32(1, 2))), "2 tokens for 1"),
    ],
)
def test_a_broken_step_raises(bad, message):
    backend = loaded()
    do(backend, FIRST)
    with pytest.raises(ContractError, match=message):
        do(backend, bad)


def test_writing_into_a_page_that_another_row_shares_raises():
    backend = loaded(prefill_rows=2)
    do(backend, FIRST)
    both = Rows(
        i32(7, 8),
        i32(-1, -1),
        i32(5, 5),
        i32(1, 1),
        i32(1, 2),
        i32(3, 1, 3, 1).reshape(2, 2),
        np.array([True, True]),
    )
    with pytest.raises(ContractError, match="same cell"):
        do(backend, launch(both, "decode"))


def test_writing_into_a_page_that_another_row_reads_raises():
    backend = loaded(prefill_rows=2)
    do(backend, FIRST)
    do(backend, launch(paged_rows(0, (5, 6, 7, 8), (2,), seq=9)))
    rows = Rows(
        i32(7, 8),
        i32(-1, -1),
        i32(5, 8),
        i32(1, 1),
        i32(1, 2),
        i32(3, 1, -1, 2, 1, 0).reshape(2, 3),
        np.array([True, True]),
    )
    with pytest.raises(ContractError):
        do(backend, launch(rows, "decode"))


def test_too_many_steps_in_flight_raise():
    backend = loaded()
    backend.submit(Step(0, (), (FIRST,)))
    with pytest.raises(ContractError, match="in flight"):
        backend.submit(Step(1, (), (FIRST,)))


def test_copying_what_was_never_written_raises():
    backend = loaded("golden-slots")
    with pytest.raises(ContractError, match="does not hold"):
        do(backend, launch(slot_rows(0, (1,), 1)), ops=(KvOp("copy", 0, 1, 4, 7),))


def test_more_than_fits_is_refused_with_what_would_fit():
    with pytest.raises(DoesNotFitError, match="would fit"):
        SimBackend("golden").load(replace(LOAD, kv_tokens=10**9))


def test_unknown_names_and_misuse():
    with pytest.raises(UnknownNameError, match="golden"):
        SimBackend("goldn")
    backend = SimBackend("golden")
    with pytest.raises(ContractError, match="not loaded"):
        backend.submit(Step(0, (), ()))
    backend.load(LOAD)
    with pytest.raises(ContractError, match="no step"):
        backend.wait()


def test_dies_of_a_card_are_alike_and_its_watts_stand_once() -> None:
    first, second = SimBackend("twin"), SimBackend("twin:1")
    assert (first.dies("twin:1"), first.dies("golden"), first.spec) == (2, 1, second.spec)
    idle = [backend.power_samples()[2][0] for backend in (first, second)]
    assert idle[0] - idle[1] == first.spec.card_w > 0
    for wrong in ("twin:2", "golden:1", "twin:x"):
        with pytest.raises(UnknownNameError, match="die of sim"):
            SimBackend(wrong)
