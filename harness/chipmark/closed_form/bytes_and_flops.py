"""Bytes that decode must read and FLOPs that prefill must do, from a model's shape by hand.

Of dense decoders with fp32 weights and KV, which is all that a simulated device has.
"""

from __future__ import annotations

from typing import Any

from chipmark.closed_form.stepping import WholeRun

_SIZE = 4  # fp32


def layer_parameters(shape: dict[str, Any]) -> int:
    """Matrices, biases and norms of one layer."""
    hidden, middle, head = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
    q, kv = shape["n_heads"] * head, shape["n_kv_heads"] * head
    matrices = hidden * q + 2 * hidden * kv + q * hidden + 3 * hidden * middle
    biases = (q + 2 * kv) * shape["qkv_bias"] + hidden * shape["attn_out_bias"]
    biases += (2 * middle + hidden) * shape["mlp_bias"]
    norms = 2 * hidden + 2 * head * shape["qk_norm"]
    return int(matrices + biases + norms)


def decode_bytes(run: WholeRun, shape: dict[str, Any]) -> float:
    """Of all decode launches: layers, final norm and head once a launch (of an untied embedding
    the gathered rows too), live KV rows (a prefix that rows share once), and rows written."""
    hidden = shape["hidden_size"]
    weights = shape["n_layers"] * layer_parameters(shape) + hidden + shape["vocab_size"] * hidden
    per_token = 2 * shape["n_layers"] * shape["n_kv_heads"] * shape["head_dim"]
    total = 0
    for launch in run.launches:
        if launch.kind != "decode":
            continue
        gathered = 0 if shape["tied_embeddings"] else len(launch.rows) * hidden
        groups: dict[int, int] = {}
        own = 0
        for session, kv, _ in launch.rows:
            shared = min(session.shared_prefix_tokens, kv)
            groups[session.group] = max(groups.get(session.group, 0), shared)
            own += kv - shared
        live = own + sum(groups.values())
        total += weights + gathered + per_token * (live + len(launch.rows))
    return float(_SIZE * total)


def prefill_flops(run: WholeRun, shape: dict[str, Any]) -> float:
    """Of n_new tokens: two a parameter without embedding and head, four a head dimension and
    attended token, and the head for the last position of each prompt."""
    hidden = shape["hidden_size"]
    parameters = shape["n_layers"] * layer_parameters(shape) + hidden
    total = 0
    for done in run.turns:
        turn = done.turn
        attended = sum(p + 1 for p in range(turn.n_cached, turn.prompt_tokens))
        attention = 4 * shape["n_layers"] * shape["n_heads"] * shape["head_dim"] * attended
        total += 2 * parameters * turn.n_new + attention + 2 * shape["vocab_size"] * hidden
    return float(total)
