"""The process that computes reference logits: the oracle in plain torch, apart from any backend.

`python -m chipmark.cell.oracle_child SPEC --fd-in N --fd-out M`; commands are `agree`, `compute`,
`score` and `close`. It holds the weights of one model in one precision, so that one process answers
for parity, captured turns, audits and perplexity of all cells that run on these weights.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chipmark.cell.child import pipes, serve
from chipmark.cell.contexts import TokenStream, stream_flops, streams
from chipmark.cell.logits import LogitRows, distance, save_logits
from chipmark.errors import CellFailedError, UsageError
from chipmark.workload.trace import Trace, load_trace
from chipmark_models.files import sha256_of_file
from chipmark_models.foreign_arrays import parse_npz
from chipmark_models.foreign_file import MIB, read_bytes
from chipmark_models.quality_text import save_numbered

if TYPE_CHECKING:
    from chipmark_models.oracle import Oracle

TOKENS_BYTES = 64 * MIB
"""Most bytes of the tokens to be scored, and of their likelihoods; the text has ten thousand."""

AGREE_TOKENS = 1024
AGREE_RMS_REL = 1e-4
"""Over so many tokens an accelerator must be as near to the CPU: sums of fp32 in another order
differ by 1e-6 to 1e-5, products in TF32 by 2.5e-3."""


class OracleChild:
    """The oracle of one model behind the command loop. spec: {"model": WeightSpec, "device"}."""

    def __init__(self, spec: dict[str, Any]) -> None:
        from chipmark_models.oracle import Oracle
        from chipmark_models.rounding import ROUNDINGS
        from chipmark_models.weights.prepared import WeightSpec, open_any

        self._oracle, self._roundings = Oracle, ROUNDINGS
        self._weights = open_any(WeightSpec.from_dict(spec["model"]))
        self._device = str(spec.get("device", "cpu"))

    def answer(self, name: str, arguments: str) -> dict[str, Any]:
        """Do one command and return the content of its `ok`."""
        asked = json.loads(arguments)
        if name == "agree":
            return self._agree(load_trace(asked["trace"]))
        if name == "compute":
            return self._compute(asked)
        if name == "score":
            return self._score(asked)
        if name == "close":
            return {}
        raise UsageError(f"the oracle knows no command {name!r}")

    def _compute(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Logits at the places of `keys` with the weights as that precision stores them;
        `rounded`: with activations also rounded, by a name of `ROUNDINGS`."""
        trace = load_trace(asked["trace"])
        with Path(asked["keys"]).open("rb") as file:
            keys = np.load(file, allow_pickle=False)
        work = streams(trace, keys)
        begin = time.perf_counter()
        logits = self._logits(work, self._device, str(asked["rounded"]))
        seconds = time.perf_counter() - begin
        rows = LogitRows(np.concatenate([stream.keys for stream in work]), np.concatenate(logits))
        out = Path(asked["out"])
        save_logits(out, rows, head=asked["head"])
        return {
            "rows": len(rows.keys),
            "seconds": seconds,
            "flops": stream_flops(self._weights.config, work),
            "sha256": sha256_of_file(out),
        }

    def _score(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Negative log-likelihoods of the sequences in `tokens`, see `Oracle.token_nll`; `rounded`
        as of `compute`."""
        path = Path(asked["tokens"])
        tokens = parse_npz(read_bytes(path, TOKENS_BYTES), path)
        sequences = [tokens[name] for name in sorted(tokens, key=int)]
        found = self._made(self._device, str(asked["rounded"])).token_nll(sequences)
        out = Path(asked["out"])
        save_numbered(out, found)
        return {"sha256": sha256_of_file(out)}

    def _agree(self, trace: Trace) -> dict[str, Any]:
        """The device against the CPU on the start of the longest session."""
        session = max(trace.sessions, key=lambda s: len(s.tokens))
        tokens = session.tokens[:AGREE_TOKENS]
        at = np.unique(np.linspace(0, len(tokens) - 1, 9).astype(np.int32))
        keys = np.stack([np.zeros_like(at), np.zeros_like(at), at], 1)
        stream = [TokenStream(tokens, keys)]
        mine, its = (
            LogitRows(keys, self._logits(stream, device, "")[0]) for device in ("cpu", self._device)
        )
        found = distance(mine, its, AGREE_RMS_REL)
        if not found.passes(AGREE_RMS_REL):
            raise CellFailedError(
                f"the oracle on {self._device} is rms {found.rms_rel:.1e} from the CPU's over "
                f"{len(tokens)} tokens; up to {AGREE_RMS_REL:.0e} is allowed",
                "use --device cpu",
            )
        return {"rms_rel": found.rms_rel, "tokens": len(tokens)}

    def _logits(
        self, work: list[TokenStream], device: str, rounded: str
    ) -> list[NDArray[np.float32]]:
        from chipmark_models.oracle import products_are_exact

        oracle = self._made(device, rounded)
        found = oracle.logits([s.tokens for s in work], [s.keys[:, 2] for s in work])
        if device != "cpu" and not products_are_exact():
            raise CellFailedError(f"the oracle on {device} computed with TF32", "use --device cpu")
        return found

    def _made(self, device: str, rounded: str) -> Oracle:
        rounding = self._roundings[rounded] if rounded else None
        weights = self._weights
        return self._oracle(weights.config, weights.float32, rounding=rounding, device=device)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the oracle's process."""
    with pipes(arguments) as (path, commands, tell):
        child = OracleChild(json.loads(Path(path).read_text(encoding="utf-8")))
        serve(child.answer, commands, tell)


if __name__ == "__main__":
    main()
