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
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import chipmark_models
from chipmark.cell.contexts import Keys, TokenStream, streams
from chipmark.cell.logits import LOGITS_BYTES, LogitRows, distance, parse_logits
from chipmark.cell.oracle_process import ORACLE_LIMIT_S, OracleProcess
from chipmark.errors import BadInputError, CellFailedError
from chipmark.results.manifest import ReferenceId
from chipmark.workload.trace import Trace
from chipmark_models.config import ModelConfig
from chipmark_models.costs import causal_context_sum, prefill_flops
from chipmark_models.files import sha256_of_file, whole_file
from chipmark_models.foreign_file import parse_json, read_bytes
from chipmark_models.precision import QUANTISED
from chipmark_models.quality_text import TextScore
from chipmark_models.weights.quantise import RULE

SCHEMA = "chipmark.reference/1"
CACHED_RMS_REL = 1e-4
"""How far a cached row may be from the oracle computed again: another number of threads."""

ON_CPU_FLOPS = 4e12
"""Most FLOPs of a forward over the longest context of a trace that the CPU's oracle is asked for
where an accelerator may be: some seconds of a server's CPU."""

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
    config: ModelConfig | None = field(default=None, compare=False)
    """Of the model, which gives the cost of its oracle; None keeps it on the CPU."""

    @property
    def stored(self) -> str:
        """The precision, with the rule of its quantiser."""
        return f"{self.precision} {RULE}" if self.precision in QUANTISED else self.precision

    def head(self, trace: Trace, keys: Keys, rounded: str) -> str:
        """What makes two references the same, as one line of JSON; their files hold it."""
        places = hashlib.sha256(keys.astype("<i4").tobytes()).hexdigest()
        parts = [SCHEMA, self.source_hash, self.stored, rounded, trace.hash, places, oracle_code()]
        return json.dumps(parts)


class References:
    """All references of a run; each is computed once, whatever the number of cells that ask.

    cache: a folder where computed ones are kept for later runs, in its folder `folder`. files:
    carried ones. limit_s: of each computation. accelerator: torch's name of a device that computes
    what is too much for the CPU (ON_CPU_FLOPS), once it agreed with the CPU's. scores: of texts, by
    what they are of (`text_score` fills it).
    """

    def __init__(
        self,
        cache: Path,
        scratch: Path,
        files: Sequence[Path] = (),
        device: str = "cpu",
        limit_s: float = ORACLE_LIMIT_S,
        accelerator: str = "",
    ) -> None:
        self._accelerator = accelerator
        self._refused: set[str] = set()
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
            oracle, rows, content = self._computed(weights, trace, keys, rounded)
            found = Reference(rows, "", _id(content, "computed", oracle))
            if not rounded and not oracle.accelerated:
                path.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(path) as partial:
                    partial.write_bytes(content)
        self._known[head] = found
        return found

    def _computed(
        self, weights: Weights, trace: Trace, keys: Keys, rounded: str
    ) -> tuple[OracleProcess, LogitRows, bytes]:
        oracle = self.oracle(weights, trace)
        try:
            return (oracle, *oracle.compute(trace, keys, rounded))
        except CellFailedError as error:
            if not oracle.accelerated:
                raise
            self._refuse(weights, error)
        oracle = self.oracle(weights, trace)
        return (oracle, *oracle.compute(trace, keys, rounded))

    def drawn(
        self, weights: Weights, trace: Trace, keys: Keys, rounded: str, limit_s: float
    ) -> Reference:
        """The same at places that were drawn at random, which never come again: always computed,
        and kept nowhere."""
        if not oracle_here():
            return Reference(None, NO_TORCH)
        oracle = self.oracle(weights, trace)
        rows, content = oracle.compute(trace, keys, rounded, limit_s)
        return Reference(rows, "", _id(content, "computed", oracle))

    def oracle(self, weights: Weights, trace: Trace | None = None) -> OracleProcess:
        """The oracle's process of these weights: on the accelerator where a forward over the
        longest context of `trace` is too much for the CPU, and where it agrees with the CPU's."""
        spec = json.dumps(weights.spec, sort_keys=True)
        if trace is None or spec in self._refused or not self._too_much(weights, trace):
            return self._process(weights, spec, self._device)
        accelerated = self._process(weights, spec, self._accelerator)
        if accelerated.agreed is None:
            try:
                accelerated.agree(trace)
            except CellFailedError as error:
                self._refuse(weights, error)
                return self._process(weights, spec, self._device)
            self.remarks.append(accelerated.agreement)
        return accelerated

    def rest(self) -> None:
        """End the processes on the accelerator, so that nothing else uses it while a cell is loaded
        or timed; what they agreed to holds for the next ones."""
        for oracle in self._oracles.values():
            if oracle.accelerated:
                oracle.close()

    def _too_much(self, weights: Weights, trace: Trace) -> bool:
        if not self._accelerator or weights.config is None:
            return False
        n = trace.max_context_tokens
        return prefill_flops(weights.config, n, causal_context_sum(0, n), 1) > ON_CPU_FLOPS

    def _refuse(self, weights: Weights, error: CellFailedError) -> None:
        self._refused.add(json.dumps(weights.spec, sort_keys=True))
        text = f"no oracle on {self._accelerator}, the CPU's instead: {error.message}"
        self.remarks.append(text)

    def _process(self, weights: Weights, spec: str, device: str) -> OracleProcess:
        key = f"{spec} {device}"
        if key not in self._oracles:
            folder = self._scratch / f"{len(self._oracles)}-{time.time_ns()}"
            self._oracles[key] = OracleProcess(weights, folder, device, self._limit_s)
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
        oracle, again, _ = self._computed(weights, trace, _keys_of(_sample(work)), "")
        found = distance(again, rows, CACHED_RMS_REL)
        if written == head and len(rows.keys) == len(keys) and found.passes(CACHED_RMS_REL):
            return Reference(rows, "", _id(content, "cache", oracle))
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


def _id(content: bytes, origin: str, oracle: OracleProcess | None = None) -> ReferenceId:
    by = {} if oracle is None else oracle.provenance
    return ReferenceId.model_validate(
        {
            "sha256": hashlib.sha256(content).hexdigest(),
            "origin": origin,
            "oracle_code": oracle_code(),
            **by,
        }
    )


def _sample(work: list[TokenStream]) -> list[TokenStream]:
    """The longest stream, and one of the others."""
    ordered = sorted(work, key=lambda stream: len(stream.tokens))
    others = ordered[:-1]
    return [ordered[-1], *([secrets.choice(others)] if others else [])]


def _keys_of(work: list[TokenStream]) -> Keys:
    return np.concatenate([stream.keys for stream in work])
