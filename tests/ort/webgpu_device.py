"""A device with memory of its own on any x86-64 Linux: the WebGPU plug-in on SwiftShader.

`python tests/ort/webgpu_device.py` makes it ready and prints the environment that a process needs.
All of it lies in a folder of the cache: the plug-in's package, and the software Vulkan driver out
of a package of npm. The project's own environment is not changed.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory

from chipmark_models.cache import cache_path

_PLUGIN = (
    "onnxruntime-ep-webgpu==0.4.0"
    " --hash=sha256:5d8c961eda91a88961cad1fb7621f389f006b18497d6ea9ecf96f729f066cbfb\n"
)
_BROTLI = "brotli==1.2.1"
"""Unpacks the driver, whose checksum is compared first; it is in no process that is measured."""
_DRIVER_URL = "https://registry.npmjs.org/@sparticuz/chromium/-/chromium-131.0.1.tgz"
_DRIVER_FILE = "package/bin/swiftshader.tar.br"
_DRIVER_SHA256 = "5fb57a5c6c389d62cc23608d9d3ea73028747b9907ac9b4c6edf82b4eb62d05b"
_PARTS = ("libvk_swiftshader.so", "libvulkan.so.1", "vk_swiftshader_icd.json")
_FOLDER = "webgpu-0.4.0-swiftshader-131.0.1"
_UNPACK = """
import brotli, sys
sys.stdout.buffer.write(brotli.decompress(sys.stdin.buffer.read()))
"""


class NotHereError(Exception):
    """Why the device cannot be had on this machine."""


def webgpu_environment() -> dict[str, str]:
    """The variables of a process that is to see the device, made ready at the first call.

    Raises NotHereError on another system than x86-64 Linux, and where a package cannot be had.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise NotHereError(f"the driver is for x86-64 Linux, not {platform.platform()}")
    folder = cache_path("tests", _FOLDER)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as made:
            _make(Path(made))
            try:
                Path(made).rename(folder)
            except OSError:  # another process was first
                if not folder.is_dir():
                    raise
            else:
                Path(made).mkdir()  # what the context removes
    path = [str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "PYTHONPATH": os.pathsep.join(path),
        "VK_ICD_FILENAMES": str(folder / "driver" / _PARTS[2]),
        "LD_LIBRARY_PATH": str(folder / "driver"),
        "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1",
    }


def _make(folder: Path) -> None:
    needed = folder / "requirements.txt"
    needed.write_text(_PLUGIN)
    _pip(folder / "site", "--require-hashes", "-r", str(needed))
    packed = _download()
    with TemporaryDirectory() as tools:
        _pip(Path(tools), _BROTLI)
        unpacked = subprocess.run(
            [sys.executable, "-c", _UNPACK],
            input=packed,
            capture_output=True,
            check=True,
            env=os.environ | {"PYTHONPATH": tools},
        ).stdout
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as archive:
        for part in _PARTS:
            archive.extract(part, folder / "driver", filter="data")


def _pip(target: Path, *what: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target)]
    done = subprocess.run([*command, *what], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise NotHereError(f"{what[-1]}: {(lines or ['pip failed'])[0]}")


def _download() -> bytes:
    try:
        with (
            urllib.request.urlopen(_DRIVER_URL, timeout=60) as answer,
            tarfile.open(fileobj=answer, mode="r|gz") as archive,
        ):
            for member in archive:
                if member.name == _DRIVER_FILE:
                    file = archive.extractfile(member)
                    packed = b"" if file is None else file.read()
                    break
            else:
                raise NotHereError(f"{_DRIVER_URL} holds no {_DRIVER_FILE}")
    except (urllib.error.URLError, TimeoutError, ConnectionError, tarfile.TarError) as error:
        raise NotHereError(f"{_DRIVER_URL}: {error}") from error
    if hashlib.sha256(packed).hexdigest() != _DRIVER_SHA256:
        raise NotHereError(f"{_DRIVER_FILE} of {_DRIVER_URL} has another checksum")
    return packed


if __name__ == "__main__":
    for variable, value in webgpu_environment().items():
        print(f"{variable}={value}")
