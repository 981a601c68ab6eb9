"""What a launch is: its time, its positions, and that its shape was run before the clock."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from chipmark.backends.ort import providers
from chipmark.backends.ort.slot_cache import SlotCache


@pytest.fixture(scope="module")
def model(prepared, helpers):
    """Weights of preset `tiny`, and two sequences for it."""
    config = helpers.preset("tiny")
    rng = np.random.default_rng(5)
    return prepared(config)[0], [rng.integers(0, config.vocab_size, n) for n in (300, 70)]


def test_growing_is_inside_the_launch_that_caused_it_and_is_counted(
    model, helpers, tmp_path, monkeypatch
):
    spec, sequences = model
    driver = helpers.Driver("cpu", spec, tmp_path, options={"graph": "plain"}, max_chunk=512)
    driver.run([1], [0], [sequences[1][:50]], phase="prefill_cold")
    done = driver.run([0], [0], [sequences[0][:256]], phase="prefill_cold")
    assert done.kv_copied_bytes == 0
    grow, grew_s = SlotCache.grow, []

    def timed(cache, capacity):
        begin = time.perf_counter()
        copied = grow(cache, capacity)
        grew_s.extend((begin, time.perf_counter()))
        return copied

    monkeypatch.setattr(SlotCache, "grow", timed)
    done = driver.run([0], [256], [sequences[0][256:257]])
    assert done.kv_copied_bytes == (50 + 256) * 2 * 3 * 2 * 16 * 4
    (launch,) = done.launches
    assert launch.phase == "decode"
    assert launch.start_s <= grew_s[0] < grew_s[1] <= launch.end_s
    assert launch.host_s <= launch.end_s - launch.start_s - (grew_s[1] - grew_s[0])


def test_sampling_is_inside_the_launch(model, helpers, tmp_path, monkeypatch):
    from chipmark.backends.ort import sampling

    spec, sequences = model
    driver = helpers.Driver("cpu", spec, tmp_path)
    sample, sampled_s = sampling.sample, []

    def timed(logits):
        begin = time.perf_counter()
        result = sample(logits)
        sampled_s.extend((begin, time.perf_counter()))
        return result

    monkeypatch.setattr(sampling, "sample", timed)
    (launch,) = driver.run([0], [0], [sequences[0][:9]], phase="prefill_cold").launches
    assert launch.start_s <= sampled_s[0] < sampled_s[1] <= launch.end_s


@pytest.mark.parametrize(
    ("options", "slots", "positions"),
    [({"graph": "contrib"}, [0, 2], 3), ({"graph": "plain", "static": True}, [0, 2], 5)],
)
def test_slots_that_ride_along_and_padding_are_counted(
    model, helpers, tmp_path, options, slots, positions
):
    spec, sequences = model
    driver = helpers.Driver("cpu", spec, tmp_path, options=options)
    for slot in slots:
        done = driver.run([slot], [0], [sequences[0][:9]], phase="prefill_cold")
        assert done.launches[0].positions == (64 if "static" in options else 9)
    done = driver.run(slots, [9, 9], [sequences[0][9:10]] * 2)
    assert done.launches[0].positions == positions


@pytest.mark.parametrize("buckets", [(), (16, 32, 48, 64)])
def test_every_bucket_is_run_before_the_clock(model, helpers, tmp_path, monkeypatch, buckets):
    from chipmark.backends.ort.runner import Runner

    find = providers.find_provider
    changed = {"chunk_buckets": buckets, "context_buckets": (256, 512, 1024) if buckets else ()}
    monkeypatch.setattr(
        "chipmark.backends.ort.backend.find_provider",
        lambda name: dataclasses.replace(find(name), **changed),
    )
    seen, run = set(), Runner.run

    def recorded(self, rows):
        result = run(self, rows)
        n = len(rows.slot)
        seen.add((n, self.positions // n, self.cache.capacity if self.positions == n else 0))
        return result

    monkeypatch.setattr(Runner, "run", recorded)
    spec, _ = model
    options = {"graph": "plain"}
    driver = helpers.Driver("cpu", spec, tmp_path, options=options, n_seqs=2)
    contexts = (256, 512, 1024) if buckets else (256,)
    chunks = {(1, chunk, 0) for chunk in buckets or (32,)}
    assert seen == chunks | {(n, 1, context) for n in (1, 2) for context in contexts}
    assert driver.backend._loaded().cache.capacity == 256
    assert not driver.backend._loaded().cache.held.any()


def test_the_sampled_rows_are_left_as_they_were():
    from chipmark.backends.ort.sampling import sample

    logits = np.array([[1.0, 5.0, 5.0], [-3.0, -1.0, -2.0]], np.float32)
    ids, best = sample(logits)
    assert ids.tolist() == [1, 1]
    assert best.tolist() == [[5.0, 5.0], [-1.0, -2.0]]
    assert logits.tolist() == [[1.0, 5.0, 5.0], [-3.0, -1.0, -2.0]]
    assert sample(logits[:0])[1].shape == (0, 2)
