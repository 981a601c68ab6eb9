"""Small models on ONNX Runtime: weights, the oracle's logits, and steps made by hand."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chipmark.backends.ort.backend import OrtBackend
from chipmark.backends.ort.providers import find_provider, locate
from chipmark.engine.contract import Done, KvOp, LaunchPlan, LoadSpec, Rows, Step
from chipmark.errors import MissingBackendError
from chipmark_models.config import ModelConfig, RopeScaling
from chipmark_models.presets import preset
from chipmark_models.weights.prepared import WeightSpec, open_any, prepare
from chipmark_models.weights.source import WeightRef
from chipmark_models.weights.synthetic import SyntheticWeights

if importlib.util.find_spec("onnxruntime") is None:
    collect_ignore_glob = ["test_*.py"]

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "n_layers": 2,
    "n_heads": 6,
    "n_kv_heads": 2,
    "head_dim": 16,
    "max_context": 4096,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tied_embeddings": False, "rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 64)},
    "llama-biases": {"attn_out_bias": True, "mlp_bias": True, "qkv_bias": True},
    "mistral": {"family": "mistral", "n_heads": 4, "n_kv_heads": 4},
    "qwen2": {"family": "qwen2", "qkv_bias": True},
    "qwen3": {"family": "qwen3", "qk_norm": True, "head_dim": 32},
    "ernie4_5": {"family": "ernie4_5", "rope_interleaved": True},
}


def family_config(name: str) -> ModelConfig:
    return dataclasses.replace(preset("tiny"), name=name, **(SMALL | FAMILIES[name]))


def is_here(device: str) -> bool:
    try:
        locate(find_provider(device))
    except MissingBackendError:
        return False
    return True


class Driver:
    """A loaded backend, and steps for it."""

    def __init__(self, device: str, model: dict[str, Any], scratch: Path, **fields: Any) -> None:
        self.backend = OrtBackend(device)
        spec = {"n_seqs": 4, "max_context": 700, "kv_tokens": 2800, "max_chunk": 64, "threads": 2}
        spec |= {"precision": "fp32"} | fields
        self.loaded = self.backend.load(LoadSpec(model=model, scratch=str(scratch), **spec))
        self.step = 0

    def run(
        self,
        slots: list[int],
        start: list[int],
        tokens: list[np.ndarray],
        *,
        ops: tuple[KvOp, ...] = (),
        sample: bool = True,
        phase: Any = "decode",
        logits: bool = True,
    ) -> Done:
        rows = Rows(
            seq=np.asarray(slots, np.int32) + 10,
            slot=np.asarray(slots, np.int32),
            start=np.asarray(start, np.int32),
            length=np.asarray([len(t) for t in tokens], np.int32),
            tokens=np.concatenate(tokens).astype(np.int32),
            pages=None,
            sample=np.full(len(slots), sample),
        )
        longest, end = int(rows.length.max()), int((rows.start + rows.length).max())
        self.step += 1
        plan = LaunchPlan(phase, rows, len(slots), longest, end)
        wanted = tuple(rows.seq.tolist()) if logits else ()
        self.backend.submit(Step(self.step, ops, (plan,), wanted))
        return self.backend.wait()

    def prefill(self, slot: int, start: int, tokens: np.ndarray) -> Done:
        """Chunks of at most caps.max_chunk; the last one is sampled."""
        size = self.loaded.caps.max_chunk
        for at in range(0, len(tokens), size):
            last = at + size >= len(tokens)
            done = self.run(
                [slot], [start + at], [tokens[at : at + size]], sample=last, phase="prefill_cold"
            )
        return done


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Weights of a config, prepared once: (spec for LoadSpec.model, tensors in float32)."""
    made: dict[str, Any] = {}
    folder = tmp_path_factory.mktemp("weights")

    def get(config: ModelConfig, precision: str = "fp32") -> tuple[dict[str, Any], Any]:
        key = f"{config.name} {precision}"
        if key not in made:
            source = SyntheticWeights(config, seed=7)
            ref = WeightRef("synthetic", config.name, None, 7)
            path = prepare(ref, precision, folder, source=source).folder
            spec = WeightSpec(ref, precision, str(path))
            made[key] = (spec.to_dict(), open_any(spec))
        return made[key]

    return get


@pytest.fixture(scope="session")
def helpers():
    """The names above, for tests that cannot import a conftest."""

    class Names:
        Driver = Driver
        FAMILIES = FAMILIES
        family_config = staticmethod(family_config)
        is_here = staticmethod(is_here)
        preset = staticmethod(preset)

    return Names
