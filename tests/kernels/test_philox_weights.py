"""The kernel that makes seeded weights, interpreted: the host's bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chipmark_kernels.philox_weights import philox_weights
from chipmark_models.presets import preset
from chipmark_models.weights.plain import round_to
from chipmark_models.weights.synthetic import SyntheticWeights


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("model.norm.weight", 64),
        ("model.layers.1.input_layernorm.weight", 1),
        ("model.layers.0.mlp.down_proj.weight", 2_049),
        ("model.embed_tokens.weight", 5_003),
    ],
)
def test_the_kernel_makes_the_hosts_bits(name: str, n: int) -> None:
    source = SyntheticWeights(preset("tiny"), 7)
    bits = round_to(source.values(name), "bf16").view(np.int16)
    made = philox_weights(torch.from_numpy(bits).view(torch.bfloat16), source.key(name), n)
    expected = round_to(source.read(name), "bf16").reshape(-1)[:n].view(np.int16)
    assert made.shape == (n,)
    np.testing.assert_array_equal(made.view(torch.int16).numpy(), expected)


def test_a_table_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="1021 values"):
        philox_weights(torch.zeros(1_020), 0, 8)
