"""Figures of whole steps, and the sentence on each target."""

from __future__ import annotations

from typing import Any

import pytest

from chipmark.kernel_bench.step_figures import (
    StepTarget,
    card_facts,
    decode_figures,
    judge_steps,
    paired_ratio,
    prefill_figures,
    read_step_targets,
    step_bytes,
)
from chipmark_models.presets import preset

H200, H100 = (card_facts(name, 50_000_000) for name in ("NVIDIA H200", "NVIDIA H100 80GB HBM3"))


def part(card: Any, time: Any, **more: Any) -> dict[str, Any]:
    point = {"part": "decode", "model": "qwen3-8b", "precision": "bf16", "rows": 1,
             "context": 1_024, "new": 1, "ours": ["portable", "pdl"]}  # fmt: skip
    return point | {"card": card, "time": time} | more


def target(**more: Any) -> StepTarget:
    fields = {"name": "t", "model": "qwen3-8b", "metric": "mbu_nameplate", "limit": 0.78}
    return StepTarget(**fields | more)


def test_bytes_of_a_step_are_weights_once_and_the_rows_of_kv() -> None:
    c = preset("qwen3-8b")
    layer = 4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 12_288 + 2 * 4096 + 2 * 128
    weights = 2 * (36 * layer + 4096 + 151_936 * 4096 + 2 * 4096)
    kv = 2 * 36 * 1024 * 2
    assert step_bytes(c, "bf16", 2, 1_000) == weights + kv * 2 * 1_000


def test_shares_of_bandwidth_need_a_step_that_no_cache_holds() -> None:
    found = decode_figures([0.004, 0.004, 0.2], 15.36e9, 2, H200, 4.3e12)
    assert found["median_s"] == 0.004
    assert found["tok_s"] == 500
    assert found["mbu_nameplate"] == pytest.approx(0.8)
    assert found["mbu"] == pytest.approx(15.36e9 / 0.004 / 4.3e12)
    small = decode_figures([0.001], 1e8, 1, H200, 4.3e12)
    assert small["mbu"] is small["mbu_nameplate"] is None
    assert "under 4 x its cache" in small["mbu_reason"]
    unknown = decode_figures([0.001], 1e12, 1, card_facts("Card X", 10), None)
    assert unknown["mbu"] is unknown["mbu_nameplate"] is None


def test_prefill_is_flops_a_second() -> None:
    found = prefill_figures([0.2], 10**14, 8_192, H200, 8e14)
    assert found["tflops"] == pytest.approx(500)
    assert found["mfu"] == pytest.approx(5e14 / 8e14)
    assert found["mfu_nameplate"] == pytest.approx(5e14 / 989e12)


def test_ratios_are_paired_by_round() -> None:
    assert paired_ratio([2, 4, 9], [1, 2, 3]) == {"median": 2, "low": 2, "high": 3}


def test_the_fastest_of_ours_that_is_right_is_judged() -> None:
    times = {
        "portable": {"mbu_nameplate": 0.66},
        "pdl": {"mbu_nameplate": 0.79},
        "torch": {"mbu_nameplate": 0.99},
        "gpt-fast": {"error": "x"},
    }
    (met,) = judge_steps([part(H200, times)], [target()])
    assert met.sentence == "t: 79.0% of nameplate bandwidth by pdl, at least 78%: met"
    times["pdl"] = {"error": "logits are far"}
    (missed,) = judge_steps([part(H200, times)], [target()])
    assert (missed.state, missed.by, missed.value) == ("missed", "portable", 0.66)
    (none,) = judge_steps([part(H200, {"pdl": {"error": "logits are far"}})], [target()])
    assert none.state == "not measured"
    assert "pdl: logits are far" in none.sentence


def test_what_was_not_run_or_means_nothing_says_so() -> None:
    assert "no such step was run" in judge_steps([], [target()])[0].sentence
    other = part(H200, {"portable": {"mbu_nameplate": 0.9}}, rows=2)
    assert judge_steps([other], [target()])[0].state == "not measured"
    cached = part(H200, {"portable": {"mbu_nameplate": None, "mbu_reason": "it is cached"}})
    assert "it is cached" in judge_steps([cached], [target()])[0].sentence


def test_rates_are_scaled_by_the_nameplate_and_shares_are_not() -> None:
    rate = target(metric="tok_s", limit=7_500, nameplate={"bandwidth_gb_s": 4_800})
    times = {"portable": {"tok_s": 5_300, "mbu_nameplate": 0.7}}
    on_h200, on_h100 = (judge_steps([part(c, times)], [rate])[0] for c in (H200, H100))
    assert (on_h200.state, on_h100.state) == ("missed", "met")
    assert on_h100.limit == pytest.approx(7_500 * 3_350 / 4_800)
    unknown = judge_steps([part(card_facts("Card X", 10), times)], [rate])[0]
    assert "does not know Card X" in unknown.sentence
    assert judge_steps([part(H100, times)], [target()])[0].limit == 0.78


def test_gpt_fast_and_bf16_are_compared_with() -> None:
    beside = target(metric="over_gpt_fast", limit=1.1)
    times = {"portable": {"tok_s": 200.0}}
    assert "was not timed in the same run" in judge_steps([part(H200, times)], [beside])[0].sentence
    ratios = {"gpt-fast/portable": {"median": 1.15}, "portable/gpt-fast": {"median": 0.87}}
    (found,) = judge_steps([part(H200, times, ratios=ratios)], [beside])
    assert (found.state, found.value) == ("met", 1.15)

    narrow = target(metric="over_bf16", limit=1.8, precision="w4")
    w4 = part(H200, {"portable": {"tok_s": 350.0}}, precision="w4")
    assert "bf16 was not timed" in judge_steps([w4], [narrow])[0].sentence
    (found,) = judge_steps([w4, part(H200, times)], [narrow])
    assert (found.state, found.value) == ("missed", 1.75)


def test_the_table_holds_the_targets_and_knows_its_cards() -> None:
    targets = read_step_targets()
    assert len({t.name for t in targets}) == len(targets)
    shares = {t.model: t.limit for t in targets if t.metric == "mbu_nameplate"}
    assert shares == {"qwen3-8b": 0.78, "qwen3-1.7b": 0.60, "qwen3-0.6b": 0.40}
    for found in targets:
        preset(found.model)
        assert found.limit_on(H200) == pytest.approx(found.limit)
        assert found.limit_on(H100) is not None
