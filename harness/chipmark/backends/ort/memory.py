"""Does a cell fit into memory, and if not, what would; counted before anything is allocated."""

from __future__ import annotations

from chipmark.backends.host import available_memory
from chipmark.engine.contract import LoadSpec
from chipmark.errors import DoesNotFitError
from chipmark_models.config import ModelConfig
from chipmark_models.weights.naming import expected_shapes

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
    if spec.max_context > config.max_context:
        raise DoesNotFitError(
            f"a context of {spec.max_context} is beyond {config.name}'s {config.max_context}",
            f"use a context of at most {config.max_context}",
        )
    available = available_memory() if available is None else available
    if available is None:
        return
    item = 2 if dtype == "float16" else 4
    parameters = 0
    for shape in expected_shapes(config).values():
        size = 1
        for n in shape:
            size *= n
        parameters += size
    weights = int(parameters * item * WEIGHTS_FACTOR) + OVERHEAD_BYTES
    token = 2 * config.n_layers * config.kv_size * item
    slot = (spec.max_context + 1) * token
    if weights + n_slots * slot <= available:
        return
    room = available - weights
    need = (weights + n_slots * slot) / 1e9
    said = (
        f"{config.name} in {spec.precision} needs {need:.1f} GB "
        f"and {available / 1e9:.1f} GB are free"
    )
    if room < token:
        raise DoesNotFitError(said, f"the weights alone need {weights / 1e9:.1f} GB")
    raise DoesNotFitError(
        said,
        f"{max(0, room // slot - (n_slots - spec.n_seqs))} sequences of {spec.max_context} tokens "
        f"fit, or {spec.n_seqs} of {room // (n_slots * token)}",
    )
