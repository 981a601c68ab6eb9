"""A precision that a backend does not compute is refused before anything is prepared."""

from __future__ import annotations

import pytest

from chipmark.cell.computes import computed_pairs, precisions_of
from chipmark.cell.suite import Overrides, load_suite
from chipmark.errors import MissingBackendError, UnknownNameError, UsageError


@pytest.mark.parametrize("precision", ["w8", "w4", "fp8"])
@pytest.mark.parametrize("backend", ["torch:cpu", "torch:npu:1", "ort:ggml", "ort:cann"])
def test_quantised_precisions_are_not_widened_unsaid(backend: str, precision: str) -> None:
    with pytest.raises(UsageError, match=f"{backend} does not compute {precision}") as caught:
        computed_pairs([backend], [precision], named=True)
    assert f"{backend} computes fp32" in caught.value.hint


def test_onnxruntime_computes_integers_on_its_own_cpu_and_no_fp8() -> None:
    with pytest.raises(UsageError, match="ort:cpu does not compute fp8"):
        computed_pairs(["ort:cpu"], ["fp8"], named=True)
    assert computed_pairs(["ort:cpu"], ["w8", "w4"], named=True).left_out == ()


def test_what_is_computed_remains_and_what_is_not_is_told() -> None:
    found = computed_pairs(["torch:cpu", "ort:cpu"], ["fp32", "bf16"], named=True)
    assert found.pairs == {("torch:cpu", "fp32"), ("torch:cpu", "bf16"), ("ort:cpu", "fp32")}
    assert found.left_out == ("ort:cpu bf16: it computes fp32, w8, w4",)


def test_backends_that_were_found_are_refused_only_where_none_remains() -> None:
    found = computed_pairs(["torch:cpu", "ort:cpu", "sim:golden"], ["fp16"], named=False)
    assert found.pairs == {("torch:cpu", "fp16"), ("sim:golden", "fp16")}
    assert found.left_out == ("ort:cpu fp16: it computes fp32, w8, w4",)
    with pytest.raises(UsageError, match=r"torch:cpu .* w4; ort:ggml does not compute w4"):
        computed_pairs(["torch:cpu", "ort:ggml"], ["w4"], named=False)


def test_a_provider_that_is_not_listed_has_the_default_ones() -> None:
    assert precisions_of("ort:some_vendor_module") == precisions_of("ort:/a/provider.so")
    assert "fp32" in (precisions_of("ort:some_vendor_module") or ())


def test_who_does_not_say_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    assert precisions_of("sim:golden") is None
    assert computed_pairs(["sim:golden"], ["w4"], named=True).pairs == {("sim:golden", "w4")}

    def missing(*_: object) -> object:
        raise MissingBackendError("torch is not here")

    monkeypatch.setattr("chipmark.cell.computes.backend_factory", missing)
    assert precisions_of("torch:cpu") is None
    with pytest.raises(UnknownNameError, match="backend"):
        precisions_of("tourch:cpu")


def test_a_suite_leaves_pairs_out_and_refuses_a_backend_without_any() -> None:
    overrides = Overrides(backends=("sim:golden", "torch:cpu"), precisions=("fp32", "w8"))
    suite = load_suite("quick", overrides, [])
    assert {(cell.backend, cell.precision) for cell in suite.cells} == {
        ("sim:golden", "fp32"), ("sim:golden", "w8"), ("torch:cpu", "fp32"),
    }  # fmt: skip
    assert suite.left_out == ("torch:cpu w8: it computes fp32, bf16, fp16",)
    overrides = Overrides(backends=("sim:golden", "torch:cpu"), precisions=("w8",))
    with pytest.raises(UsageError, match="torch:cpu does not compute w8"):
        load_suite("quick", overrides, [])
    named = load_suite("quick", Overrides(backends=("sim:golden",), precisions=("w8",)), [])
    assert {cell.precision for cell in named.cells} == {"w8"}
    with pytest.raises(UnknownNameError, match="w8"):
        load_suite("quick", Overrides(backends=("sim:golden",), precisions=("w9",)), [])
