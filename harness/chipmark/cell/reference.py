"""Reference logits: computed by the oracle's own process, found in the cache, or carried here.

The measured child runs as the same user, so it can write whatever the parent can write, and no key
could be kept from it. So a computed reference is hashed in the oracle's process, read once, and
used only where the bytes have that hash; and a cached one is believed only after the oracle has
computed its longest stream and another, drawn at random, again. The key holds a hash of the
oracle's code, so that a corrected oracle does not meet its old answers. What the user carries here
(`--reference`) cannot be checked on a machine without torch: its hash is in the record.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import chipmark_models
from chipmark.cell.contexts import Keys, TokenStream, streams
from chipmark.cell.logits import LOGITS_BYTES, LogitRows, distance, parse_logits
from chipmark.cell.parent import ChildProcess
from chipmark.errors import BadInputError, CellFailedError
from chipmark.results.manifest import ReferenceId
from chipmark.workload.trace import Trace, save_trace
from chipmark_models.files import sha256_of_file, whole_file
from chipmark_models.foreign_arrays import parse_npz
from chipmark_models.foreign_file import parse_json, read_bytes
from chipmark_models.precision import QUANTISED
from chipmark_models.quality_text import TextScore, TokenIds, save_numbered
from chipmark_models.weights.quantise import RULE

SCHEMA = "chipmark.reference/1"
ORACLE_LIMIT_S = 3600.0
CACHED_RMS_REL = 1e-4
"""How far a cached row may be from the oracle computed again: another number of threads."""

TokenNll = NDArray[np.float64]

_RATE_TOKENS = 128
MIN_FLOPS_S = 5e9
"""What one core of any CPU does in fp32."""

NO_TORCH = "the oracle needs torch, which is not installed here"

_ORACLE_CODE = (
    "oracle.py",
    "rope.py",
    "rounding.py",
    "config.py",
    "precision.py",
    "presets.py",
    "tensors.py",
    "families.py",
    "files.py",
)
_CHILD_CODE = ("oracle_child.py", "contexts.py")


@dataclass(frozen=True, slots=True)
class Reference:
    """The oracle's logits, or why there are none."""

    rows: LogitRows | None
    reason: str = ""
    id: ReferenceId | None = None


@dataclass(frozen=True, slots=True)
class Weights:
    """Whose logits are asked for: the weights as children open them, their source and precision."""

    spec: dict[str, Any]
    source_hash: str
    precision: str

    @property
    def stored(self) -> str:
        """The precision, with the rule of its quantiser."""
        return f"{self.precision} {RULE}" if self.precision in QUANTISED else self.precision

    def head(self, trace: Trace, keys: Keys, rounded: str) -> str:
        """What makes two references the same, as one line of JSON; their files hold it."""
        places = hashlib.sha256(keys.astype("<i4").tobytes()).hexdigest()
        parts = [SCHEMA, self.source_hash, self.stored, rounded, trace.hash, places, oracle_code()]
        return json.dumps(parts)


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
            if self._device != "cpu" and trace is not None:
                path = self._folder / "agree.npz"
                save_trace(trace, path)
                answer = self._child.ask("agree", self._limit_s, trace=str(path))
                self.agreed = float(answer["rms_rel"])
        return self._child


class References:
    """All references of a run; each is computed once, whatever the number of cells that ask.

    cache: a folder where computed ones are kept for later runs, in its folder `folder`. files:
    carried ones. limit_s: of each computation. scores: of texts, by what they are of (`text_score`
    fills it).
    """

    def __init__(
        self,
        cache: Path,
        scratch: Path,
        files: Sequence[Path] = (),
        device: str = "cpu",
        limit_s: float = ORACLE_LIMIT_S,
    ) -> None:
        self.folder = cache / "reference"
        self._scratch, self._device = scratch, device
        self._limit_s = limit_s
        self._known: dict[str, Reference] = {}
        self._oracles: dict[str, OracleProcess] = {}
        self.remarks: list[str] = []
        self.scores: dict[str, TextScore] = {}
        for path in files:
            head, reference = carried(path)
            self._known[head] = reference

    def of(self, weights: Weights, trace: Trace, keys: Keys, rounded: str = "") -> Reference:
        """The oracle's logits at these places, through the cache; a Reference without rows says
        why there are none. rounded: with activations rounded so (`logits.tolerance_of` says what
        for)."""
        head = weights.head(trace, keys, rounded)
        if head in self._known:
            return self._known[head]
        if not oracle_here():
            return Reference(None, NO_TORCH)
        path = cached_file(self.folder, head)
        found = None
        if not rounded and path.is_file():
            found = self._cached(path, head, weights, trace, keys)
        if found is None:
            rows, content = self.oracle(weights).compute(trace, keys, rounded)
            found = Reference(rows, "", _id(content, "computed"))
            if not rounded:
                path.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(path) as partial:
                    partial.write_bytes(content)
        self._known[head] = found
        return found

    def drawn(
        self, weights: Weights, trace: Trace, keys: Keys, rounded: str, limit_s: float
    ) -> Reference:
        """The same at places that were drawn at random, which never come again: always computed,
        and kept nowhere."""
        if not oracle_here():
            return Reference(None, NO_TORCH)
        rows, content = self.oracle(weights).compute(trace, keys, rounded, limit_s)
        return Reference(rows, "", _id(content, "computed"))

    def oracle(self, weights: Weights) -> OracleProcess:
        """The oracle's process of these weights."""
        key = json.dumps(weights.spec, sort_keys=True)
        if key not in self._oracles:
            folder = self._scratch / f"{len(self._oracles)}-{time.time_ns()}"
            self._oracles[key] = OracleProcess(weights, folder, self._device, self._limit_s)
        return self._oracles[key]

    def close(self) -> None:
        """End all processes."""
        for oracle in self._oracles.values():
            oracle.close()

    def __enter__(self) -> References:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _cached(
        self, path: Path, head: str, weights: Weights, trace: Trace, keys: Keys
    ) -> Reference | None:
        """A cached reference that a sample computed again agrees with; None, and the file
        removed, where it does not."""
        content = path.read_bytes()
        try:
            rows, written = parse_logits(path, content)
        except BadInputError as error:
            self.remarks.append(f"{error.message}; computed anew")
            return None
        work = streams(trace, keys)
        again = self.oracle(weights).compute(trace, _keys_of(_sample(work)))[0]
        found = distance(again, rows, CACHED_RMS_REL)
        if written == head and len(rows.keys) == len(keys) and found.passes(CACHED_RMS_REL):
            return Reference(rows, "", _id(content, "cache"))
        self.remarks.append(
            f"{path} is not what the oracle computes (rms {found.rms_rel:.1e}); computed anew"
        )
        path.unlink(missing_ok=True)
        return None


def oracle_here() -> bool:
    """Whether this machine can compute references."""
    return importlib.util.find_spec("torch") is not None


def cached_file(folder: Path, head: str) -> Path:
    """The place of a reference in the cache's folder `reference`."""
    return folder / f"{hashlib.sha256(head.encode()).hexdigest()[:32]}.npz"


def carried(path: Path) -> tuple[str, Reference]:
    """A reference that the user gives, and its head. BadInputError where it is broken, is not one,
    or was computed by other code."""
    content = read_bytes(path, LOGITS_BYTES)
    rows, head = parse_logits(path, content)
    parts = parse_json(head, path, field="head") if head else None
    schema, code = (parts[0], parts[-1]) if isinstance(parts, list) and parts else (None, "")
    hint = "take a file of the folder `reference` of chipmark's cache where torch is installed"
    if schema != SCHEMA:
        raise BadInputError(path, "does not say what it is a reference of", field="head", hint=hint)
    if code != oracle_code():
        raise BadInputError(
            path,
            "was computed by another version of the oracle",
            field="head",
            hint="compute it again with this version of chipmark",
        )
    return head, Reference(rows, "", _id(content, "file"))


@cache
def oracle_code() -> str:
    """Hex sha256 over the source files that reference logits come from."""
    assert chipmark_models.__file__ is not None
    models, here = Path(chipmark_models.__file__).parent, Path(__file__).parent
    files = [models / name for name in _ORACLE_CODE]
    files += sorted((models / "weights").glob("*.py"))
    files += [here / name for name in _CHILD_CODE]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {sha256_of_file(file)}\n".encode())
    return digest.hexdigest()


def _content(out: Path, answer: dict[str, Any]) -> bytes:
    """What the oracle wrote, and removed from the disk."""
    content = out.read_bytes()
    if hashlib.sha256(content).hexdigest() != answer["sha256"]:
        raise CellFailedError("the reference changed between the oracle and its use")
    out.unlink()
    return content


def _id(content: bytes, origin: str) -> ReferenceId:
    return ReferenceId.model_validate(
        {
            "sha256": hashlib.sha256(content).hexdigest(),
            "origin": origin,
            "oracle_code": oracle_code(),
        }
    )


def _sample(work: list[TokenStream]) -> list[TokenStream]:
    """The longest stream, and one of the others."""
    ordered = sorted(work, key=lambda stream: len(stream.tokens))
    others = ordered[:-1]
    return [ordered[-1], *([secrets.choice(others)] if others else [])]


def _keys_of(work: list[TokenStream]) -> Keys:
    return np.concatenate([stream.keys for stream in work])


def _npy(keys: Keys) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, keys, allow_pickle=False)
    return buffer.getvalue()
