"""What Ascend's compilers printed for our own kernels, read into verdicts."""

from __future__ import annotations

import json

import pytest

from chipmark_kernels.ascend.memory_plan import State, first_error, judged, used_bytes

# Each text is what bishengir-compile 1.2.0 printed for a kernel of ours, but for its backtrace.
START = """[ERROR] Cannot find hivmc under $PATH
[ERROR] Failed to run `hivmc --version`.
[WARNING] Failed to detect hivmc version for backward compatibility
"""
WHOLE = f"""{START}[ERROR] Cannot find hivmc under $PATH
loc("kernel.mlir":1:1): error: External hivmc run fails, returning module before running \
external compiler
[ERROR] Failed to run BiShengIR pipeline
"""
TOO_BIG = f"""{START}loc("kernel.mlir":2:1): error: Failed to run BiShengHIR pipeline

loc("kernel.mlir":64:13): error: cannot align 1 axis for %95 = "memref.alloc"() <{{}}>
loc("kernel.mlir":3:3): error: ub overflow, requires 1785856 bits while 1572864 bits available! \
(possible reason: tiling basic block is too large or block number is more than what user expect \
due to multi-buffer feature is enabled and some ops need extra local buffer.)
[ERROR] Failed to run BiShengIR pipeline
"""
REFUSED = f"""{START}loc("kernel.mlir":1:1): error: Failed to run BiShengHIR pipeline

loc("kernel.mlir":52:13): error: 'hivm.hir.store' op only support store ub to gm currently!
loc("kernel.mlir":27:13): error: 'scf.for' op Failed to collect vector loop tiling info
[ERROR] Failed to run BiShengIR pipeline
"""
PLAN = {
    "Header": {"KernelName": "_rmsnorm_kernel"},
    "Record": [
        {
            "error_info": "",
            "memory_info_array": [
                {
                    "buffer": "%alloc = memref.alloc() : memref<1024xbf16, "
                    "#hivm.address_space<ub>>",
                    "extent": 16384,
                    "offset": [0],
                },
                {
                    "buffer": "%alloc_2 = memref.alloc() {alignment = 64 : i64} : "
                    "memref<1024xf32, #hivm.address_space<ub>>",
                    "extent": 32768,
                    "offset": [2048, 22720],
                },
                {
                    "buffer": "%alloc_3 = memref.alloc() : memref<16x16xf32, "
                    "#hivm.address_space<cc>>",
                    "extent": 8192,
                    "offset": [0],
                },
            ],
        }
    ],
}


def attempt(text, code=1, multibuffer=True, used=None, crashes=0):
    told = {"text": text, "code": code, "multibuffer": multibuffer, "crashes": crashes}
    return told | {"used": used or {}}


def answer(*attempts, error="", crashes=0):
    return {"front_end": {"error": error, "crashes": crashes}, "attempts": list(attempts)}


def test_a_plan_gives_the_end_of_the_last_buffer_of_each_memory():
    assert used_bytes(json.dumps(PLAN)) == {"ub": 22720 + 4096, "cc": 1024}


@pytest.mark.parametrize("text", ["", "[]", '{"Record": [{}]}', '{"Record": 3}', '{"Rec'])
def test_what_is_no_plan_gives_nothing(text):
    assert used_bytes(text) == {}


def test_who_reaches_the_missing_hivmc_fits_and_its_fullest_memory_is_told():
    verdict = judged(answer(attempt(WHOLE, used={"ub": 26816, "cc": 65536, "gm": 10**9})))
    assert verdict.state is State.FITS
    assert (verdict.buffer, verdict.needed_bytes, verdict.buffer_bytes) == ("L0C", 65536, 131072)
    assert verdict.multibuffer
    assert verdict.reason == ""


def test_an_object_made_by_a_cann_that_is_here_fits_too():
    assert judged(answer(attempt("", code=0))).state is State.FITS


def test_an_overflow_tells_both_sizes_although_another_error_stands_before_it():
    verdict = judged(answer(attempt(TOO_BIG), attempt(TOO_BIG, multibuffer=False)))
    assert verdict.state is State.OVERFLOWS
    assert (verdict.needed_bytes, verdict.buffer_bytes) == (1785856 // 8, 196_608)
    assert verdict.reason == "UB needs 218 KB of 192 KB"


def test_what_fits_with_one_buffer_only_says_so():
    verdict = judged(answer(attempt(REFUSED), attempt(WHOLE, multibuffer=False)))
    assert verdict.state is State.FITS
    assert not verdict.multibuffer


def test_a_refusal_is_told_in_the_compilers_words_without_a_place():
    verdict = judged(answer(attempt(REFUSED), attempt(REFUSED, multibuffer=False)))
    assert verdict.state is State.REFUSED
    assert verdict.reason == (
        "bishengir-compile: 'hivm.hir.store' op only support store ub to gm currently!"
    )


def test_the_front_ends_refusal_comes_before_all():
    verdict = judged(answer(error="CompilationError: ValueError('unexpected type fp8.')"))
    assert verdict.state is State.REFUSED
    assert verdict.reason.startswith("front end: CompilationError")


def test_crashes_on_the_way_are_counted_and_one_that_never_ends_is_refused():
    verdict = judged(answer(attempt(WHOLE, crashes=2), crashes=1))
    assert (verdict.state, verdict.crashes) == (State.FITS, 3)
    dead = judged(answer(attempt("Stack dump:", code=-11, crashes=6)))
    assert dead.state is State.REFUSED
    assert dead.reason == "bishengir-compile died of signal 11, each of 6 times"


def test_a_general_error_is_told_where_there_is_no_better():
    assert first_error("loc(x): error: Failed to run BiShengIR pipeline") == (
        "Failed to run BiShengIR pipeline"
    )
    assert first_error("nothing") == "no error told"
