"""Which provider a name means, and the error when it is not here."""

from __future__ import annotations

import sys
import types

import pytest

from chipmark.backends.ort import providers
from chipmark.backends.ort.providers import find_provider, known_providers, locate
from chipmark.backends.ort.session import provider_options
from chipmark.errors import MissingBackendError, UnknownNameError


def test_every_entry_is_whole():
    known = known_providers()
    assert {"cpu", "openvino", "ggml", "cann", "migraphx", "maca", "tops", "musa"} <= set(known)
    for provider in known.values():
        assert provider.kind in ("classic", "plugin")
        assert provider.ep_name
        assert provider.install
        assert "fp32" in provider.precisions
        assert set(provider.static) <= {"batch", "chunk", "context"}
        assert list(provider.context_buckets) == sorted(provider.context_buckets)
        assert all(isinstance(value, str) for value in provider.options.values())


def test_an_unknown_name_gets_near_ones():
    with pytest.raises(UnknownNameError, match="openvino"):
        find_provider("openvno")


def test_a_classic_provider_that_is_not_compiled_in_says_what_to_install():
    with pytest.raises(MissingBackendError) as caught:
        locate(find_provider("cann"))
    assert "CANNExecutionProvider" in caught.value.message
    assert "onnxruntime-cann" in caught.value.hint


def test_a_plugin_whose_package_is_not_here_says_what_to_install():
    with pytest.raises(MissingBackendError, match="onnxruntime_musa") as caught:
        locate(find_provider("musa"))
    assert "built from source" in caught.value.hint


def test_a_library_path_must_exist_and_load(tmp_path):
    missing = tmp_path / "libmissing.so"
    with pytest.raises(MissingBackendError, match=r"no provider library .*libmissing\.so"):
        locate(find_provider(str(missing)))
    missing.write_bytes(b"no library")
    with pytest.raises(MissingBackendError, match="does not load"):
        locate(find_provider(str(missing)))


def test_a_module_without_a_library_is_named(monkeypatch):
    module = types.ModuleType("a_plugin_without_library")
    module.__file__ = "/somewhere/a_plugin_without_library/__init__.py"
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "a_plugin_without_library", module)
    with pytest.raises(MissingBackendError, match="names no provider library"):
        locate(find_provider("a_plugin_without_library"))


class _Device:
    def __init__(self, ep_name: str, ov_device: str) -> None:
        self.ep_name = ep_name
        self.ep_metadata = {"ov_device": ov_device}
        self.device = types.SimpleNamespace(
            type=types.SimpleNamespace(name="CPU"), vendor="Intel", metadata={}, device_id=0
        )


@pytest.fixture
def fake_plugin(monkeypatch, tmp_path):
    """ONNX Runtime with a plug-in that lists the devices given."""
    import onnxruntime as ort

    listed: list[_Device] = []
    library = tmp_path / "libplugin.so"
    library.touch()
    module = types.ModuleType("onnxruntime_ep_openvino")
    module.get_library_path = lambda: str(library)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", module)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(ort, "register_execution_provider_library", lambda name, path: None)
    monkeypatch.setattr(ort, "get_ep_devices", lambda: listed)
    monkeypatch.setattr(providers, "_REGISTERED", {})
    return listed


def test_a_plugin_that_lists_no_device_of_this_machine_is_missing(fake_plugin):
    fake_plugin.append(_Device("OpenVINOExecutionProvider", "NPU"))
    with pytest.raises(MissingBackendError, match="lists no device of this machine"):
        locate(find_provider("openvino"))


def test_the_device_is_named_and_not_the_first_one(fake_plugin):
    name = "OpenVINOExecutionProvider"
    fake_plugin += [_Device(name, "AUTO"), _Device(name, "CPU"), _Device("other", "CPU")]
    located = locate(find_provider("openvino"))
    assert located.ep_device is fake_plugin[1]
    assert located.device_name == "OpenVINOExecutionProvider CPU CPU Intel".replace(
        "CPU CPU", "CPU " + str(located.ep_device.device.type).rpartition(".")[2]
    )


def test_options_are_filled_in_and_precision_is_pinned(fake_plugin, tmp_path):
    fake_plugin.append(_Device("OpenVINOExecutionProvider", "CPU"))
    located = locate(find_provider("openvino"))
    fp32 = provider_options(located, "fp32", 3, tmp_path)["load_config"]
    assert '"INFERENCE_PRECISION_HINT": "f32"' in fp32
    assert '"INFERENCE_NUM_THREADS": "3"' in fp32
    assert '"bf16"' in provider_options(located, "bf16", 3, tmp_path)["load_config"]
    assert "device_type" not in provider_options(located, "fp32", 3, tmp_path)
