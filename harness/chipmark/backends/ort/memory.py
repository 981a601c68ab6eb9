"""What a cell on ONNX Runtime needs of memory; `backends.fit` judges it."""

from __future__ import annotations

import math

from chipmark.backends.fit import Need, check_fit
from chipmark.backends.host import available_memory
from chipmark.engine.contract import LoadSpec
from chipmark_models.config import ModelConfig
from chipmark_models.costs import parameters
from chipmark_models.precision import QUANTISED, stored_as, tensor_bytes
from chipmark_models.tensors import expected_shapes

OVERHEAD_BYTES = 500_000_000
"""Python, the runtime and its activations; the packed copies of weights are in WEIGHTS_FACTOR."""
WEIGHTS_FACTOR = 1.3


def check_fits(
    config: ModelConfig,
    spec: LoadSpec,
    n_slots: int,
    dtype: str,
    available: int | None = None,
) -> None:
    """Raise DoesNotFitError naming what would fit; `available` bytes are read where None."""
    item = 2 if dtype == "float16" else 4
    per_token = 2 * config.n_layers * config.kv_size * item
    need = Need(
        weight_bytes=int(_weights(config, spec.precision, item) * WEIGHTS_FACTOR),
        bytes_per_token=per_token,
        n_seqs=spec.n_seqs,
        max_context=spec.max_context,
        model_context=config.max_context,
        reserved=n_slots - spec.n_seqs,
        work_bytes=OVERHEAD_BYTES,
    )
    free = available_memory() if available is None else available
    check_fit(need, free, f"{config.name} in {spec.precision}")


def _weights(config: ModelConfig, precision: str, item: int) -> int:
    """Bytes as a graph holds them: what a quantised precision keeps is as wide as the rest."""
    if precision not in QUANTISED:
        return parameters(config) * item
    return sum(
        tensor_bytes(precision, name, shape)
        if stored_as(precision, name, shape) == precision
        else math.prod(shape) * item
        for name, shape in expected_shapes(config).items()
    )
