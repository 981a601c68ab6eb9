"""Which providers of ONNX Runtime are here, looked up in a process of its own.

A plug-in's library runs code when it is registered; one that crashes or hangs costs its own line
of the answer. `python -m chipmark.backends.ort.provider_scan NAME...` prints a JSON line for each.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chipmark.engine.machine import Candidate, Machine

_LIMIT_S = 60.0

RunModule = Callable[..., subprocess.CompletedProcess[str]]
"""`Machine.run_module`."""


@dataclass(frozen=True, slots=True)
class ProviderHere:
    """`text` names the device of a provider that is here, or says what is missing."""

    name: str
    here: bool
    text: str
    remedy: str = ""


def candidates(machine: Machine) -> Sequence[Candidate]:
    """`cpu` and `openvino`, with what is missing for each."""
    missing = "" if machine.has_module("onnxruntime") else "onnxruntime is not installed"
    cpu = Candidate("cpu", missing, "pip install 'chipmark[ort]'" if missing else "", 20)
    if not missing and not machine.has_module("onnxruntime_ep_openvino"):
        missing = "onnxruntime-ep-openvino is not installed"
    if missing:
        return cpu, Candidate("openvino", missing, "pip install 'chipmark[openvino]'", 30)
    # Installed is not enough: the plug-in lists only processors that it supports.
    (found,) = scan(["openvino"], machine.run_module)
    text, remedy = ("", "") if found.here else (found.text, found.remedy)
    return cpu, Candidate("openvino", text, remedy, 30)


def scan(names: Sequence[str], run_module: RunModule) -> list[ProviderHere]:
    """Look the providers up in order; after a crash the rest is looked up in another process."""
    found: list[ProviderHere] = []
    left = list(names)
    while left:
        lines, how = _attempt(left, run_module)
        found += lines
        left = left[len(lines) :]
        if left:
            found.append(ProviderHere(left[0], False, f"looking for it {how}"))
            left = left[1:]
    return found


def _attempt(names: list[str], run_module: RunModule) -> tuple[list[ProviderHere], str]:
    try:
        done = run_module("chipmark.backends.ort.provider_scan", *names, limit_s=_LIMIT_S)
        output, how = done.stdout, f"ended with exit code {done.returncode}"
    except subprocess.TimeoutExpired as error:
        raw = error.stdout or b""
        output = raw.decode(errors="replace") if isinstance(raw, bytes) else raw
        how = f"took over {_LIMIT_S:.0f} s"
    marked = [line for line in output.splitlines() if line.startswith(_MARK)]
    return [ProviderHere(**json.loads(line.removeprefix(_MARK))) for line in marked], how


_MARK = "chipmark-provider "
"""Providers print what they like to stdout; only lines with this mark are answers."""


def main(names: Sequence[str]) -> None:
    """Print a line for each provider."""
    from chipmark.backends.ort.providers import find_provider, locate
    from chipmark.errors import ChipmarkError

    for name in names:
        try:
            provider = find_provider(name)
            located = locate(provider)
        except ChipmarkError as error:
            answer = {"here": False, "text": error.message, "remedy": error.hint}
        except Exception as error:  # a provider's package may raise anything as it is imported
            answer = {"here": False, "text": f"{type(error).__name__}: {error}", "remedy": ""}
        else:
            flag = "" if provider.verified else "; unverified on hardware"
            answer = {"here": True, "text": f"{located.device_name}{flag}"}
        print(_MARK + json.dumps({"name": name, **answer}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
