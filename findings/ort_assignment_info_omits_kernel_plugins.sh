#!/usr/bin/env bash
# What: ONNX Runtime's record of which provider took which node leaves out the nodes of a plug-in
#   that registers kernels.
# Versions: onnxruntime 1.30.0, onnxruntime-ep-webgpu 0.4.0, onnx 1.22.0, numpy 2.4.6, on the
#   software Vulkan driver out of @sparticuz/chromium 131.0.1 (npm); x86-64 Linux.
# Expected: with session.record_ep_graph_assignment_info, get_provider_graph_assignment_info() has
#   every node of the graph under the provider that runs it; a share of work can be counted from it.
# Seen: of a graph of three nodes, MatMul and Add on WebGPU and a Det on the CPU, it lists Det
#   alone. Who divides "listed for the plug-in" by "listed" gets 0 % of a graph that ran whole on
#   the device.
# Fails where WebGPU's nodes are listed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env" 2> /dev/null || python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check 2> /dev/null \
    onnxruntime==1.30.0 onnxruntime-ep-webgpu==0.4.0 onnx==1.22.0 numpy==2.4.6 brotli==1.2.1
(cd "$folder" && npm pack --silent @sparticuz/chromium@131.0.1 > /dev/null \
    && tar xzf ./*chromium-131.0.1.tgz package/bin/swiftshader.tar.br)
"$folder/env/bin/python" - "$folder" << 'UNPACK'
import io, sys, tarfile
from pathlib import Path
import brotli

folder = Path(sys.argv[1])
packed = (folder / "package/bin/swiftshader.tar.br").read_bytes()
with tarfile.open(fileobj=io.BytesIO(brotli.decompress(packed))) as archive:
    archive.extractall(folder / "driver", filter="data")
UNPACK
export VK_ICD_FILENAMES="$folder/driver/vk_swiftshader_icd.json"
export LD_LIBRARY_PATH="$folder/driver"
export ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER=1
"$folder/env/bin/python" - << 'PROGRAM'
import numpy as np
import onnxruntime as ort
import onnxruntime_ep_webgpu
from onnx import TensorProto, helper

NAME = "WebGpuExecutionProvider"
ort.register_execution_provider_library(NAME, onnxruntime_ep_webgpu.get_library_path())
(device,) = [found for found in ort.get_ep_devices() if found.ep_name == NAME]
graph = helper.make_graph(
    [
        helper.make_node("MatMul", ["x", "x"], ["m"], name="product"),
        helper.make_node("Add", ["m", "x"], ["y"], name="sum"),
        helper.make_node("Det", ["x"], ["d"], name="determinant"),
    ],
    "three",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("rows", 8))],
    [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ("rows", 8)),
        helper.make_tensor_value_info("d", TensorProto.FLOAT, ()),
    ],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
options = ort.SessionOptions()
options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
options.add_provider_for_devices([device], {})
session = ort.InferenceSession(model.SerializeToString(), options, enable_fallback=0)
y, d = session.run(None, {"x": np.eye(8, dtype=np.float32)})
assert np.array_equal(y, 2 * np.eye(8)) and d == 1
listed = {
    part.ep_name: [node.name for node in part.get_nodes()]
    for part in session.get_provider_graph_assignment_info()
}
print(session.get_providers(), listed)
assert NAME in session.get_providers()
assert not set(listed.get(NAME, [])) & {"product", "sum"}, "the plug-in's nodes are listed now"
assert "determinant" in [name for names in listed.values() for name in names]
print("as seen")
PROGRAM
