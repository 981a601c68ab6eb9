"""The device behind `triton:DEVICE`, or what is missing for it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chipmark.backends.torch_device import devices
from chipmark.engine.machine import Candidate, Machine
from chipmark.errors import MissingBackendError, UnknownNameError, UsageError
from chipmark_models.precision import PLAIN, PRECISIONS

INTERPRETER = "interpreter"
"""Triton's interpreter on the CPU: for tests of the whole path, never ranked."""

LEAST_CAPABILITY = (8, 0)
"""The kernels need bf16 matrix units and asynchronous copies: Ampere and newer."""

VERIFIED: tuple[str, ...] = ()
"""Names of devices on which `chipmark kernels run` passed from the first to the last."""

OPTIONS = ("ops", "kernel_check", "graphs", "prefill_graphs", "design")
"""Options of `LoadSpec.options`. ops: implementation by operation. design: of the decode step, by
default the fastest of those that are right here. kernel_check: whether kernels
are checked against their references at load, by default where they are compiled. graphs: whether
launches are captured, by default so. prefill_graphs: whether those of prefill are too, by default
where graphs are real."""

_SWITCHES = ("kernel_check", "graphs", "prefill_graphs")

_NOT_INTERPRETED = ("bf16", "fp8")
"""The interpreter multiplies bf16 and rounds e4m3 wrongly, so it would fail for its own faults."""


def precisions(device: str) -> tuple[str, ...]:
    """What `load` takes on a device of that name."""
    if device == INTERPRETER:
        return tuple(name for name in PRECISIONS if name not in _NOT_INTERPRETED)
    return tuple(PRECISIONS)


def candidate(machine: Machine) -> Candidate:
    """`triton:cuda`, with what is missing for it."""
    order = 40
    for package in ("torch", "triton"):
        if not machine.has_module(package):
            missing = f"{package} is not installed"
            return Candidate("cuda", missing, "pip install 'chipmark[triton]'", order)
    if not machine.has_device("cuda"):
        return Candidate("cuda", "no card that torch calls cuda is here", order=order)
    found = machine.cuda_capability() or LEAST_CAPABILITY
    if found < LEAST_CAPABILITY:
        least = ".".join(map(str, LEAST_CAPABILITY))
        missing = f"compute capability {found[0]}.{found[1]}; the kernels need {least} or newer"
        return Candidate("cuda", missing, "torch:cuda measures this card without them", order)
    if lacking := missing_compiler():
        return Candidate("cuda", *lacking, order)
    return Candidate("cuda", order=order)


def check_name(name: str) -> None:
    """Raise UnknownNameError for what is neither "cuda", "cuda:N" nor "interpreter"."""
    if not (name == INTERPRETER or re.fullmatch(r"cuda(:[0-9]+)?", name)):
        raise UnknownNameError("device of triton", name, ["cuda", "cuda:0", INTERPRETER])


def check_options(options: Mapping[str, Any]) -> None:
    """Raise UnknownNameError for an option, an operation, an implementation or a design that does
    not exist, UsageError for a value of another type."""
    for option in options:
        if option not in OPTIONS:
            raise UnknownNameError("option of triton", option, OPTIONS)
    for switch in _SWITCHES:
        if not isinstance(options.get(switch, True), bool):
            text = f"triton: the option {switch} is {options[switch]!r}, not true or false"
            raise UsageError(text, f"as --option triton:{switch}=true")
    asked, design = options.get("ops") or {}, options.get("design")
    if not isinstance(asked, Mapping) or not all(isinstance(name, str) for name in asked.values()):
        raise UsageError(
            f"triton: the option ops is {asked!r}, not a table of implementations by operation",
            "as --option triton:ops.OPERATION=NAME",
        )
    # Without torch there is no decoder to name operations of; `open_device` says what is missing.
    if (asked or design is not None) and importlib.util.find_spec("torch") is not None:
        from chipmark_models.decoder.paged.designs import DESIGNS
        from chipmark_models.decoder.paged.ops import TABLE

        TABLE.resolve(asked, "triton")
        if design is not None and str(design) not in DESIGNS:  # a list or a table may be given
            raise UnknownNameError("design of triton", str(design), tuple(DESIGNS))


def open_device(name: str) -> Any:
    """The `torch.device` for "cuda", "cuda:N" or "interpreter".

    Raises UnknownNameError for another name, MissingBackendError (what to install, or which
    backend takes this card) where torch, Triton, the device or its capability is missing, and
    UsageError where the kernels of this process were imported to be compiled already.
    """
    check_name(name)
    for package in ("torch", "triton"):
        if importlib.util.find_spec(package) is None:
            raise MissingBackendError(
                f"triton:{name} needs the package {package}, which is not installed",
                "pip install 'chipmark[triton]', or the vendor's own build of it",
            )
    if name == INTERPRETER:
        return _interpreter()
    device = devices.open_device(name)
    _check_capability(device)
    if missing := missing_compiler():
        raise MissingBackendError(f"triton:{name}: {missing[0]}", missing[1])
    return device


def missing_compiler() -> tuple[str, str] | None:
    """What Triton lacks to compile the launcher of a kernel, and how to get it; None where it has
    all. It needs a C compiler and Python's headers at the first launch of each kernel."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return (
            "Triton compiles a launcher for each kernel, and there is no C compiler here",
            "install gcc, or name one: CC=/path/to/cc",
        )
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return (
            f"Triton compiles a launcher for each kernel, and {header} is missing",
            f"install the headers of this Python (python{version}-dev, python{version}-devel)",
        )
    return None


def _interpreter() -> Any:
    import torch

    # Read when a kernel is decorated, so before the kernels are imported.
    os.environ["TRITON_INTERPRET"] = "1"
    loaded = sys.modules.get("chipmark_kernels.rmsnorm")
    if loaded is not None and type(loaded._rmsnorm_kernel).__name__ == "JITFunction":
        raise UsageError(
            "the kernels were imported in this process to be compiled",
            "set TRITON_INTERPRET=1 before, or use a fresh process as `chipmark run` does",
        )
    return torch.device("cpu")


def _check_capability(device: Any) -> None:
    import torch

    if torch.version.hip is not None:
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        found, least = (".".join(map(str, pair)) for pair in (capability, LEAST_CAPABILITY))
        raise MissingBackendError(
            f"{devices.device_name(device)} has compute capability {found}; the kernels of "
            f"triton:cuda need {least} or newer",
            f"torch:{device} measures this card without them",
        )


def check_precision(name: str, device: Any, precision: str) -> None:
    """Raise UsageError where the device does not compute the precision."""
    able = precisions(name)
    if precision == "fp8" and device.type == "cuda":
        from chipmark_kernels.device import facts_of

        if not facts_of(device).fp8_e4m3:
            able = tuple(p for p in able if p != "fp8")
    if precision not in able:
        raise UsageError(
            f"triton:{name} does not compute {precision}",
            f"it computes {', '.join(able)}; a precision is never substituted",
        )


def activation_of(name: str, precision: str) -> str:
    """What products take: of an interpreted quantised precision fp32, else the precision's own."""
    if name == INTERPRETER and precision not in PLAIN:
        return "fp32"
    return PRECISIONS[precision].activation


def description(device: Any) -> Mapping[str, Any]:
    """Versions and names of what computes: JSON-safe."""
    import torch
    import triton

    return {
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "device": devices.device_name(device),
        "interpreted": device.type == "cpu",
        "hardware": devices.hardware(device),
    }
