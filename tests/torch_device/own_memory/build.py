"""Compiles `device.cpp` against the torch that is here, once for each source and torch."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

SOURCE = Path(__file__).with_name("device.cpp")
_LIBRARIES = ("torch", "torch_cpu", "c10")


def compiler() -> str | None:
    """The C++ compiler, None where there is none."""
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")


def build(cache: Path) -> Path:
    """The library of the device; compiled where `cache` does not hold it yet.

    Raises subprocess.CalledProcessError with the compiler's words.
    """
    made_of = SOURCE.read_bytes() + f"{torch.__version__} {compiler()}".encode()
    library = cache / f"ownmem-{hashlib.sha256(made_of).hexdigest()[:16]}.so"
    if library.is_file():
        return library
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = library.with_suffix(f".{os.getpid()}")
    folders = [part for path in include_paths() for part in ("-isystem", path)]
    links = [part for path in library_paths() for part in (f"-L{path}", f"-Wl,-rpath,{path}")]
    links += [f"-l{name}" for name in _LIBRARIES]
    abi = int(torch._C._GLIBCXX_USE_CXX11_ABI)
    how = ["-std=c++20", "-O1", "-fPIC", "-shared", f"-D_GLIBCXX_USE_CXX11_ABI={abi}"]
    command = [str(compiler()), *how, *folders, str(SOURCE), "-o", str(unfinished), *links]
    subprocess.run(command, check=True, capture_output=True, text=True)
    os.replace(unfinished, library)
    return library
