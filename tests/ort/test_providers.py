"""Which provider a name means, and the error when it is not here."""

from __future__ import annotations

import shutil
import subprocess
import sys
import types
from dataclasses import replace

import pytest

from chipmark.backends.ort import backend as backend_module
from chipmark.backends.ort import providers
from chipmark.backends.ort.backend import OrtBackend
from chipmark.backends.ort.providers import (
    Located,
    emulation_of,
    find_provider,
    known_providers,
    library_fix,
    locate,
    precisions_of,
)
from chipmark.backends.ort.session import provider_options
from chipmark.engine.conformance import conformance_load
from chipmark.errors import MissingBackendError, UnknownNameError
from chipmark_models.presets import preset


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


def test_a_listed_providers_module_means_it_with_its_options(tmp_path):
    found = find_provider("onnxruntime_ggml")
    assert found == known_providers()["ggml"]
    assert found.options["weights"] == "f32"
    assert precisions_of("onnxruntime_ggml") == found.precisions


def test_what_is_not_listed_computes_what_a_graph_can_be_written_in():
    written = ("fp32", "fp16", "w8", "w4")
    assert find_provider("/a/libep.so").precisions == written
    assert precisions_of("/a/libep.so") == precisions_of("a_vendors_module") == written


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("cann", "numpy<2"),
        ("qnn", "onnxruntime-qnn"),
        ("migraphx", "libmigraphx_c.so.3"),
        ("tensorrt_rtx", "onnxruntime-ep-nv-tensorrt-rtx-cu13"),
        ("ggml", "onnxruntime<1.31"),
    ],
)
def test_hints_name_what_the_wheels_need(name, needed):
    assert needed in known_providers()[name].install


def test_qnn_has_the_backend_type_without_which_every_session_fails():
    assert known_providers()["qnn"].options["backend_type"] == "htp"


def _located(name: str, kind: str | None = None) -> Located:
    device = (
        None if kind is None else types.SimpleNamespace(device=types.SimpleNamespace(type=kind))
    )
    return Located(known_providers()[name], "", device, "", "")


def test_an_emulation_is_known_by_processor_and_by_kind_of_device():
    assert emulation_of(_located("qnn"), "x86_64") == "HTP of QNN emulated on x86-64"
    assert emulation_of(_located("qnn"), "aarch64") == ""
    assert "software adapter" in emulation_of(_located("webgpu", "OrtHardwareDeviceType.CPU"))
    assert emulation_of(_located("webgpu", "OrtHardwareDeviceType.GPU")) == ""
    assert emulation_of(_located("cpu"), "x86_64") == ""


C_COMPILER = shutil.which("cc") or shutil.which("gcc")
CODE = {
    "no_provider": "int x(void) { return 1; }",
    "other_abi": "int of_another_abi(void); int x(void) { return of_another_abi(); }",
    "newer": """
#include <stddef.h>
#include <stdint.h>
typedef struct { const void *(*get_api)(uint32_t); } Base;
typedef struct { void *(*create_status)(int, const char *); } Api;
void *CreateEpFactories(const char *name, const Base *base, const void *log, void **made,
                        size_t most, size_t *n) {
  const Api *api = base->get_api(1);
  return api->create_status(1, "mychip needs ORT API version 99");
}
void *ReleaseEpFactory(void *made) { return 0; }
""",
}


@pytest.fixture
def library(tmp_path):
    """A shared library of CODE, compiled here."""

    def built(name: str):
        if C_COMPILER is None:
            pytest.skip("no C compiler is here")
        source, made = tmp_path / f"{name}.c", tmp_path / f"lib{name}.so"
        source.write_text(CODE[name])
        subprocess.run(
            [C_COMPILER, "-shared", "-fPIC", "-o", made, source, "-Wl,-z,now"], check=True
        )
        return made

    return built


@pytest.mark.parametrize(
    ("name", "words", "fix"),
    [
        ("no_provider", "CreateEpFactories", "not a plug-in provider of ONNX Runtime"),
        ("other_abi", "of_another_abi", "built against other versions"),
        ("newer", "mychip needs ORT API version 99", "built for another onnxruntime"),
    ],
)
def test_a_library_that_is_not_such_a_provider_says_why_and_the_fix(library, name, words, fix):
    path = library(name)
    with pytest.raises(MissingBackendError, match=words) as caught:
        locate(find_provider(str(path)))
    assert fix in caught.value.hint
    assert str(path) in caught.value.message


def test_a_library_of_another_processor_says_why_and_the_fix(library):
    path = library("no_provider")
    raw = bytearray(path.read_bytes())
    raw[18:20] = (0xF7, 0x00)  # e_machine: BPF, on which nobody runs this
    path.write_bytes(raw)
    with pytest.raises(MissingBackendError, match="does not load") as caught:
        locate(find_provider(str(path)))
    assert "built for another processor" in caught.value.hint


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("libx.so: wrong ELF class: ELFCLASS32", "another processor"),
        ("version `GLIBC_2.38' not found", "a newer system"),
        ("the vendor's driver answers 7", ""),
    ],
)
def test_words_of_the_loader_have_a_fix_and_those_of_a_provider_stand_alone(said, fix):
    assert fix in library_fix(said)
    assert bool(fix) == bool(library_fix(said))


def test_a_package_that_cannot_be_imported_says_so_in_its_own_words(monkeypatch, tmp_path):
    (tmp_path / "onnxruntime_musa.py").write_text("raise ImportError('libmusart.so: not found')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "onnxruntime_musa", raising=False)
    with pytest.raises(MissingBackendError, match=r"libmusart\.so: not found"):
        locate(find_provider("musa"))


def test_an_onnxruntime_that_cannot_be_imported_says_so_with_the_providers_hint(monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "onnxruntime":
                raise ImportError("built against NumPy 1")

    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(MissingBackendError, match="built against NumPy 1") as caught:
        locate(find_provider("cann"))
    assert "numpy<2" in caught.value.hint


@pytest.mark.parametrize("named", ["by path", "by module"])
def test_graph_shapes_and_options_of_an_unlisted_provider_are_given_as_options(
    named, prepared, tmp_path, monkeypatch
):
    """ONNX Runtime's own CPU provider stands behind a library that needs no entry."""
    library = tmp_path / "libmychip_ep.so"
    (tmp_path / "ep_mychip.py").write_text(f"def get_library_path(): return {str(library)!r}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    backend = OrtBackend(str(library) if named == "by path" else "ep_mychip")
    cpu = replace(locate(find_provider("cpu")), provider=backend.provider, library=str(library))
    monkeypatch.setattr(backend_module, "locate", lambda _: cpu)
    asked = {"static": True, "graph": "plain", "provider": {"device_id": 1, "cache": "x"}}
    spec, _ = prepared(preset("tiny"))
    loaded = backend.load(
        conformance_load(spec, "fp32", options=asked, scratch=str(tmp_path), threads=1)
    )
    assert (loaded.graph, loaded.execution) == ("plain", "compiled")
    assert loaded.caps.context_buckets
    assert loaded.caps.chunk_buckets
    assert loaded.details["library"] == str(library)
    assert loaded.details["options"] == {"device_id": "1", "cache": "x"}
    assert "unverified_provider" in {str(code) for code, _ in loaded.notes}
    backend.close()
