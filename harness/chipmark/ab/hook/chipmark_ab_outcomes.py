"""A pytest plugin of `chipmark ab`: says which tests failed, and why, as they fail.

pytest-benchmark drops a benchmark that raised and keeps the timings of one whose test failed
afterwards; its file shows neither. `sitecustomize` in this folder has pytest load it. Standard
library only, and nothing newer than the oldest Python that an arm may use.
"""

from __future__ import annotations

import json
import os
from typing import Any


def pytest_runtest_logreport(report: Any) -> None:
    """Append the test's id and the first line of its error to $CHIPMARK_AB_OUTCOMES."""
    target = os.environ.get("CHIPMARK_AB_OUTCOMES", "")
    if not target or not report.failed:
        return
    crash = getattr(report.longrepr, "reprcrash", None)
    message = str(getattr(crash, "message", None) or report.longrepr or "").strip()
    first = message.splitlines()[0] if message else "failed"
    line = json.dumps([report.nodeid, f"{report.when}: {first}"]) + "\n"
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(handle, line.encode("utf-8", "backslashreplace"))
    finally:
        os.close(handle)
