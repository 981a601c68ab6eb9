"""What the slot decoder computes in, by the type of its device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chipmark.engine.computed import Accumulator, ComputedPrecision, Number, Weights

if TYPE_CHECKING:
    from chipmark_models.decoder.slots.decoder import Decoder


def computed_precision(precision: str, device_type: str, decoder: Decoder) -> ComputedPrecision:
    """What is computed. On a CPU activations are float32; 16-bit weights and KV are widened as
    they are read, or the activation is rounded where a product needs it so."""
    if device_type != "cpu":
        return ComputedPrecision.plain(precision, accumulate=Accumulator.TORCH)
    if decoder.dtype == decoder.activation:
        return ComputedPrecision.plain("fp32", kv=precision)
    stored = Number(precision)
    return ComputedPrecision(
        weights=Weights(precision),
        activation=Number.FP32,
        linear_input=stored if decoder.rounds_activations else Number.FP32,
        kv=stored,
        accumulate=Accumulator.FP32,
        attention_input=stored,
    )
