"""Canonical tensor names and shapes of a model, and the check that a source has them all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from chipmark_models.config import ModelConfig
from chipmark_models.errors import BadInputError

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"


def layer_prefix(layer: int) -> str:
    """Prefix of a layer's tensors, with the trailing dot."""
    return f"model.layers.{layer}."


def layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names within a layer ("self_attn.q_proj.weight", ...) and shapes; matrices are (out, in)."""
    c = config
    shapes: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (c.hidden_size,)}
    for name, rows in (("q", c.q_size), ("k", c.kv_size), ("v", c.kv_size)):
        shapes[f"self_attn.{name}_proj.weight"] = (rows, c.hidden_size)
        if c.qkv_bias:
            shapes[f"self_attn.{name}_proj.bias"] = (rows,)
    if c.qk_norm:
        shapes["self_attn.q_norm.weight"] = (c.head_dim,)
        shapes["self_attn.k_norm.weight"] = (c.head_dim,)
    shapes["self_attn.o_proj.weight"] = (c.hidden_size, c.q_size)
    if c.attn_out_bias:
        shapes["self_attn.o_proj.bias"] = (c.hidden_size,)
    shapes["post_attention_layernorm.weight"] = (c.hidden_size,)
    for name, rows, columns in (
        ("gate", c.intermediate_size, c.hidden_size),
        ("up", c.intermediate_size, c.hidden_size),
        ("down", c.hidden_size, c.intermediate_size),
    ):
        shapes[f"mlp.{name}_proj.weight"] = (rows, columns)
        if c.mlp_bias:
            shapes[f"mlp.{name}_proj.bias"] = (rows,)
    return shapes


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """All tensors of a model in the order of computation; `lm_head.weight` only when untied."""
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, config.hidden_size)}
    within = layer_shapes(config)
    for layer in range(config.n_layers):
        prefix = layer_prefix(layer)
        shapes.update({prefix + name: shape for name, shape in within.items()})
    shapes[FINAL_NORM] = (config.hidden_size,)
    if not config.tied_embeddings:
        shapes[HEAD] = (config.vocab_size, config.hidden_size)
    return shapes


def check_shapes(
    config: ModelConfig,
    found: Mapping[str, tuple[int, ...]],
    path: object,
    *,
    ignorable: Iterable[str] = (),
) -> None:
    """Raise BadInputError naming the first tensor that is missing, misshapen or of no use.

    `ignorable` tensors may be there without being used (a tied head that was stored anyway).
    """
    expected = expected_shapes(config)
    for name, shape in expected.items():
        if name not in found:
            raise BadInputError(path, "the tensor is missing", field=name)
        if tuple(found[name]) != shape:
            raise BadInputError(
                path, f"has shape {tuple(found[name])}, expected {shape}", field=name
            )
    extra = sorted(set(found) - set(expected) - set(ignorable))
    if extra:
        raise BadInputError(
            path,
            f"{len(extra)} tensor(s) do not belong to a {config.family} model of this config",
            field=extra[0],
            hint="the config and the weights are of different models",
        )
