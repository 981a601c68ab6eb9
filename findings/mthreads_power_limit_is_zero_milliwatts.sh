#!/usr/bin/env bash
# What: Moore Threads' Python bindings, which stand in for NVIDIA's by name, answer questions that
#   their library cannot answer with numbers in place of an error.
# Versions: mthreads-ml-py 2.4.3, Python 3.11.
# Expected: as NVML documents its functions of these names, an error "not supported" (the package
#   has NVMLError_NotSupported), and before nvmlInit an error "uninitialized".
# Seen: with no driver, no card and no nvmlInit, nvmlDeviceGetPowerManagementLimit gives 0,
#   nvmlSystemGetCudaDriverVersion gives 0, nvmlDeviceGetPersistenceMode 0, nvmlDeviceGetComputeMode
#   5 and nvmlDeviceGetFieldValues an empty list, whatever device they are given. A reader that
#   takes NVML's word for it stores a power limit of 0 W as measured: the headroom of a card, and
#   what a gap in its power may hide, come out as nothing.
# Fails where one of them raises, or gives another value.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env" 2> /dev/null || python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check mthreads-ml-py==2.4.3
"$folder/env/bin/python" - << 'PROGRAM'
import pymtml

assert issubclass(pymtml.NVMLError_NotSupported, Exception)
device = object()
seen = {
    "nvmlDeviceGetPowerManagementLimit": pymtml.nvmlDeviceGetPowerManagementLimit(device),
    "nvmlSystemGetCudaDriverVersion": pymtml.nvmlSystemGetCudaDriverVersion(),
    "nvmlDeviceGetPersistenceMode": pymtml.nvmlDeviceGetPersistenceMode(device),
    "nvmlDeviceGetComputeMode": pymtml.nvmlDeviceGetComputeMode(device),
    "nvmlDeviceGetFieldValues": pymtml.nvmlDeviceGetFieldValues(device, [1]),
}
for name, value in seen.items():
    print(f"{name}: {value!r}")
assert list(seen.values()) == [0, 0, 0, 5, []], seen
try:
    pymtml.nvmlInit()
except OSError as error:
    print(f"and nvmlInit: OSError, {str(error).splitlines()[0]}")
else:
    print("and nvmlInit: a driver answers here")
PROGRAM
