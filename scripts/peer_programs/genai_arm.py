"""One process of onnxruntime-genai on the CPU: prefill and decode of one sequence, JSON on stdout.

It feeds its own greedy tokens (it has no forced decoding); the cost of a step is the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import onnxruntime_genai as og


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="a folder made by onnxruntime-genai's builder")
    parser.add_argument("--tokens", required=True, help=".npy of prompt and output ids")
    parser.add_argument("--prompt", type=int, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    ids = np.load(arguments.tokens).astype(np.int32)
    prompt, steps = ids[: arguments.prompt], len(ids) - arguments.prompt - 1
    model = og.Model(arguments.folder)
    prefill, decode = [], []
    for _ in range(arguments.repeats + 1):
        parameters = og.GeneratorParams(model)
        # min_length keeps an end-of-text token from ending the run early.
        parameters.set_search_options(
            do_sample=False, max_length=len(ids) + 8, min_length=len(ids) + 8
        )
        generator = og.Generator(model, parameters)
        start = time.perf_counter()
        generator.append_tokens(prompt)
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(steps):
            generator.generate_next_token()
        end = time.perf_counter()
        prefill.append(len(prompt) / (first - start))
        decode.append(steps / (end - first))
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
