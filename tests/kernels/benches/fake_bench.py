"""Benches that a measuring process makes in tests: one that misbehaves, one of small cases."""

from __future__ import annotations

import os
import signal
import time


class Misbehaving:
    """A step for each word of the request: ok, raise, print, hang, die, lose."""

    def __init__(self, start: str = "ok") -> None:
        if start == "raise":
            raise RuntimeError("no driver")
        if start == "die":
            os._exit(9)
        self._lost = False

    def identity(self) -> dict[str, object]:
        return {"device": "fake", "pid": os.getpid()}

    def usable(self) -> bool:
        return not self._lost

    def steps(self, request):
        for i, word in enumerate(request["words"]):
            yield f"{i} {word}", lambda word=word: self._do(word)

    def _do(self, word: str) -> dict[str, object]:
        if word == "raise":
            raise ValueError("does not compile")
        if word == "print":
            print("a compiler speaks")
        if word == "hang":
            time.sleep(600)
        if word == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        if word == "lose":
            self._lost = True
            raise RuntimeError("an illegal memory access was encountered")
        return {"pid": os.getpid()}


class FakeDevice:
    """Plays the calls and says that each took a millisecond."""

    l2_bytes = 1000

    def __init__(self) -> None:
        self.played = 0

    def capture(self, calls):
        def play() -> float:
            self.played += 1
            for call in calls:
                call()
            return len(calls) * 1e-3

        return play


def small_bench():
    """The small cases in fp16 on the CPU; the clock is a fake one."""
    from functools import partial

    import torch

    from chipmark.kernel_bench.bench import KernelBench
    from chipmark.kernel_bench.cases import cases
    from chipmark.kernel_bench.roofs import roof_steps

    return KernelBench(
        cases(small=True), torch.device("cpu"), FakeDevice(), torch.float16,
        roofs=partial(roof_steps, n_bytes=64, size=16),
    )  # fmt: skip
