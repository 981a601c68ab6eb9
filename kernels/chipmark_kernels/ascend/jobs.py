"""Every launch of the presets on an Ascend chip, as plain data for another interpreter."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from chipmark_kernels.compile_ahead import Specialisation, specialise
from chipmark_kernels.device import TARGETS, DeviceFacts
from chipmark_kernels.manifest import Entry, Family, ModelShape, entries

_TOLD_BY = TARGETS["sm_80"]
"""Triton here has no backend for Ascend; types and alignment are the same for every device."""


@dataclass(slots=True)
class AscendJob:
    """One specialisation to compile, and the launches of the presets that need it.

    cache_key: Triton's hash of the kernel's source and of all that it calls. programs: of the
    largest grid. launches: how many of the manifest's launches are this one.
    """

    family: str
    dtype: str
    example: str
    tile: str
    module: str
    kernel: str
    cache_key: str
    spec: Specialisation
    programs: int = 0
    launches: int = field(default=0)

    def request(self) -> dict[str, Any]:
        """What `compile_one` reads, in types of JSON."""
        constants = dict(self.spec.constants)
        return {
            "module": self.module,
            "kernel": self.kernel,
            "signature": {n: t for n, t in self.spec.signature if n not in constants},
            "constants": constants,
            "aligned": list(self.spec.aligned),
            **dict(self.spec.options),
        }


def ascend_jobs(
    device: DeviceFacts,
    families: Sequence[Family],
    shapes: Sequence[ModelShape],
    first_only: bool = False,
) -> list[AscendJob]:
    """Each different specialisation of the launches on `device`, or the first of each kernel.

    The chip multiplies no float8, so dispatch would leave those kernels out; they are recorded all
    the same, so that the row says what the compiler makes of them.
    """
    portable = tuple(family for family in families if not family.hopper)
    recorded_for = dataclasses.replace(device, fp8_e4m3=True)
    found: dict[object, AscendJob] = {}
    for entry in entries(recorded_for, portable, tuple(shapes)):
        spec = specialise(entry.launch, _TOLD_BY)
        one_row = entry.launch.constants.get("BLOCK_M") == 1
        name = entry.launch.kernel.__name__
        key = (entry.family, name, one_row) if first_only else (name, spec)
        if key not in found:
            found[key] = _job(entry, spec)
        job = found[key]
        if job.spec == spec:
            width, height, depth = (*entry.launch.grid, 1, 1)[:3]
            job.programs = max(job.programs, width * height * depth)
            job.launches += 1
    return list(found.values())


def _job(entry: Entry, spec: Specialisation) -> AscendJob:
    kernel = entry.launch.kernel
    sizes = dataclasses.asdict(entry.launch.tile)
    shown = {n: size for n, size in sizes.items() if size and not n.startswith("num_")}
    return AscendJob(
        entry.family,
        entry.dtype,
        entry.example,
        " ".join(f"{n}={size}" for n, size in shown.items()),
        kernel.fn.__module__,
        kernel.__name__,
        kernel.cache_key,
        spec,
    )
