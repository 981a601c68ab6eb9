"""Reading thousands of records for one answer: what is kept of each, and what that costs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def many_objects() -> Iterator[None]:
    """Inside, Python does not look for cycles of objects that are no longer used.

    It would look through everything that is held again and again, for a third of the time, and
    find nothing: models and rows have no cycles.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
