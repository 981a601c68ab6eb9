"""One process of transformers in eager mode: prefill and decode of one sequence, JSON on stdout."""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="a Hugging Face folder")
    parser.add_argument("--precision", choices=("fp32", "bf16"), required=True)
    parser.add_argument("--tokens", required=True, help=".npy of prompt and output ids")
    parser.add_argument("--prompt", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dtype = torch.float32 if arguments.precision == "fp32" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=dtype).eval()
    ids = torch.from_numpy(np.load(arguments.tokens).astype(np.int64))[None]
    prompt, forced = ids[:, : arguments.prompt], ids[:, arguments.prompt :]
    prefill, decode = [], []
    with torch.inference_mode():
        for _ in range(arguments.repeats + 1):
            start = time.perf_counter()
            out = model(prompt, use_cache=True, logits_to_keep=1)
            out.logits[:, -1].argmax(-1).item()
            first = time.perf_counter()
            for position in range(forced.shape[1] - 1):
                out = model(
                    forced[:, position : position + 1],
                    past_key_values=out.past_key_values,
                    use_cache=True,
                )
                out.logits[:, -1].argmax(-1).item()
            end = time.perf_counter()
            prefill.append(prompt.shape[1] / (first - start))
            decode.append((forced.shape[1] - 1) / (end - first))
    # The first of them warms up.
    print(
        json.dumps(
            {
                "prefill_tok_s": statistics.median(prefill[1:]),
                "decode_tok_s": statistics.median(decode[1:]),
            }
        )
    )


if __name__ == "__main__":
    main()
