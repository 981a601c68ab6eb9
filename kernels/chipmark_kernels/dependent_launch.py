"""Programmatic dependent launch: a kernel that begins while the one before it still works.

A kernel whose constant `PDL` is true is launched by `launch.launch` as soon as every block of the
launch before has called `gdc_launch_dependents` or ended. It holds to this:

- Every block calls `gdc_wait` before its first read of an earlier result, before its first store
  and before any early return. `gdc_wait` returns when the launch before has ended as a whole, its
  stores seen; as that one has waited too, so has everything before it, and a buffer may be used
  again. A kernel that let one block end without waiting would let its follower overtake.
- `gdc_launch_dependents` stands right behind `gdc_wait`, so that a launch never begins before all
  but the one before it have ended. What is read ahead of `gdc_wait` is therefore something that
  the launch before does not write: weights, gains, and the lengths and pages that were uploaded.

A launch of another kind (cuBLAS, torch, a copy) begins when the launch before has ended; so the
two may be mixed in any order. In a captured graph the dependence is a programmatic edge; the first
node of a graph and other kinds of launches have plain edges.

NVIDIA's from compute capability 9.0, by Triton from 3.4; the interpreter does not know it.
"""

from __future__ import annotations

from chipmark_kernels.device import DeviceFacts

try:
    from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
except ImportError:  # Triton before 3.4: no kernel is compiled with PDL there
    gdc_launch_dependents = gdc_wait = None

__all__ = ["gdc_launch_dependents", "gdc_wait", "launches_early"]


def launches_early(device: DeviceFacts) -> bool:
    """Whether kernels can be launched so on a device by the Triton that is installed."""
    return gdc_wait is not None and device.vendor == "cuda" and int(device.arch) >= 90
