"""`ort:DEVICE` through the contract: conformance, what fits, what it refuses, what it says."""

from __future__ import annotations

import json

import pytest

from chipmark.backends.ort.backend import OrtBackend
from chipmark.backends.ort.memory import check_fits
from chipmark.engine.conformance import CHECKS, Subject, conformance_load
from chipmark.errors import ContractError, DoesNotFitError, UnknownNameError, UsageError
from chipmark_models.presets import preset

VARIANTS = {
    "cpu-contrib": ("cpu", {"graph": "contrib"}),
    "cpu-plain": ("cpu", {"graph": "plain"}),
    "cpu-standard": ("cpu", {"graph": "standard"}),
    "cpu-static": ("cpu", {"graph": "plain", "static": True}),
    "cpu-w4": ("cpu", {"accuracy_level": 0}),
    "openvino": ("openvino", {}),
}


@pytest.fixture(scope="module", params=VARIANTS)
def subject(request, prepared, helpers, tmp_path_factory):
    device, options = VARIANTS[request.param]
    if not helpers.is_here(device):
        pytest.skip(f"{device} is not here")
    precision = "w4" if request.param.endswith("w4") else "fp32"
    spec, _ = prepared(preset("tiny"), precision)
    backend = OrtBackend(device)
    scratch = str(tmp_path_factory.mktemp("scratch"))
    loaded = backend.load(
        conformance_load(spec, precision, options=options, scratch=scratch, threads=1)
    )
    yield Subject(backend, loaded, vocab_size=preset("tiny").vocab_size, tolerance=1e-3)
    backend.close()
    backend.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_ort_keeps_the_contract(subject, check):
    check(subject)


def test_loaded_says_what_it_is(helpers, prepared, tmp_path):
    driver = helpers.Driver("cpu", prepared(preset("tiny"))[0], tmp_path)
    loaded = driver.loaded
    assert loaded.graph == "contrib"
    assert loaded.precision.weights == "fp32"
    assert loaded.weight_bytes == 734_976
    assert loaded.kv_bytes == 5 * 700 * 2 * 3 * 2 * 16 * 4
    described = driver.backend.describe()
    assert json.loads(json.dumps(described))["binding"] == "shared"
    assert len(described["graph_hash"]) == 64


def test_probes_of_the_roof_are_plausible(helpers, prepared, tmp_path):
    driver = helpers.Driver("cpu", prepared(preset("tiny"))[0], tmp_path)
    assert 1e8 < driver.backend.probe_read(20_000_000) < 1e13
    assert 1e8 < driver.backend.probe_matmul("fp32") < 1e15


def test_a_device_of_its_own_has_no_read_probe_and_keeps_its_cell(helpers, prepared, tmp_path):
    driver = helpers.Driver("cpu", prepared(preset("tiny"))[0], tmp_path)
    driver.backend._loaded().host_device = False
    assert driver.backend.probe_read(20_000_000) is None
    assert driver.backend.probe_matmul("fp32") > 0


def test_a_precision_the_provider_lacks_is_refused(prepared, helpers, tmp_path):
    spec, _ = prepared(preset("tiny"))
    with pytest.raises(UsageError, match="does not compute bf16"):
        OrtBackend("cpu").load(conformance_load(spec, "bf16", scratch=str(tmp_path)))


@pytest.mark.parametrize(
    ("options", "near"), [({"graph": "plian"}, "plain"), ({"spining": True}, "spinning")]
)
def test_unknown_options_name_the_nearest(options, near, prepared, tmp_path):
    spec, _ = prepared(preset("tiny"))
    with pytest.raises(UnknownNameError, match=near):
        OrtBackend("cpu").load(conformance_load(spec, options=options, scratch=str(tmp_path)))


def test_a_context_beyond_the_model_says_what_fits(prepared, helpers, tmp_path):
    spec, _ = prepared(preset("tiny"))
    with pytest.raises(DoesNotFitError, match="at most 131072"):
        helpers.Driver("cpu", spec, tmp_path, max_context=200_000)


@pytest.mark.parametrize(
    ("available", "said"),
    [(10**9, "weights alone leave no room"), (1_300_000_000, "context of 436 tokens at 4 seq")],
)
def test_what_fits_is_counted_before_allocating(available, said):
    spec = conformance_load({}, max_context=2000)
    with pytest.raises(DoesNotFitError) as caught:
        check_fits(preset("smollm2-135m"), spec, 5, "float32", available)
    assert said in caught.value.hint
    check_fits(preset("smollm2-135m"), spec, 5, "float32", 3 * 10**9)


def test_two_steps_at_once_are_refused(helpers, prepared, tmp_path):
    import numpy as np

    driver = helpers.Driver("cpu", prepared(preset("tiny"))[0], tmp_path)
    driver.run([0], [0], [np.array([5])])
    from chipmark.engine.contract import Step

    driver.backend.submit(Step(90, (), ()))
    with pytest.raises(ContractError, match="in flight"):
        driver.backend.submit(Step(91, (), ()))
    assert driver.backend.wait().step == 90
    with pytest.raises(ContractError, match="no step"):
        driver.backend.wait()
    driver.backend.close()
    with pytest.raises(ContractError, match="not loaded"):
        driver.backend.submit(Step(92, (), ()))
