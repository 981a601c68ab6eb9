"""One process of chipmark: prefill and decode of one sequence through the engine, as JSON."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from chipmark.engine.contract import PHASES, LoadSpec
from chipmark.engine.loop import run
from chipmark.engine.plan import RunPlan
from chipmark.registry import load_plugin, split_backend
from chipmark.workload.trace import Scale, Session, Trace, Turn
from chipmark_models.weights.prepared import WeightSpec


def one_turn_trace(ids: np.ndarray, prompt: int, vocab_size: int) -> Trace:
    """The same ids that the peers get, as a session of one turn."""
    turn = Turn(
        index=0,
        prompt_tokens=prompt,
        n_new=prompt,
        n_cached=0,
        n_out=len(ids) - prompt,
        tokens_start=0,
        tokens_stop=prompt,
    )
    session = Session(0, 0, 0, None, ids.astype(np.int32), (turn,))
    return Trace((session,), vocab_size, "peers", Scale(), 0, "closed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend")
    parser.add_argument("weights", help="a WeightSpec as JSON")
    parser.add_argument("--tokens", required=True, help=".npy of prompt and output ids")
    parser.add_argument("--prompt", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--vocab", type=int, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    ids = np.load(arguments.tokens)
    kind, device = split_backend(arguments.backend)
    backend = load_plugin("chipmark.backends", kind)(device)
    weights = json.loads(arguments.weights)
    with tempfile.TemporaryDirectory() as scratch:
        context = -(-(len(ids) + 1) // 64) * 64
        loaded = backend.load(
            LoadSpec(
                model=weights,
                precision=WeightSpec.from_dict(weights).precision,
                n_seqs=1,
                max_context=context,
                kv_tokens=context,
                max_chunk=arguments.prompt,
                reserved_slots=0,
                threads=arguments.threads,
                scratch=str(Path(scratch)),
            )
        )
        trace = one_turn_trace(ids, arguments.prompt, arguments.vocab)
        decode_phase = PHASES.index("decode")
        prefill, decode, reads = [], [], []
        for _ in range(arguments.repeats + 1):
            reads.append(backend.probe_read(loaded.weight_bytes))
            tables = run(backend, trace, RunPlan(caps=loaded.caps, concurrency=1)).tables
            launches, turns = tables["launches"], tables["turns"]
            # Wall time between visible tokens, as the peers measure it.
            first, last = turns["first_token_s"][0], turns["last_token_s"][0]
            steps = int((launches["phase"] == decode_phase).sum())
            prefill.append(arguments.prompt / (first - turns["admitted_s"][0]))
            decode.append(steps / (last - first))
        backend.close()
    decode_tok_s = statistics.median(decode[1:])
    json.dump(
        {
            "prefill_tok_s": statistics.median(prefill[1:]),
            "decode_tok_s": decode_tok_s,
            "weights_share_of_read": decode_tok_s
            * loaded.weight_bytes
            / statistics.median(reads[1:]),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
