"""The shapes that kernels are compiled for equal the presets, which kernels do not import."""

from __future__ import annotations

from chipmark_kernels.manifest import MODEL_SHAPES, ModelShape
from chipmark_models.presets import PRESETS, SOURCES


def test_every_public_preset_has_its_shape() -> None:
    shapes = {
        name: ModelShape(
            name,
            vocab=c.vocab_size,
            hidden=c.hidden_size,
            inner=c.intermediate_size,
            n_heads=c.n_heads,
            n_kv_heads=c.n_kv_heads,
            head_dim=c.head_dim,
            qk_norm=c.qk_norm,
            interleaved=c.rope_interleaved,
            qkv_bias=c.qkv_bias,
        )
        for name, c in PRESETS.items()
        if SOURCES[name]
    }
    assert {shape.name: shape for shape in MODEL_SHAPES} == shapes
