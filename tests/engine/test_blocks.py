from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chipmark.engine.blocks import ROOT, BlockPool, chain


def ids(*tokens):
    return np.array(tokens, dtype=np.int32)


def test_a_digest_stands_for_everything_before_it():
    assert chain(ROOT, ids(1, 2)) == chain(ROOT, ids(1, 2))
    assert chain(chain(ROOT, ids(1, 2)), ids(3, 4)) != chain(chain(ROOT, ids(1, 9)), ids(3, 4))
    assert chain(ROOT, ids(1, 2)) != chain(ROOT, ids(2, 1))


def test_a_free_block_is_found_until_it_is_reused():
    pool = BlockPool(2)
    block = pool.allocate()
    pool.seal(block, b"x")
    pool.release(block)
    assert pool.n_free == 2
    assert pool.share(b"x") == block
    assert pool.n_free == 1
    pool.release(block)
    assert {pool.allocate(), pool.allocate()} == {0, 1}
    assert pool.share(b"x") is None


def test_the_least_recently_freed_content_is_reused_first():
    pool = BlockPool(3)
    blocks = [pool.allocate() for _ in range(3)]
    for block, digest in zip(blocks, (b"a", b"b", b"c"), strict=True):
        pool.seal(block, digest)
    for block in (blocks[1], blocks[0], blocks[2]):
        pool.release(block)
    assert pool.allocate() == blocks[1]
    assert pool.allocate() == blocks[0]


def test_blocks_without_content_go_before_cached_ones():
    pool = BlockPool(2)
    kept, plain = pool.allocate(), pool.allocate()
    pool.seal(kept, b"x")
    pool.release(kept)
    pool.release(plain)
    assert pool.allocate() == plain


def test_equal_content_is_registered_once():
    pool = BlockPool(2)
    first, second = pool.allocate(), pool.allocate()
    pool.seal(first, b"x")
    pool.seal(second, b"x")
    assert pool.share(b"x") == first
    assert pool.owners(first) == 2
    pool.unseal(second)
    assert pool.share(b"x") == first


def test_releasing_what_nobody_holds_is_an_error():
    pool = BlockPool(1)
    with pytest.raises(ValueError, match="no owner"):
        pool.release(0)
    with pytest.raises(ValueError, match="no owner"):
        pool.seal(0, b"x")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("asrx"), st.integers(0, 5)), max_size=80))
def test_owners_are_counted_and_no_block_is_lost(actions):
    pool = BlockPool(4)
    held = []
    for action, number in actions:
        if action == "a":
            block = pool.allocate()
            assert (block is None) == (len(set(held)) == 4)
            if block is not None:
                assert block not in held
                held.append(block)
        elif action == "s":
            block = pool.share(bytes([number]))
            if block is not None:
                held.append(block)
        elif held and action == "r":
            pool.release(held.pop(number % len(held)))
        elif held:
            pool.unseal(held[number % len(held)])
            pool.seal(held[number % len(held)], bytes([number]))
        assert pool.n_free == 4 - len(set(held))
        assert all(pool.owners(block) == held.count(block) for block in range(4))
