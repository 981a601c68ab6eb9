"""Works that a measuring process imports in tests, and benches for it without a device."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from chipmark.kernel_bench.stages.bench import StageBench

LOST = []


class Fragile(StageBench):
    """Loses its device where a part says so."""

    def identity(self):
        return {"device": "fake card", "capability": "9.0", "torch": "2", "triton": "3",
                "uuid": "card-1", "pid": os.getpid()}  # fmt: skip

    def usable(self) -> bool:
        return not LOST


class Unable:
    """Cannot be made."""

    def __init__(self) -> None:
        raise RuntimeError("no driver")


def words(asked):
    """A part a word of the parameters: what it does is the word after the last blank."""
    for word in asked.parameters["words"]:
        if word not in asked.have:
            yield word, lambda word=word: _do(word.rpartition(" ")[2], asked)
    for name in sorted(asked.broke):
        yield f"after {name}", lambda: {"looked": True}


def _do(word, asked):
    if word == "raise":
        raise ValueError("does not compile")
    if word == "hang":
        time.sleep(600)
    if word == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == "lose":
        LOST.append(True)
        raise RuntimeError("an illegal memory access was encountered")
    if word == "nan":
        return {"rate": float("nan"), "rows": [1.0, float("inf")], "main": "nan"}
    if word == "object":
        return {"what": object()}
    if word == "file":
        Path(asked.folder, "words.bin").write_bytes(b"1" * 100)
    if word == "variable":
        return {"value": os.environ.get("CHIPMARK_FAKE", "")}
    if word == "nothing":
        return None
    return {"pid": os.getpid(), "main": f"{word} it is"}


def breaks_between(asked):
    """Fails before its first part."""
    raise KeyError("parameters")
    yield "never", dict
