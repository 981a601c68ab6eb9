"""The reference: one decoder in plain torch, fp32 or double, that streams layer by layer.

It keeps one layer's weights at a time, and the hidden states of all sequences. The peak is the
larger of one layer and of the head, with the head's logits for the rows asked for. For qwen3-8b:
a layer is 0.77 GB in fp32, the head 2.5 GB (3.7 GB while bf16 bits are widened), the embedding
the same but gone when its rows are gathered; with 8,192 tokens of hidden states (0.13 GB) this
stays under 6 GB. Ask for few `positions`: full logits of 8,192 tokens would be 5 GB.

On an accelerator it is the same plain torch in fp32, without TF32 (`exact_products`); whoever
uses one compares it with the CPU's on a short sequence first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional

from chipmark_models.config import ModelConfig
from chipmark_models.errors import BadInputError
from chipmark_models.rope import cos_sin_tables
from chipmark_models.rounding import Rounding
from chipmark_models.tensors import EMBEDDING, FINAL_NORM, HEAD, layer_prefix, layer_shapes

TensorFn = Callable[[str], npt.NDArray[np.float32]]
Tensors = dict[str, torch.Tensor]

_HEAD_ROWS = 32_768  # rows of the head a step: bounds the copy that a read-only map or double needs
_SCORED_ROWS = 8_192  # the same where only likelihoods are asked for, in double
_QUERY_ROWS = 256  # queries a step, at most: bounds the matrix of attention scores
_SCORES = 1 << 27  # elements of that matrix, at most: long contexts take fewer queries a step


class Oracle:
    """Logits of whole sequences, without a cache. `tensor_fn` gives float32 weights by name.

    Hand it the dequantised weights of the precision under test, then its distance to a backend
    is the backend's error alone. `double` computes in float64. With `rounding` the distance to the
    plain oracle is what rounding activations does by itself. `device` is torch's name of it.
    """

    def __init__(
        self,
        config: ModelConfig,
        tensor_fn: TensorFn,
        *,
        double: bool = False,
        rounding: Rounding | None = None,
        device: str = "cpu",
    ) -> None:
        self.config = config
        self._device = torch.device(device)
        self._exact = device != "cpu"
        self._tensor_fn = tensor_fn
        self._dtype = torch.float64 if double else torch.float32
        self._rounding = rounding

    @torch.no_grad()
    def logits(
        self,
        sequences: Sequence[npt.NDArray[np.integer[Any]]],
        positions: Sequence[npt.NDArray[np.integer[Any]]] | None = None,
    ) -> list[npt.NDArray[np.float32]]:
        """Logits float32 (T, vocab) of each sequence of token ids (T,).

        With `positions` (one array a sequence) only those rows, (len(positions[i]), vocab).
        Raises BadInputError for an id outside the vocabulary or an empty sequence.
        """
        hidden = self._hidden(sequences)
        if positions is not None:
            hidden = [x[self._to(np.asarray(p))] for x, p in zip(hidden, positions, strict=True)]
        return self._head(hidden)

    @torch.no_grad()
    def token_nll(
        self, sequences: Sequence[npt.NDArray[np.integer[Any]]]
    ) -> list[npt.NDArray[np.float64]]:
        """Negative log-likelihood in nats of every token of each sequence (T,) but the first, given
        those before it: float64 (T - 1,). No logits of all rows and the whole vocabulary exist at
        once. Raises BadInputError for an id outside the vocabulary or an empty sequence.
        """
        hidden = [x[:-1] for x in self._hidden(sequences)]
        table = self._tensor_fn(EMBEDDING if self.config.tied_embeddings else HEAD)
        targets = [self._to(np.asarray(ids[1:], np.int64)) for ids in sequences]
        of_all = [torch.full(t.shape, -torch.inf, dtype=torch.float64) for t in targets]
        of_target = [torch.zeros(t.shape, dtype=torch.float64) for t in targets]
        for start in range(0, self.config.vocab_size, _SCORED_ROWS):
            rows = self._to(table[start : start + _SCORED_ROWS]).to(self._dtype)
            for i, (x, target) in enumerate(zip(hidden, targets, strict=True)):
                logits = (x @ rows.T).cpu().double()
                of_all[i] = torch.logaddexp(of_all[i], logits.logsumexp(-1))
                at = target.cpu() - start
                here = (at >= 0) & (at < len(rows))
                of_target[i][here] = logits[here].gather(-1, at[here, None])[:, 0]
        return [(a - t).numpy() for a, t in zip(of_all, of_target, strict=True)]

    def _hidden(self, sequences: Sequence[npt.NDArray[np.integer[Any]]]) -> list[torch.Tensor]:
        """Normalised hidden states (T, hidden_size) of each sequence, before the head."""
        if self._exact:
            exact_products()
        hidden = self._embed(sequences)
        tables = self._rope_tables(max(len(s) for s in sequences))
        for layer in range(self.config.n_layers):
            weights = {n: self._load(layer_prefix(layer) + n) for n in layer_shapes(self.config)}
            hidden = [self._layer(x, weights, tables) for x in hidden]
            del weights
        norm = self._load(FINAL_NORM)
        return [self._rms(x, norm) for x in hidden]

    def _load(self, name: str) -> torch.Tensor:
        return self._to(self._tensor_fn(name)).to(self._dtype)

    def _to(self, array: npt.NDArray[Any]) -> torch.Tensor:
        # torch warns of read-only memory; nothing here writes to a weight, but maps are read-only.
        return torch.from_numpy(array if array.flags.writeable else array.copy()).to(self._device)

    def _embed(self, sequences: Sequence[npt.NDArray[np.integer[Any]]]) -> list[torch.Tensor]:
        for i, ids in enumerate(sequences):
            if len(ids) == 0:
                raise BadInputError(f"sequence {i}", "is empty")
            if ids.min() < 0 or ids.max() >= self.config.vocab_size:
                raise BadInputError(f"sequence {i}", "has a token outside the vocabulary")
        table = self._tensor_fn(EMBEDDING)
        return [self._to(table[ids]).to(self._dtype) for ids in sequences]

    def _rope_tables(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        cos, sin = cos_sin_tables(self.config, length)
        return self._to(cos).to(self._dtype), self._to(sin).to(self._dtype)

    def _rms(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.config.rms_eps) * weight

    def _layer(
        self, x: torch.Tensor, w: Tensors, tables: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        x = self._stored(x + self._attention(self._rms(x, w["input_layernorm.weight"]), w, tables))
        h = self._rms(x, w["post_attention_layernorm.weight"])
        gate = functional.silu(self._linear(h, w, "mlp.gate_proj"))
        down = self._linear(gate * self._linear(h, w, "mlp.up_proj"), w, "mlp.down_proj")
        return self._stored(x + down)

    def _attention(
        self, x: torch.Tensor, w: Tensors, tables: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        c, length = self.config, x.shape[0]
        q = self._linear(x, w, "self_attn.q_proj").view(length, c.n_heads, c.head_dim)
        k = self._linear(x, w, "self_attn.k_proj").view(length, c.n_kv_heads, c.head_dim)
        v = self._linear(x, w, "self_attn.v_proj").view(length, c.n_kv_heads, c.head_dim)
        if c.qk_norm:
            q = self._rms(q, w["self_attn.q_norm.weight"])
            k = self._rms(k, w["self_attn.k_norm.weight"])
        q, k = self._rotate(q, tables), self._rotate(k, tables)
        # Query heads g*i .. g*i + g-1 share KV head i: (kv head, group, T, head_dim).
        q = q.view(length, c.n_kv_heads, -1, c.head_dim).permute(1, 2, 0, 3)
        k, v = k.permute(1, 0, 2)[:, None], v.permute(1, 0, 2)[:, None]
        out = torch.empty_like(q)
        step = max(1, min(_QUERY_ROWS, _SCORES // (c.n_heads * length)))
        places = torch.arange(length, device=self._device)
        for start in range(0, length, step):
            stop = min(start + step, length)
            scores = q[:, :, start:stop] @ k[:, :, :stop].transpose(-1, -2) * c.head_dim**-0.5
            hidden = places[None, :stop] > places[start:stop, None]
            scores.masked_fill_(hidden, -torch.inf)
            out[:, :, start:stop] = scores.softmax(-1) @ v[:, :, :stop]
        joined = out.permute(2, 0, 1, 3).reshape(length, c.q_size)
        return self._linear(joined, w, "self_attn.o_proj")

    def _rotate(self, x: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        cos, sin = (t[: x.shape[0], None] for t in tables)
        if self.config.rope_interleaved:
            a, b = x[..., 0::2], x[..., 1::2]
            return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def _head(self, hidden: list[torch.Tensor]) -> list[npt.NDArray[np.float32]]:
        table = self._tensor_fn(EMBEDDING if self.config.tied_embeddings else HEAD)
        out = [np.empty((x.shape[0], self.config.vocab_size), np.float32) for x in hidden]
        step = _HEAD_ROWS
        for start in range(0, self.config.vocab_size, step):
            rows = self._to(table[start : start + step]).to(self._dtype)
            for x, logits in zip(hidden, out, strict=True):
                logits[:, start : start + step] = (x @ rows.T).float().cpu().numpy()
        return out

    def _linear(self, x: torch.Tensor, w: Tensors, name: str) -> torch.Tensor:
        x = x if self._rounding is None else self._rounding.into(x)
        return self._stored(functional.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias")))

    def _stored(self, x: torch.Tensor) -> torch.Tensor:
        """x as a backend that rounds would keep it."""
        return x if self._rounding is None else self._rounding.out(x)


def exact_products() -> None:
    """Products of fp32 in fp32 on every device: no TF32, no bf16 in several passes."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def products_are_exact() -> bool:
    """Whether products of fp32 are computed in fp32 now."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    highest = torch.get_float32_matmul_precision() == "highest"
    return highest and not cuda.allow_tf32 and not cudnn.allow_tf32
