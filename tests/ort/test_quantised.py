"""`w8` and `w4` on ONNX Runtime: logits, what products take, what is stored, what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from chipmark.backends.ort.memory import check_fits
from chipmark.backends.ort.options import check_options
from chipmark.backends.ort.providers import find_provider
from chipmark.backends.ort.quantised_products import find_products, form_of, int8_by_group
from chipmark.engine.computed import Number, class_of
from chipmark.engine.contract import LoadSpec
from chipmark.errors import CellFailedError, DoesNotFitError, UnknownNameError, UsageError
from chipmark_models.onnx_graphs.emitter import LEVELS
from chipmark_models.onnx_graphs.quantised_linear import QuantisedForm, QuantisedOperator
from chipmark_models.precision import INT8_BY_GROUP, kept_matrices
from chipmark_models.presets import preset
from chipmark_models.weights.quantise import QuantisedTensor

pytest.importorskip("torch")

import torch

from chipmark_models.oracle import Oracle
from chipmark_models.rounding import ROUNDINGS, round_groups_int8

N_STEPS = 4
N_LONG = 70
N_SHORT = 8
"""Of int8 activations: the first value that is rounded the other way, as another order of sums may
have it, moves all later rows by as much as rounding does: rows are few, and the nearest counts."""

FORMS = {
    "nbits-0": {"accuracy_level": 0},
    "nbits-4": {"accuracy_level": 4},
    "dequantise": {"quantised": "DequantizeLinear"},
}


@pytest.fixture(scope="module")
def config(helpers):
    """Biases, norms of heads, and rows of 64 (in one group), 96 and 160 (in groups of 32)."""
    found = helpers.family_config("qwen3")
    return dataclasses.replace(
        found,
        name="quantised",
        hidden_size=64,
        intermediate_size=160,
        head_dim=16,
        n_heads=6,
        attn_out_bias=True,
        mlp_bias=True,
    )


@pytest.fixture(scope="module")
def mixed(helpers):
    """Rows of 64 are quantised; those of 96 in groups of 32; no group divides 80."""
    found = helpers.family_config("llama")
    return dataclasses.replace(found, name="mixed", hidden_size=64)


def decoded(driver, ids):
    """Logits (N_STEPS, vocab) of the last ids, a step each on a prompt in chunks."""
    start = len(ids) - N_STEPS
    driver.prefill(0, 0, ids[:start])
    steps = [driver.run([0], [t], [ids[t : t + 1]]) for t in range(start, len(ids))]
    return np.array([done.logits[10] for done in steps])


def rms(values):
    return float(np.sqrt(np.square(values.astype(np.float64)).mean()))


def nearest(found, wanted):
    """rms-relative distance of the row that is nearest."""
    return min(rms(a - b) / rms(b) for a, b in zip(found, wanted, strict=True))


def expected(config, weights, ids, rounding=None):
    places = [np.arange(len(ids) - N_STEPS, len(ids))]
    return Oracle(config, weights.float32, rounding=rounding).logits([ids], places)[0]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", ["w8", "w4"])
def test_logits_are_those_of_what_products_take(
    precision, form, level, config, prepared, helpers, tmp_path
):
    spec, weights = prepared(config, precision)
    n = N_SHORT if form == "nbits-4" else N_LONG
    ids = np.random.default_rng(3).integers(0, config.vocab_size, n)
    options = FORMS[form] | {"graph": level}
    driver = helpers.Driver("cpu", spec, tmp_path, precision=precision, options=options)
    found, plain = decoded(driver, ids), expected(config, weights, ids)
    words = driver.loaded.precision.words()
    if form != "nbits-4":
        assert words["activation"] == "fp32"
        assert np.abs(found - plain).max() < 1e-4
        return
    assert words["activation"] == "fp32, int8 by group into products"
    rounded = expected(config, weights, ids, ROUNDINGS[INT8_BY_GROUP])
    assert nearest(rounded, plain) > 5e-3  # else the next line holds of anything
    assert nearest(found, rounded) < 1e-4
    assert nearest(found, plain) > 5e-3


@pytest.mark.parametrize("form", FORMS)
def test_matrices_that_no_group_divides_stay_as_they_are(form, mixed, prepared, helpers, tmp_path):
    assert all("down_proj" in name for name in kept_matrices(mixed, "w4"))
    spec, weights = prepared(mixed, "w4")
    ids = np.random.default_rng(4).integers(0, mixed.vocab_size, N_SHORT)
    driver = helpers.Driver("cpu", spec, tmp_path, precision="w4", options=FORMS[form])
    rounding = ROUNDINGS[INT8_BY_GROUP] if form == "nbits-4" else None
    wanted = expected(mixed, weights, ids, rounding)
    assert nearest(decoded(driver, ids), wanted) < 1e-4


def test_a_preset_that_keeps_some_matrices_is_quantised_else(prepared, helpers, tmp_path):
    spec, weights = prepared(preset("tiny"), "w8")
    ids = np.random.default_rng(4).integers(0, preset("tiny").vocab_size, N_SHORT)
    driver = helpers.Driver("cpu", spec, tmp_path, precision="w8")
    kept = kept_matrices(preset("tiny"), "w8")
    taken = driver.loaded.details["quantised_products"]["take"]
    assert kept
    assert not any(shape.endswith(" 176") for shape in taken)
    wanted = expected(preset("tiny"), weights, ids, ROUNDINGS[INT8_BY_GROUP])
    assert nearest(decoded(driver, ids), wanted) < 1e-4


def test_a_loaded_cell_says_what_it_stores_and_computes(config, prepared, helpers, tmp_path):
    spec, _ = prepared(config, "w4")
    loaded = helpers.Driver("cpu", spec, tmp_path, precision="w4").loaded
    words = loaded.precision.words()
    assert (words["weights"], words["kv"]) == ("w4", "fp32")
    assert class_of(words["weights"], words["activation"], words["kv"]) == "w4a8"
    told = loaded.details["quantised_products"]
    assert (told["operator"], told["accuracy_level"]) == ("MatMulNBits", 4)
    assert set(told["take"]) == {f"{m} x {k}" for m in (1, 32) for k in (64, 96, 160)}
    assert set(told["take"].values()) == {"int8 by group"}
    (note,) = [text for code, text in loaded.notes if code == "precision_note"]
    assert "w4 by MatMulNBits at accuracy_level 4: products take int8 by group" in note
    # Codes, fp32 scales of groups (64, 32, 32), and what is kept as fp32 arrays of bf16 values.
    matrices = {(160, 64): 64, (64, 96): 32, (2 * 160, 64): 64, (64, 160): 32}
    codes = sum(n * k for n, k in matrices) // 2
    scales = sum(n * (k // group) for (n, k), group in matrices.items())
    vectors = 2 * 64 + 64 + 2 * 160 + 64  # norms, biases of o, of gate and up, of down
    norms_of_heads = 2 * 16
    layer = codes + 4 * (scales + vectors + norms_of_heads)
    assert loaded.weight_bytes == 2 * layer + 4 * (97 * 64 + 64)


def test_level_0_is_another_class(config, prepared, helpers, tmp_path):
    spec, _ = prepared(config, "w8")
    options = {"accuracy_level": 0}
    words = helpers.Driver(
        "cpu", spec, tmp_path, precision="w8", options=options
    ).loaded.precision.words()
    assert class_of(words["weights"], words["activation"], words["kv"]) == "w8a16"


@pytest.mark.parametrize("level", [5, -1, True, "4", 4.0])
def test_an_accuracy_level_that_is_none_is_refused(level):
    with pytest.raises(UsageError, match="accuracy_level is") as caught:
        form_of(spec_of("w4", accuracy_level=level), find_provider("cpu"))
    assert "0 to 4" in caught.value.hint


def test_an_operator_that_is_none_gets_near_names():
    with pytest.raises(UnknownNameError, match="MatMulNBits"):
        form_of(spec_of("w4", quantised="MatMulNBit"), find_provider("cpu"))
    for given in (["MatMulNBits"], {"by": 1}, 4):
        with pytest.raises(UnknownNameError, match="operator of quantised products"):
            check_options({"quantised": given})


def test_an_option_goes_over_the_providers_data():
    cpu = find_provider("cpu")
    assert form_of(spec_of("w4"), cpu) == QuantisedForm("w4", QuantisedOperator.MATMUL_NBITS, 4)
    given = {"quantised": "DequantizeLinear", "accuracy_level": 0}
    check_options(given)
    blocks = QuantisedForm("w8", QuantisedOperator.DEQUANTIZE_LINEAR, 0)
    assert form_of(spec_of("w8", **given), cpu) == blocks


def test_a_quantised_precision_that_cannot_be_written_is_refused():
    with pytest.raises(UsageError, match="does not compute fp8"):
        form_of(spec_of("fp8"), find_provider("cpu"))
    assert form_of(spec_of("fp32"), find_provider("cpu")) is None


def spec_of(precision, **options):
    return LoadSpec({}, precision, 1, 64, 64, 64, "", options=options)


# What products take is found by their results -------------------------------------------------


def as_if(rounding, config, form=None, seen=None):
    """`find_products` on a provider that rounds activations by `rounding(x, rows)`."""

    def run(graph, arrays, x):
        codes, scales = arrays["probe.weight"], arrays["probe.weight_scale"]
        if seen is not None:
            seen.append(graph.inputs[0].shape)
        n, groups = scales.shape
        values = codes.reshape(n, groups, -1).astype(np.float64) - 128
        wide = (values * scales[:, :, None]).reshape(n, -1)
        return (rounding(x, wide.shape[1] // groups).astype(np.float64) @ wide.T).astype(np.float32)

    form = form or QuantisedForm("w8", QuantisedOperator.MATMUL_NBITS, 4)
    return find_products(form, config, run, fixed=seen is not None)


def test_each_type_of_activations_is_told_by_its_result(config):
    taken = as_if(lambda x, group: x, config)
    assert taken.linear_input is Number.FP32
    assert as_if(int8_by_group, config).linear_input is Number.INT8_BY_GROUP
    half = as_if(lambda x, group: x.astype(np.float16).astype(np.float32), config)
    assert half.linear_input is Number.FP16


def test_the_narrowest_type_counts_and_the_note_says_where(config):
    found = as_if(lambda x, group: x if len(x) == 1 else int8_by_group(x, group), config)
    assert found.linear_input is Number.INT8_BY_GROUP
    assert "fp32 at 1 x 64" in found.notes()[0][1]
    assert "int8 by group at 32 x 64" in found.notes()[0][1]


def test_a_rounding_that_nobody_knows_has_no_name(config):
    with pytest.raises(CellFailedError, match="not by a rounding that is known") as caught:
        as_if(lambda x, group: int8_by_group(x, x.shape[1] // 2), config)
    assert "accuracy_level=0" in caught.value.hint
    with pytest.raises(CellFailedError):
        as_if(lambda x, group: np.full_like(x, np.nan), config)


def test_rows_are_fixed_where_a_provider_needs_it(config):
    seen: list[tuple[int | str, ...]] = []
    as_if(int8_by_group, config, seen=seen)
    assert set(seen) == {(rows, k) for rows in (1, 32) for k in (64, 96, 160)}


def test_the_rounding_of_the_probe_is_the_oracles():
    x = np.random.default_rng(0).standard_normal((5, 192)).astype(np.float32)
    x[2, 64:128] = 0
    wanted = round_groups_int8(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(int8_by_group(x, 64), wanted, rtol=1e-6)
    assert 0 < np.abs(wanted - x).max() < np.abs(x).max() / 127
    odd = torch.ones(3, 80)
    assert round_groups_int8(odd) is odd  # weights of such rows are kept


# Roof, memory ---------------------------------------------------------------------------------


def test_the_roof_of_int8_products_is_a_rate(config, prepared, helpers, tmp_path):
    driver = helpers.Driver("cpu", prepared(config, "w4")[0], tmp_path, precision="w4")
    assert 1e8 < driver.backend.probe_matmul("int8") < 1e16


def test_quantised_weights_fit_where_wide_ones_do_not():
    config = preset("qwen3-8b")
    need = {"n_seqs": 1, "max_context": 64, "kv_tokens": 64, "max_chunk": 64, "scratch": ""}
    free = 14_000_000_000
    check_fits(config, LoadSpec({}, "w4", **need), 1, "float32", free)
    for precision in ("w8", "fp32"):
        with pytest.raises(DoesNotFitError, match=precision):
            check_fits(config, LoadSpec({}, precision, **need), 1, "float32", free)


def test_codes_come_in_the_order_of_k():
    packed = np.array([[0x90, 0xA1]], np.uint8)  # one row of 4: low halves 0, 1, high halves 9, 10
    tensor = QuantisedTensor("w4", packed, np.array([[0x3F80]], np.uint16), 4)
    assert tensor.codes().tolist() == [[[-8, -7, 1, 2]]]
    assert tensor.dequantise().tolist() == [[-8.0, -7.0, 1.0, 2.0]]
