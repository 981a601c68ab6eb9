"""Tables of rotary position embedding (Su et al. 2021), with the frequency scaling of Llama 3.1.

Computed in float64 and rounded once, so that every backend rotates by the same angles.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from chipmark_models.config import ModelConfig, RopeScaling


def inverse_frequencies(config: ModelConfig) -> npt.NDArray[np.float64]:
    """Radians per position of each rotated pair, float64 (head_dim / 2,)."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    frequencies = config.rope_theta**-exponents
    if config.rope_scaling is None:
        return frequencies
    return _llama3(frequencies, config.rope_scaling)


def _llama3(frequencies: npt.NDArray[np.float64], s: RopeScaling) -> npt.NDArray[np.float64]:
    """Divide low frequencies by `factor`, keep high ones, blend linearly between (Llama 3.1)."""
    turns = s.original_max_position * frequencies / (2 * math.pi)
    keep = (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
    keep = np.clip(keep, 0.0, 1.0)
    scaled: npt.NDArray[np.float64] = frequencies * (keep + (1.0 - keep) / s.factor)
    return scaled


def cos_sin_tables(
    config: ModelConfig, n_positions: int, start: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Cosine and sine for positions start..start+n_positions, float32 (n_positions, head_dim / 2).

    Column i belongs to the pair (i, i + head_dim/2), or (2i, 2i + 1) when the config says
    `rope_interleaved`.
    """
    positions = np.arange(start, start + n_positions, dtype=np.float64)
    angles = positions[:, None] * inverse_frequencies(config)[None, :]
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
