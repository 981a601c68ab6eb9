from __future__ import annotations

import pytest

from chipmark.backends.probe_size import is_out_of_memory, probe_bytes

GB = 10**9


@pytest.mark.parametrize(
    ("wanted", "free", "cache", "size"),
    [
        (10 * GB, 100 * GB, 50_000_000, 10 * GB),
        (45 * GB, 20 * GB, 50_000_000, 16 * GB),  # never more than is safely free
        (45 * GB, 200_000_000, 50_000_000, None),  # less than four caches: no roof of the memory
        (45 * GB, 0, None, None),
        (100_000_000, 100 * GB, 50_000_000, 100_000_000),  # small work is MBU's `in_cache`
        (10 * GB, None, None, 10 * GB),
    ],
)
def test_probe_takes_what_is_safely_free(
    wanted: int, free: int | None, cache: int | None, size: int | None
) -> None:
    assert probe_bytes(wanted, free, cache, 0.8) == size


def test_lack_of_memory_is_told_from_other_faults() -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(OutOfMemoryError("NPU"))
    assert is_out_of_memory(RuntimeError("MUSA error: Out of memory"))
    assert not is_out_of_memory(RuntimeError("illegal address"))
    assert not is_out_of_memory(ValueError("out of memory"))
