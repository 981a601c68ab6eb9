"""Which design of the decode step is taken: by a device and a clock of paper, on CPU tensors."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from chipmark.backends.triton_cuda import design_choice, product_choice
from chipmark.backends.triton_cuda.batches import DecodeInputs
from chipmark.backends.triton_cuda.design_choice import (
    Made,
    Trials,
    choose_design,
    designs_here,
)
from chipmark.backends.triton_cuda.devices import check_options
from chipmark.backends.triton_cuda.product_choice import Choice
from chipmark.backends.triton_cuda.streams import HostStream
from chipmark.errors import CellFailedError, UnknownNameError, UsageError
from chipmark_kernels.device import TARGETS
from chipmark_models.decoder.paged.decoder import PagedDecoder
from chipmark_models.decoder.paged.designs import DESIGNS, Design, designs_for
from chipmark_models.decoder.paged.ops import TABLE
from chipmark_models.decoder.paged.torch_ops import OPS as TORCH_OPS
from chipmark_models.presets import preset
from chipmark_models.weights.prepared import ComputedWeights
from chipmark_models.weights.synthetic import SyntheticWeights

CPU = torch.device("cpu")
BUCKETS = (1, 2, 4, 8, 16, 64, 96)


class PaperClock(HostStream):
    """A stream on which a call takes the seconds that it says; nothing kept is captured."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def mark(self) -> float:
        return self.now

    def capture(self, call, *, kept):
        assert not kept
        call()
        return call


@pytest.fixture(scope="module")
def portable() -> Made:
    weights = ComputedWeights(SyntheticWeights(replace(preset("tiny"), n_layers=1), 3), "fp32")
    names = TABLE.resolve(None, "torch")
    decoder = PagedDecoder(weights, CPU, TABLE.select(names), n_pages=8, max_context=128)
    return Made(decoder, names, {})


@pytest.fixture
def designs(monkeypatch) -> dict[str, Design]:
    """Two designs beside the portable one, of operations that a CPU has."""
    found = {
        "portable": Design("as it is"),
        "wide": Design("for many rows", {"qkv": "reference", "greedy": "reference"}),
        "thin": Design("for one row", {"qkv": "reference"}),
    }
    monkeypatch.setattr(design_choice, "DESIGNS", found)
    return found


def trials(portable: Made, seconds) -> Trials:
    """seconds(which, rows): of a step; `which` is told by the operations that a decoder has."""
    stream, inputs = PaperClock(), DecodeInputs(96, 128, 16, CPU)

    def which(decoder: PagedDecoder) -> str:
        if decoder.ops.greedy is not TORCH_OPS["greedy"]:
            return "wide"
        return "portable" if decoder is portable.decoder else "thin"

    def step_of(decoder, rows):
        def call():
            stream.order.append(f"{which(decoder)} {rows}")
            stream.now += seconds(which(decoder), rows)
            return ()

        return call

    return Trials(stream, step_of, lambda rows: inputs.fill(rows, stream))


def step_seconds(which: str, rows: int) -> float:
    return {"portable": 2.0, "thin": 1.0 + rows / 10, "wide": 3.0 - rows / 32}[which]


def test_the_fastest_in_the_whole_step_is_taken_by_rows_and_said(portable, designs) -> None:
    given = trials(portable, step_seconds)
    choice = choose_design(portable, tuple(designs), {}, BUCKETS, given)
    assert {rows: choice.name(rows) for rows in BUCKETS} == {
        1: "thin", 2: "thin", 4: "thin", 8: "thin", 16: "wide", 64: "wide", 96: "wide",
    }  # fmt: skip
    assert sorted(choice.trials) == [1, 8, 64, 96]
    assert choice.trials[64] == pytest.approx({"portable": 2.0, "wide": 1.0, "thin": 7.4})
    # In turn, and in the other order every second time; each once to warm and once captured.
    played = [step for step in given.stream.order if step.endswith(" 1")][6:]
    behind, timed = played[0:12:2], played[1:12:2]
    assert timed == ["portable 1", "wide 1", "thin 1", "thin 1", "wide 1", "portable 1"]
    assert behind == timed  # on an idle device a launch's own cost to the host would count
    assert len(played) == 6 * design_choice.REPEATS
    details = json.loads(json.dumps(choice.details(BUCKETS)))
    assert details["design"] == {str(rows): choice.name(rows) for rows in BUCKETS}
    assert details["design_trials_s"]["1"]["thin"] == pytest.approx(1.1)
    assert details["design_operations"]["wide"]["greedy"] == "reference"
    assert details["design_operations"]["thin"]["greedy"] == "torch"
    assert ("backend", "decode of 16, 64, 96 rows by design wide: for many rows") in choice.notes(
        BUCKETS
    )
    # Weights and pages are shared; the portable decoder is as it was.
    assert choice.decoder(1).weights is portable.decoder.weights
    assert portable.decoder.ops.qkv is TORCH_OPS["qkv"]


def test_many_rows_of_a_design_are_multiplied_as_by_the_portable_one(portable, designs) -> None:
    choice = choose_design(portable, ("thin",), {}, BUCKETS, trials(portable, step_seconds))
    product = choice.decoder(1).ops.qkv
    assert product.limits == (64,)
    assert product.calls[1] is TORCH_OPS["qkv"]


def test_products_are_chosen_within_a_design_and_known_seconds_are_not_found_again(
    portable, designs, monkeypatch
) -> None:
    asked = []

    def seconds(decoder, operation, name, rows, stream):
        asked.append((operation, name, rows))
        return 1.0 if rows == 1 else 9.0

    monkeypatch.setattr(product_choice, "_seconds", seconds)
    others = {"triton": 7.0, "torch": 4.0, "hopper": 1.0}
    tried = {"qkv": {rows: Choice(others) for rows in (1, 16, 200)}}
    given = replace(portable, products=tried)
    choice = choose_design(given, ("thin",), {}, BUCKETS, trials(portable, step_seconds))
    assert asked == [("qkv", "reference", 1), ("qkv", "reference", 16)]
    details = choice.details(BUCKETS)
    assert details["design_products"] == {"thin": {"qkv": {"1": "reference", "16": "torch"}}}
    assert "design_trials_s" in details
    assert details["design_trials_s"] == {}


def test_a_design_that_fails_its_check_is_dropped_and_said(portable, designs, monkeypatch) -> None:
    def failures(decoder, functions, rows, chunk):
        assert chunk <= 64
        return {"greedy": "1 rows: wrong"} if "greedy" in functions else {}

    monkeypatch.setattr(design_choice, "failures", failures)
    given = trials(portable, step_seconds)
    choice = choose_design(portable, tuple(designs), {}, BUCKETS, given)
    assert set(choice.made) == {"portable", "thin"}
    assert choice.name(64) == "portable"
    assert ("backend", "design wide was dropped (greedy: 1 rows: wrong)") in choice.notes(BUCKETS)
    with pytest.raises(UsageError, match="design wide cannot be taken: greedy: 1 rows"):
        choose_design(portable, ("wide",), {}, BUCKETS, given)


def test_an_operation_that_was_asked_for_is_kept_by_every_design(portable, designs) -> None:
    given = trials(portable, step_seconds)
    choice = choose_design(portable, ("wide",), {"qkv": "torch"}, BUCKETS, given)
    assert choice.made["wide"].operations["qkv"] == "torch"
    assert choice.made["wide"].operations["greedy"] == "reference"


def test_a_design_of_which_what_was_asked_for_leaves_nothing_is_not_said_to_compute(
    portable, designs
) -> None:
    given = trials(portable, step_seconds)
    choice = choose_design(portable, tuple(designs), {"greedy": "torch"}, BUCKETS, given)
    assert set(choice.made) == {"portable", "wide"}  # thin is wide without its greedy
    text = "design thin was dropped (with the operations that were asked for it is wide)"
    assert ("backend", text) in choice.notes(BUCKETS)
    with pytest.raises(UsageError, match=r"thin cannot be taken: .* it is portable"):
        choose_design(portable, ("thin",), {"qkv": "torch"}, BUCKETS, given)
    kept = choose_design(portable, ("thin",), {"qkv": "reference"}, BUCKETS, given)
    assert kept.name(1) == "thin"


@pytest.mark.parametrize("part", ["rope_kv", "decode_attention"])
def test_what_joins_an_operation_that_was_asked_for_is_left_to_it(
    portable, designs, monkeypatch, part
) -> None:
    designs["thin"] = Design("joined", {"rope_decode_attention": "fused", "qkv": "reference"})
    checked = []

    def failures(decoder, functions, rows, chunk):
        checked.append(sorted(functions))
        return {}

    monkeypatch.setattr(design_choice, "failures", failures)
    given = trials(portable, step_seconds)
    choice = choose_design(portable, ("thin",), {part: "torch"}, (1,), given)
    assert choice.made["thin"].operations["rope_decode_attention"] == "separate"
    assert checked == [["qkv"]]


def test_a_step_that_cannot_be_captured_drops_the_design_at_these_rows(portable, designs) -> None:
    def seconds(which, rows):
        if which == "wide" and rows == 64:
            raise RuntimeError("operation not permitted when stream is capturing")
        return step_seconds(which, rows)

    choice = choose_design(portable, tuple(designs), {}, (1, 64), trials(portable, seconds))
    assert set(choice.trials[64]) == {"portable", "thin"}
    assert choice.name(64) == "portable"
    assert any("wide at 64 rows was dropped (RuntimeError" in t for _, t in choice.notes((1, 64)))


def test_a_step_that_loses_the_device_is_named_with_the_way_round_it(
    portable, designs, monkeypatch
) -> None:
    def seconds(which, rows):
        if which == "thin":
            raise RuntimeError("an illegal memory access was encountered")
        return 1.0

    monkeypatch.setattr(design_choice, "answers", lambda device: False)
    with pytest.raises(CellFailedError, match="1 rows by design thin lost the device") as caught:
        choose_design(portable, tuple(designs), {}, (1,), trials(portable, seconds))
    assert "--option triton:design=portable" in caught.value.hint


def test_designs_by_device_and_what_is_forced(monkeypatch) -> None:
    for older in ("sm_80", "gfx942"):
        assert designs_for(TARGETS[older])[0] == "portable"
        assert "pdl" not in designs_for(TARGETS[older])
        assert "fused" not in designs_for(TARGETS[older])
        assert "joined" in designs_for(TARGETS[older])
    assert designs_for(TARGETS["sm_90"])[:2] == ("portable", "pdl")
    monkeypatch.setattr(design_choice, "facts_of", lambda device: TARGETS["sm_90"])
    assert designs_here("cuda", CPU, None)[:2] == ("portable", "pdl")
    assert designs_here("cuda", CPU, "pdl") == ("pdl",)
    assert designs_here("interpreter", CPU, None) == ("portable",)
    with pytest.raises(UsageError, match="design pdl does not run on triton:interpreter"):
        designs_here("interpreter", CPU, "pdl")
    check_options({"design": "pdl"})
    with pytest.raises(UnknownNameError, match="portable") as caught:
        check_options({"design": "portabel"})
    assert "portabel" in caught.value.message


def test_the_designs_have_implementations_of_every_operation_that_they_name() -> None:
    for design in DESIGNS.values():
        for operation, name in design.operations.items():
            assert name in TABLE.implementations(operation)


def test_trial_rows_read_different_pages_at_the_end_of_a_context(portable) -> None:
    rows = design_choice._trial_rows(portable.decoder, 2)
    assert rows.start.tolist() == [127, 127]
    assert rows.pages.max() == 7
    inputs = DecodeInputs(2, 128, 16, CPU)
    inputs.fill(rows, HostStream())
    assert inputs.batch(2).kv_lens.tolist() == [128, 128]
    assert np.unique(rows.pages[0]).size == 8


def test_a_load_says_its_design(monkeypatch) -> None:
    from chipmark.backends.triton_cuda.backend import TritonBackend
    from chipmark.engine.contract import LoadSpec
    from chipmark_models.weights.prepared import WeightSpec
    from chipmark_models.weights.source import WeightRef

    model = WeightSpec(WeightRef("synthetic", "tiny", None, 7), "fp32", None).to_dict()
    ops = dict.fromkeys((o for o in TABLE.operations if o not in TABLE.separate), "torch")
    spec = LoadSpec(model, "fp32", 2, 96, 192, 32, options={"ops": ops, "design": "portable"})
    loaded = TritonBackend("interpreter").load(spec)
    assert loaded.details["design"] == {"1": "portable", "2": "portable"}
