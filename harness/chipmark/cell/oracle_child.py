"""The process that computes reference logits: the oracle in plain torch, apart from any backend.

`python -m chipmark.cell.oracle_child SPEC --fd-in N --fd-out M`; the one command is `compute`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chipmark.cell.child import pipes, serve
from chipmark.cell.logits import LogitRows, save_logits
from chipmark.cell.parity import sampled_positions
from chipmark.errors import UsageError
from chipmark.workload.session import Session, Turn
from chipmark.workload.trace import Trace, load_trace


def compute(spec: dict[str, Any]) -> dict[str, Any]:
    """Logits of the wanted turns with the weights as that precision stores them; `rounded`: with
    activations rounded besides, by a name of `ROUNDINGS`."""
    from chipmark_models.oracle import Oracle
    from chipmark_models.rounding import ROUNDINGS
    from chipmark_models.weights.prepared import WeightSpec, open_any

    trace = load_trace(spec["trace"])
    weights = open_any(WeightSpec.from_dict(spec["model"]))
    keys, sequences, positions = plan(trace, [(int(s), int(t)) for s, t in spec["wanted"]])
    rounding = ROUNDINGS[spec["rounded"]] if spec["rounded"] else None
    oracle = Oracle(weights.config, weights.float32, rounding=rounding)
    logits = oracle.logits(sequences, positions)
    save_logits(spec["out"], LogitRows(np.array(keys, np.int32), np.concatenate(logits)))
    return {"rows": len(keys)}


def plan(
    trace: Trace, wanted: list[tuple[int, int]]
) -> tuple[list[tuple[int, int, int]], list[NDArray[np.int32]], list[NDArray[np.int64]]]:
    """Keys, token sequences and positions: a sequence for all turns of a session that only
    appends, else one a turn."""
    sessions = {session.id: session for session in trace.sessions}
    by_session: dict[int, list[Turn]] = defaultdict(list)
    for number, index in wanted:
        by_session[number].append(sessions[number].turns[index])
    keys: list[tuple[int, int, int]] = []
    sequences: list[NDArray[np.int32]] = []
    positions: list[NDArray[np.int64]] = []
    for number, turns in by_session.items():
        session = sessions[number]
        together = not any(t.reset for t in session.turns[: turns[-1].index + 1])
        for group in [turns] if together else [[turn] for turn in turns]:
            where = [sampled_positions(session, turn) for turn in group]
            sequences.append(_context(session, group[-1]))
            positions.append(np.concatenate(where))
            for turn, rows in zip(group, where, strict=True):
                keys += [(number, turn.index, int(row)) for row in rows]
    return keys, sequences, positions


def _context(session: Session, turn: Turn) -> NDArray[np.int32]:
    return np.concatenate([session.prompt(turn), session.output(turn)[:-1]])


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the oracle's process."""
    with pipes(arguments) as (path, commands, tell):
        spec = json.loads(Path(path).read_text(encoding="utf-8"))

        def answer(name: str, _: str) -> dict[str, Any]:
            if name == "compute":
                return compute(spec)
            if name == "close":
                return {}
            raise UsageError(f"the oracle knows no command {name!r}")

        serve(answer, commands, tell)


if __name__ == "__main__":
    main()
