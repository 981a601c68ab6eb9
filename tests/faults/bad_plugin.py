"""A backend that misbehaves: `bad:FAULT-STEP`, written as a plug-in by the tests of this folder.

It is the simulated device under another kind, so that nothing of chipmark knows its answers. STEP
is where the fault happens: load, describe, parity, probe, run, synchronize or close.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import chipmark.backends.sim.backend as sim

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(300)"]
LONG_MESSAGE = "\x1b[31mred\x1b[0m\nand\u202eback " + "x" * 100_000
WRONG = {
    "load": b'{"ok": {"caps": 3}}',
    "parity": b'{"ok": {"rows": "many", "peak_rss_bytes": []}}',
    "probe": b'{"ok": {"read": "fast"}}',
    "run": b'{"ok": {"turns": null}}',
    "close": b'{"ok": 3}',
}


def answer(line: bytes) -> None:
    """Write to the pipe of answers, past the child's own loop."""
    os.write(int(sys.argv[sys.argv.index("--fd-out") + 1]), line)


def daemon() -> None:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(3, 256)
            os.execv(SLEEP[0], SLEEP)
        os._exit(0)


class Backend(sim.SimBackend):
    def __init__(self, device: str) -> None:
        self.fault, _, self.step = device.partition("-")
        self.probed = False
        self.happened = False
        super().__init__("golden")

    def load(self, spec: Any) -> Any:
        self.at("load")
        loaded = super().load(replace(spec, model={"vocab_size": 512}))
        loaded = replace(loaded, device="bad", clock="host")
        if self.fault == "nan" and self.step == "load":
            return replace(loaded, load_s=float("nan"))
        if self.fault == "large" and self.step == "load":
            return replace(loaded, weight_bytes=10**400)
        return loaded

    def describe(self) -> Any:
        self.at("describe")
        return super().describe()

    def submit(self, step: Any) -> None:
        self.at("run" if self.probed else "parity")
        super().submit(step)

    def synchronize(self) -> None:
        self.at("synchronize")
        super().synchronize()

    def probe_matmul(self, precision: str) -> Any:
        self.probed = True
        self.at("probe")
        return super().probe_matmul(precision)

    def power_samples(self) -> Any:
        return None

    def close(self) -> None:
        self.at("close")
        super().close()

    def at(self, step: str) -> None:
        if step == self.step and not self.happened:
            self.happened = True
            getattr(self, self.fault, lambda: None)()

    def hang(self) -> None:
        time.sleep(300)

    def flood(self) -> None:
        while True:
            os.write(1, b"x" * 65_536 + b"\n")

    def exit0(self) -> None:
        os._exit(0)

    def exit3(self) -> None:
        os._exit(3)

    def segv(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def abort(self) -> None:
        os.abort()

    def fork(self) -> None:
        subprocess.Popen(SLEEP)

    def session(self) -> None:
        subprocess.Popen(SLEEP, start_new_session=True)

    def daemon(self) -> None:
        daemon()

    def daemonhang(self) -> None:
        daemon()
        time.sleep(300)

    def closepipe(self) -> None:
        os.closerange(3, 256)
        time.sleep(300)

    def stop(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def stopgroup(self) -> None:
        os.killpg(0, signal.SIGSTOP)

    def killgroup(self) -> None:
        os.killpg(0, signal.SIGKILL)

    def garbage(self) -> None:
        answer(b"\x1b[31mno JSON at all\n")

    def endless(self) -> None:
        while True:
            answer(b"y" * 65_536)

    def marks(self) -> None:
        while True:
            answer(b'{"progress": 3}\n{"mark": {}}\n'.replace(b"{}", b'"other"') * 1000)

    def deep(self) -> None:
        answer(b"[" * 100_000 + b"\n")

    def utf8(self) -> None:
        answer(b'{"ok": "\xff\xfe\x80"}\n')

    def huge(self) -> None:
        answer(b'{"ok": {"turns": 1' + b"0" * 400 + b"}}\n")

    def digits(self) -> None:
        answer(b'{"ok": {"turns": 1' + b"0" * 10_000 + b"}}\n")

    def wrong(self) -> None:
        answer(WRONG[self.step] + b"\n")

    def interrupt(self) -> None:
        raise KeyboardInterrupt

    def systemexit(self) -> None:
        raise SystemExit(0)

    def message(self) -> None:
        raise RuntimeError(LONG_MESSAGE)
