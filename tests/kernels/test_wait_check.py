"""What a kernel may do before it waits for the launch before it, read from PTX of our making."""

from __future__ import annotations

import pytest

from chipmark_kernels import manifest, wait_check
from chipmark_kernels.device import TARGETS
from chipmark_kernels.wait_check import unordered

KERNEL = """
.visible .entry kernel(
    .param .u64 .ptr .global .align 1 kernel_param_0,
    .param .u64 .ptr .global .align 1 kernel_param_1,
    .param .u32 kernel_param_2
)
.reqntid 128
{{
    .reg .pred %p<9>;
    ld.param.b64 %rd1, [kernel_param_0];
    ld.param.b64 %rd2, [kernel_param_1];
    ld.param.b32 %r1, [kernel_param_2];
    mad.wide.s32 %rd3, %r1, 4, %rd1;
    mad.wide.s32 %rd4, %r1, 4, %rd2;
{body}
                                        // -- End function
}}
"""
WAIT = "griddepcontrol.wait; // dummy %r9"
NEXT = "griddepcontrol.launch_dependents; // dummy %r9"
READ_W = "ld.global.L1::evict_first.v4.b32 { %r4, %r5, %r6, %r7 }, [ %rd4 + 0 ];"
READ_X = "@%p1 ld.global.b32 { %r8 }, [ %rd3 + 16 ];"
STORE = "st.global.b32 [ %rd3 + 0 ], { %r4 };"
SKIP = "@%p1 bra $L__BB0_2;"
LABEL = "$L__BB0_2:                       // %end"


def found(*body: str) -> tuple[str, ...]:
    return unordered(KERNEL.format(body="\n".join(body)), ["x_ptr", "w_ptr", "n"], ["w_ptr"])


def test_weights_before_the_wait_and_all_else_behind_it_are_in_order() -> None:
    assert found(READ_W, WAIT, NEXT, READ_X, STORE, "ret;") == ()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ((READ_X, WAIT, STORE, "ret;"), "may read x_ptr before it waits"),
        (("cp.async.cg.shared.global [ %r1 + 0 ], [ %rd3 + 0 ], 0x10, %r2;", WAIT, "ret;"),
         "may read x_ptr before it waits"),
        (("ld.global.b64 %rd7, [ %rd9 + 0 ];", WAIT, "ret;"), "may read an unknown place"),
        ((STORE, WAIT, "ret;"), "may write before it waits: st.global"),
        (("atom.global.acq_rel.add.u32 %r4, [ %rd3 + 0 ], 1;", WAIT, "ret;"), "may write before"),
        ((NEXT, WAIT, "ret;"), "lets the next launch begin before it waits"),
        ((SKIP, WAIT, STORE, LABEL, "ret;"), "a block may end before it waits"),
        (("@%p1 ret;", WAIT, "ret;"), "a block may end before it waits"),
        (("@%p1 " + WAIT, STORE, "ret;"), "may write before it waits"),
        (("bra.uni $L__BB0_2;", WAIT, LABEL, STORE, "ret;"), "may write before it waits"),
        (("mov.b64 %rd4, %rd3;", READ_W, WAIT, "ret;"), "may read x_ptr, w_ptr before it waits"),
    ],
)  # fmt: skip
def test_what_may_come_before_the_wait_is_told(body, told) -> None:
    assert any(told in problem for problem in found(*body))


def test_a_loop_before_the_wait_and_shared_memory_are_no_fault() -> None:
    loop = ("$L__BB0_1:", READ_W, "st.shared.b32 [ %r1 + 0 ], { %r4 };", "@%p1 bra $L__BB0_1;")
    assert found(*loop, WAIT, STORE, "ret;") == ()


def test_a_wait_on_both_sides_of_a_branch_is_one() -> None:
    assert found(SKIP, WAIT, "bra.uni $L__BB0_3;", LABEL, WAIT, "$L__BB0_3:", STORE, "ret;") == ()


def test_what_kernels_may_read_early_are_arguments_of_theirs() -> None:
    by_name = {
        entry.launch.kernel.__name__: entry.launch.kernel.arg_names
        for entry in manifest.entries(TARGETS["sm_90"], shapes=manifest.MODEL_SHAPES[:1])
    }
    for kernel, names in wait_check.READ_BEFORE_WAIT.items():
        assert set(names) <= set(by_name[kernel])
