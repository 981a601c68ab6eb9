"""Interleaved, paired: each round runs every arm of a pair once in a fresh process, A B then B A.

Prints per pair the median of the paired ratios ours / peer with its smallest and largest, for
prefill and decode, and writes every sample as JSON. Absolute rates of a shared machine mean
little; the ratios of one round do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from chipmark.cell.environment import glibc_tunables
from chipmark_models.cache import cache_folder
from chipmark_models.pull import pull
from chipmark_models.weights.open import open_weights
from chipmark_models.weights.prepared import prepare_spec
from chipmark_models.weights.source import WeightRef

ARMS = Path(__file__).parent
PEER_PYTHON = Path(".venv-peers/bin/python")
PAIRS = {
    "torch-bf16": (("ours", "torch:cpu", "bf16"), ("transformers", "bf16")),
    "torch-fp32": (("ours", "torch:cpu", "fp32"), ("transformers", "fp32")),
    "genai-fp32": (("ours", "ort:cpu", "fp32"), ("genai", "fp32")),
}


def arguments() -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(
        prog="scripts/peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: scripts/peers --rounds 6 --pairs torch-bf16,genai-fp32",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", default=",".join(PAIRS))
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/peers.json"))
    parsed = parser.parse_args()
    unknown = [pair for pair in parsed.pairs.split(",") if pair not in PAIRS]
    if unknown:
        parser.error(f"unknown pair {unknown[0]!r}; valid: {', '.join(PAIRS)}")
    return parsed


def commands(options: argparse.Namespace, folder: Path) -> dict[tuple[str, ...], list[str]]:
    """The command line of every arm, with what they need written once."""
    gguf = pull("smollm2-135m", cache_folder())
    ref = WeightRef(kind="gguf", model="smollm2-135m", path=str(gguf), seed=0)
    config = open_weights(ref).config
    if not (folder / "genai-fp32" / "genai_config.json").exists():
        prepared = Path(str(prepare_spec(ref, "fp32").folder)) / "model.safetensors"
        export = [str(PEER_PYTHON), str(ARMS / "export_folder.py")]
        subprocess.run([*export, str(gguf), str(prepared), str(folder)], check=True)
    tokens = folder / "tokens.npy"
    # Ids of an ordinary range, the same for all arms.
    ids = np.random.Generator(np.random.Philox(7)).integers(
        1000, config.vocab_size, options.prompt + options.decode + 1
    )
    np.save(tokens, ids)
    shape = ["--tokens", str(tokens), "--prompt", str(options.prompt)]
    threads = ["--threads", str(options.threads)]
    made: dict[tuple[str, ...], list[str]] = {}
    for pair in options.pairs.split(","):
        for arm in PAIRS[pair]:
            if arm[0] == "ours":
                weights = json.dumps(prepare_spec(ref, arm[2]).to_dict())
                program = [sys.executable, str(ARMS / "ours_arm.py"), arm[1], weights]
                made[arm] = [*program, *shape, *threads, "--vocab", str(config.vocab_size)]
            elif arm[0] == "transformers":
                program = [str(PEER_PYTHON), str(ARMS / "transformers_arm.py"), str(folder / "hf")]
                made[arm] = [*program, "--precision", arm[1], *shape, *threads]
            else:
                program = [str(PEER_PYTHON), str(ARMS / "genai_arm.py")]
                made[arm] = [*program, str(folder / "genai-fp32"), *shape]
    return made


def sample(command: list[str]) -> dict[str, float]:
    """One process; its last line of stdout is a JSON object. Huge pages are asked for in every arm,
    as in a cell, so that no ratio owes them anything."""
    tunables = {"GLIBC_TUNABLES": glibc_tunables(os.environ)}
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ) | tunables)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:3])} failed:\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main() -> int:
    """Run all rounds and print the ratios."""
    options = arguments()
    folder = cache_folder() / "peers"
    folder.mkdir(parents=True, exist_ok=True)
    arms = commands(options, folder)
    samples: dict[str, list[dict[str, Any]]] = {pair: [] for pair in options.pairs.split(",")}
    console = Console(stderr=True)
    for number in range(options.rounds):
        for pair, rounds in samples.items():
            order = PAIRS[pair] if number % 2 == 0 else PAIRS[pair][::-1]
            got = {arm[0]: sample(arms[arm]) for arm in order}
            rounds.append(got)
            console.print(f"round {number + 1}/{options.rounds} {pair}: {json.dumps(got)}")
    table = Table(title=f"ours / peer, {options.prompt} prompt tokens, one sequence")
    for heading in ("pair", "figure", "ratio (median)", "smallest", "largest", "ours", "peer"):
        table.add_column(heading)
    for pair, rounds in samples.items():
        peer = PAIRS[pair][1][0]
        for figure in ("prefill_tok_s", "decode_tok_s"):
            ratios = sorted(r["ours"][figure] / r[peer][figure] for r in rounds)
            medians = [statistics.median(r[a][figure] for r in rounds) for a in ("ours", peer)]
            table.add_row(
                pair,
                figure,
                f"{statistics.median(ratios):.2f}",
                f"{ratios[0]:.2f}",
                f"{ratios[-1]:.2f}",
                *(f"{value:.1f}" for value in medians),
            )
        shares = [r["ours"]["weights_share_of_read"] for r in rounds]
        table.add_row(pair, "weights / read roof", f"{statistics.median(shares):.2f}")
    Console().print(table)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(
        json.dumps({"options": vars(options), "samples": samples}, default=str)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
