"""The oracle of one model in a process of its own, as its parent sees it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chipmark.cell.contexts import Keys
from chipmark.cell.logits import LogitRows, parse_logits
from chipmark.cell.parent import ChildProcess
from chipmark.errors import CellFailedError
from chipmark.workload.trace import Trace, save_trace
from chipmark_models.foreign_arrays import parse_npz
from chipmark_models.quality_text import TokenIds, save_numbered

if TYPE_CHECKING:
    from chipmark.cell.reference import Weights

ORACLE_LIMIT_S = 3600.0

TokenNll = NDArray[np.float64]

_RATE_TOKENS = 128
MIN_FLOPS_S = 5e9
"""What one core of any CPU does in fp32."""


class OracleProcess:
    """The oracle of one model in a process of its own, started when it is first asked.

    It sleeps while nothing is asked of it. `flops_s` is the best rate at which it has computed so
    far (None before): what is yet to come is estimated by it. Short contexts are the slowest, as
    all weights are read for a few tokens.
    """

    def __init__(
        self,
        weights: Weights,
        folder: Path,
        device: str = "cpu",
        limit_s: float = ORACLE_LIMIT_S,
    ) -> None:
        self.weights = weights
        self._folder, self._device, self._limit_s = folder, device, limit_s
        self._child: ChildProcess | None = None
        self._asked = 0
        self.flops_s: float | None = None
        self.agreed: float | None = None
        self.agreed_tokens = 0

    @property
    def accelerated(self) -> bool:
        """Whether it computes on another device than the CPU."""
        return self._device != "cpu"

    @property
    def provenance(self) -> dict[str, Any]:
        """Fields of `ReferenceId` on where it computes, none for the CPU."""
        if not self.accelerated:
            return {}
        return {
            "device": self._device,
            "device_rms_rel": self.agreed,
            "device_tokens": self.agreed_tokens,
        }

    @property
    def agreement(self) -> str:
        """What a row says of an accelerator that agreed."""
        return (
            f"oracle on {self._device} in plain torch fp32 without TF32 (unverified on hardware), "
            f"rms {self.agreed or 0.0:.1e} from the CPU's over {self.agreed_tokens:,} tokens"
        )

    def compute(
        self, trace: Trace, keys: Keys, rounded: str = "", limit_s: float | None = None
    ) -> tuple[LogitRows, bytes]:
        """Logits at these places, and the bytes of their file. CellFailedError where the process
        fails or needs longer; it is then started anew when it is asked again. limit_s: of this
        computation, where it is shorter than that of each."""
        limit_s = self._limit_s if limit_s is None else min(limit_s, self._limit_s)
        try:
            return self._compute(self._started(trace), trace, keys, rounded, limit_s)
        except CellFailedError:
            self.close()
            raise

    def token_nll(self, sequences: Sequence[TokenIds], rounded: str = "") -> list[TokenNll]:
        """`Oracle.token_nll` of these sequences. CellFailedError as of `compute`."""
        try:
            child = self._started(None)
            folder = self._next_folder()
            save_numbered(folder / "tokens.npz", sequences)
            out, tokens = folder / "nll.npz", str(folder / "tokens.npz")
            answer = child.ask("score", self._limit_s, tokens=tokens, rounded=rounded, out=str(out))
            child.park()
            arrays = parse_npz(_content(out, answer), out)
            return [arrays[str(i)] for i in range(len(sequences))]
        except CellFailedError:
            self.close()
            raise

    def agree(self, trace: Trace) -> float:
        """Start on this trace; how far the device's logits are from the CPU's, rms-relative, 0 on
        the CPU itself. CellFailedError where there is no such device or it is too far."""
        try:
            self._started(trace)
        except CellFailedError:
            self.close()
            raise
        return self.agreed or 0.0

    def rate(self, trace: Trace) -> float:
        """FLOP/s at which the oracle computes: the best so far, else that of a short context; never
        under MIN_FLOPS_S, as a small model's short context takes no time but overhead."""
        if self.flops_s is None:
            session = trace.sessions[0]
            last = min(_RATE_TOKENS, session.turns[0].context_tokens) - 1
            self.compute(trace, np.array([(session.id, 0, last)], np.int32))
        assert self.flops_s is not None
        return max(self.flops_s, MIN_FLOPS_S)

    def _compute(
        self, child: ChildProcess, trace: Trace, keys: Keys, rounded: str, limit_s: float
    ) -> tuple[LogitRows, bytes]:
        folder = self._next_folder()
        save_trace(trace, folder / "trace.npz")
        with (folder / "keys.npy").open("wb") as file:
            file.write(_npy(keys))
        out = folder / "logits.npz"
        answer = child.ask(
            "compute",
            limit_s,
            trace=str(folder / "trace.npz"),
            keys=str(folder / "keys.npy"),
            rounded=rounded,
            head=self.weights.head(trace, keys, rounded),
            out=str(out),
        )
        child.park()
        content = _content(out, answer)
        rate = float(answer["flops"]) / max(float(answer["seconds"]), 1e-6)
        self.flops_s = max(rate, self.flops_s or 0.0)
        rows = parse_logits(out, content)[0]
        if not np.array_equal(np.unique(rows.keys, axis=0), np.unique(keys, axis=0)):
            raise CellFailedError("the oracle answered for other places than it was asked for")
        return rows, content

    def _next_folder(self) -> Path:
        self._asked += 1
        folder = self._folder / str(self._asked)
        folder.mkdir(parents=True)
        return folder

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _started(self, trace: Trace | None) -> ChildProcess:
        """The process; an accelerator is compared with the CPU on the trace, where there is one."""
        if self._child is None:
            spec = {"model": self.weights.spec, "device": self._device}
            named = {"module": "chipmark.cell.oracle_child", "backend": f"torch:{self._device}"}
            self._child = ChildProcess(json.dumps(spec), self._folder, **named)
            if self._device != "cpu" and trace is not None and self.agreed is None:
                path = self._folder / "agree.npz"
                save_trace(trace, path)
                answer = self._child.ask("agree", self._limit_s, trace=str(path))
                self.agreed = float(answer["rms_rel"])
                self.agreed_tokens = int(answer["tokens"])
        return self._child


def _content(out: Path, answer: dict[str, Any]) -> bytes:
    """What the oracle wrote, and removed from the disk."""
    content = out.read_bytes()
    if hashlib.sha256(content).hexdigest() != answer["sha256"]:
        raise CellFailedError("the reference changed between the oracle and its use")
    out.unlink()
    return content


def _npy(keys: Keys) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, keys, allow_pickle=False)
    return buffer.getvalue()
