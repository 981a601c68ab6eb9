from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chipmark.engine.contract import Caps
from chipmark.engine.shapes import Chunk, Limits, bucket, check_caps, group_chunks, split_decode

PAGED = Caps("paged", "share", max_context=4096, max_batch=8, max_chunk=256, n_pages=64)


def test_a_size_goes_to_the_smallest_bucket_that_holds_it():
    assert [bucket(n, (16, 64)) for n in (1, 16, 17, 64)] == [16, 16, 64, 64]
    assert bucket(37, ()) == 37
    with pytest.raises(ValueError, match="largest bucket 64"):
        bucket(65, (16, 64))


@given(st.integers(1, 100), st.integers(1, 20))
def test_decode_rows_need_no_more_launches_than_their_number_forces(n, largest):
    limits = Limits.of(replace(PAGED, max_batch=largest))
    slices = list(split_decode(n, limits))
    assert len(slices) == -(-n // largest)
    assert [i for s in slices for i in range(n)[s]] == list(range(n))


CHUNKS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(1, 400),
        st.sampled_from(["prefill_cold", "prefill_append", "prefill_refill"]),
    ),
    max_size=8,
)


@given(CHUNKS, st.sampled_from([(), (16, 64, 256)]), st.integers(1, 4), st.booleans())
def test_grouping_keeps_every_token_and_every_limit(shapes, buckets, rows, mixed):
    limits = Limits.of(replace(PAGED, chunk_buckets=buckets, prefill_rows=rows, mixed=mixed))
    at = dict.fromkeys(range(4), 0)
    chunks = []
    for row, length, phase in shapes:
        chunks.append(Chunk(row, at[row], length, phase, True))
        at[row] += length
    launches = group_chunks(chunks, limits)
    seen = dict.fromkeys(range(4), 0)
    for launch in launches:
        assert len(launch) <= rows
        assert sum(chunk.length for chunk in launch) <= 256
        assert len({chunk.row for chunk in launch}) == len(launch)
        assert mixed or len({chunk.phase for chunk in launch}) == 1
        for chunk in launch:
            assert chunk.start == seen[chunk.row]
            seen[chunk.row] += chunk.length
    assert seen == at
    assert sum(c.sample for launch in launches for c in launch) == len(chunks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_batch": 0}, "max_batch"),
        ({"chunk_buckets": (64, 16)}, "chunk_buckets"),
        ({"prefix": "copy"}, "paged"),
        ({"kv": "slots"}, "slot"),
        ({"kv": "slots", "prefix": "copy"}, "slot"),
    ],
)
def test_capabilities_that_contradict_each_other_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        check_caps(replace(PAGED, **change))
