"""SmolLM2's own words through the engine and every backend of this machine, feedback `sampled`."""

from __future__ import annotations

import numpy as np
import pytest

from chipmark.engine.contract import LoadSpec
from chipmark.engine.loop import run
from chipmark.engine.plan import RunPlan
from chipmark.errors import MissingBackendError
from chipmark.registry import load_plugin, split_backend
from chipmark.workload.trace import Scale, Session, Trace, Turn

N_OUT = 8


@pytest.mark.parametrize("backend", ["torch:cpu", "ort:cpu", "ort:openvino"])
def test_the_capital_of_france(backend, tmp_path):
    from chipmark_models.chat_template import render_chat
    from chipmark_models.pull import installed, resolve_model
    from chipmark_models.tokenizer import open_tokenizer
    from chipmark_models.weights.prepared import prepare_spec

    for package in ("torch", "onnxruntime", "gguf", "tokenizers", "jinja2"):
        pytest.importorskip(package)
    if installed("smollm2-135m") is None:
        pytest.skip("smollm2-135m is not pulled: chipmark models pull smollm2-135m")
    ref = resolve_model("smollm2-135m")
    tokenizer = open_tokenizer(ref)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.encode(render_chat(tokenizer, question, add_generation_prompt=True))
    kind, device = split_backend(backend)
    subject = load_plugin("chipmark.backends", kind)(device)
    weights = prepare_spec(ref, "fp32").to_dict()
    try:
        loaded = subject.load(
            LoadSpec(weights, "fp32", 1, 128, 128, 64, reserved_slots=0, scratch=str(tmp_path))
        )
    except MissingBackendError as missing:
        pytest.skip(missing.message)
    # The forced output is wrong on purpose: only what was sampled may enter the context.
    ids = np.concatenate([prompt, np.full(N_OUT, 17)]).astype(np.int32)
    turn = Turn(0, len(prompt), len(prompt), 0, N_OUT, 0, len(prompt))
    trace = Trace((Session(0, 0, 0, None, ids, (turn,)),), 49_152, "question", Scale(), 0, "closed")
    result = run(subject, trace, RunPlan(caps=loaded.caps, concurrency=1, feedback="sampled"))
    subject.close()
    said = tokenizer.decode(result.produced[0, 0].tolist())
    assert said.startswith("The capital of France is Paris.")
