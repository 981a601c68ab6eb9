"""`chipmark kernels run` without a device, where one case hangs: `hanging_call.py OPTIONS`."""

from __future__ import annotations

import os
import sys
import time

import torch
from fake_bench import Misbehaving

from chipmark.kernel_bench import command

HANGS = ("qwen3-8b rows=1 n=4096 k=4096", "qwen3-8b new=512 context=16384")


class Hanging(Misbehaving):
    """Every case passes at once and takes a millisecond, but for one a kernel."""

    def identity(self):
        return {"device": "fake"}

    def steps(self, request):
        if request["do"] == "measure":
            hangs = request["case"][1] in HANGS
            yield "parity", (lambda: time.sleep(600)) if hangs else self._passes
            yield "ours", lambda: {"median_s": 1e-3, "from_s": 0.0, "to_s": 0.0}

    def _passes(self):
        return {"ok": True, "results": [], "pid": os.getpid()}


if __name__ == "__main__":
    torch.cuda.is_available = lambda: True
    command.BENCH = "hanging_call:Hanging"
    sys.exit(command.main(sys.argv[1:]))
