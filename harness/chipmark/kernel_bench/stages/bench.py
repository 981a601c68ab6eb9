"""The measuring process of the stages: it imports a step's work and makes its parts."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from chipmark.kernel_bench.stages.contract import Asked, Work
from chipmark.kernel_bench.stages.document import as_json
from chipmark.kernel_bench.worker import Step

BETWEEN = "start"
"""Name of the part that is charged with what fails outside of every other part: an import, or what
a work does between its parts."""


class StageBench:
    """Any work, without a device of its own."""

    def identity(self) -> Mapping[str, Any]:
        """Nothing that figures must agree in."""
        return {}

    def usable(self) -> bool:
        """Always, where there is no device to lose."""
        return True

    def steps(self, request: Mapping[str, Any]) -> Iterator[Step]:
        """The parts of a step: request has `work`, `parameters`, `have`, `broke`, `folder` and
        `until_s`."""
        asked = Asked(
            request["parameters"], frozenset(request["have"]), Path(request["folder"]),
            request["until_s"], frozenset(request["broke"]),
        )  # fmt: skip
        try:
            module, _, name = request["work"].partition(":")
            work: Work = getattr(import_module(module), name)
            for part, make in work(asked):
                if part not in asked.have:
                    yield part, _json_of(make)
        except Exception as error:  # whatever it is costs this step, not the process
            yield BETWEEN, _raising(error)


class CudaStageBench(StageBench):
    """On the current CUDA device."""

    def __init__(self) -> None:
        import torch

        torch.cuda.synchronize()  # the context is made here, or the reason why there is none told

    def identity(self) -> Mapping[str, Any]:
        """The card and its driver, torch and Triton."""
        import torch
        import triton

        from chipmark.kernel_bench.stages.card import asked_of_card

        properties: Any = torch.cuda.get_device_properties()
        uuid = str(getattr(properties, "uuid", ""))
        return {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "uuid": uuid,
            "driver": asked_of_card(uuid).get("driver_version", ""),
            "torch": torch.__version__,
            "triton": triton.__version__,
        }

    def usable(self) -> bool:
        """Whether the context survived the last part."""
        import torch

        try:
            torch.cuda.synchronize()
        except RuntimeError:  # sticky: every later call fails too, and the process is replaced
            return False
        return True

    def steps(self, request: Mapping[str, Any]) -> Iterator[Step]:
        """As on any device; memory of the step before goes back first."""
        import torch

        gc.collect()  # graphs and what they hold can be in cycles
        torch.cuda.empty_cache()
        yield from super().steps(request)


def _json_of(make: Callable[[], Mapping[str, Any] | None]) -> Callable[[], Any]:
    """In this process, so that what is not JSON is an error of its part alone."""

    def run() -> Any:
        figures = make()
        return None if figures is None else as_json(figures)

    return run


def _raising(error: Exception) -> Callable[[], Any]:
    def run() -> Any:
        raise error

    return run
