"""How large a buffer a probe of the read roof may take, and when a probe failed for memory."""

from __future__ import annotations

DEVICE_SHARE = 0.8
"""Of a device's free memory: its allocator cannot hand out all of it in one piece."""

HOST_SHARE = 0.5
"""Of the host's available memory: other processes take from it too, and the kernel ends the
largest one where it runs out."""

CACHES = 4
"""A working set of fewer caches than this is partly read from the cache."""


def probe_bytes(wanted: int, free: int | None, cache: int | None, share: float) -> int | None:
    """Bytes of the probe's buffer: `wanted`, or the largest safe part of `free`.

    free: bytes free on the device, None where it does not say (then `wanted` is tried). cache: its
    last-level cache. None where the part that is safe is too small for a roof of the memory.
    """
    if free is None:
        return wanted
    size = min(wanted, int(free * share))
    if size < wanted and size < CACHES * (cache or 0):
        return None
    return size if size > 0 else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a call failed for lack of memory; vendors' plug-ins of torch each raise their own
    class, and some a RuntimeError with only a text."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
