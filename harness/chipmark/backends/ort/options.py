"""The options of an `ort:` backend by name and value, known without ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chipmark.errors import UnknownNameError, UsageError
from chipmark_models.onnx_graphs.emitter import LEVELS
from chipmark_models.onnx_graphs.quantised_linear import ACCURACY_LEVELS, QuantisedOperator

OPTIONS = (
    "graph",
    "spinning",
    "prepacking",
    "static",
    "quantised",
    "accuracy_level",
    "provider",
)
"""Keys of LoadSpec.options: graph = auto or a level of the graph; spinning, prepacking and static =
true or false (static fixes every dimension, for a provider that takes no free ones); quantised =
MatMulNBits or DequantizeLinear and accuracy_level = 0 to 4, of MatMulNBits: how products with w8
and w4 weights are written, over the provider's data; provider = a table of options for the
provider, over those of its data."""

_SWITCHES = ("spinning", "prepacking", "static")


def check_options(options: Mapping[str, Any]) -> None:
    """Raise UnknownNameError for an option or a graph level that does not exist, UsageError for a
    value of another type."""
    for key in options:
        if key not in OPTIONS:
            raise UnknownNameError("option of an ort backend", key, OPTIONS)
    level = options.get("graph", "auto")
    if level not in ("auto", *LEVELS):
        raise UnknownNameError("graph level", str(level), ("auto", *LEVELS))
    for key in _SWITCHES:
        if not isinstance(options.get(key, True), bool):
            text = f"ort: the option {key} is {options[key]!r}, not true or false"
            raise UsageError(text, f"as --option ort:{key}=true")
    operator = str(options.get("quantised", QuantisedOperator.MATMUL_NBITS))
    if operator not in set(QuantisedOperator):
        raise UnknownNameError("operator of quantised products", operator, QuantisedOperator)
    accuracy = options.get("accuracy_level", 0)
    if type(accuracy) is not int or accuracy not in ACCURACY_LEVELS:
        raise UsageError(
            f"ort: the option accuracy_level is {accuracy!r}, not 0 to 4",
            "4 allows int8 activations in products, 0 asks for fp32",
        )
    if not isinstance(options.get("provider", {}), Mapping):
        raise UsageError(
            f"ort: the option provider is {options['provider']!r}, not a table of its options",
            "as --option ort:provider.KEY=VALUE",
        )
