"""The options of an `ort:` backend by name and value, known without ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chipmark.errors import UnknownNameError, UsageError
from chipmark_models.onnx_graphs.emitter import LEVELS
from chipmark_models.onnx_graphs.quantised_linear import ACCURACY_LEVELS, QuantisedOperator

PRODUCT_OPTIONS = ("quantised", "accuracy_level")
"""Keys of LoadSpec.options that go over the provider's data for w8 and w4: quantised =
MatMulNBits or DequantizeLinear; accuracy_level = 0 to 4, of MatMulNBits."""

OPTIONS = ("graph", "spinning", "prepacking", "static", *PRODUCT_OPTIONS, "provider")
"""Keys of LoadSpec.options: graph = auto or a level of the graph; spinning, prepacking and static =
true or false (static fixes every dimension, for a provider that takes no free ones); provider = a
table of options for the provider, over those of its data; PRODUCT_OPTIONS: see there."""

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
    check_products(
        options.get("quantised", QuantisedOperator.MATMUL_NBITS), options.get("accuracy_level", 0)
    )
    if not isinstance(options.get("provider", {}), Mapping):
        raise UsageError(
            f"ort: the option provider is {options['provider']!r}, not a table of its options",
            "as --option ort:provider.KEY=VALUE",
        )


def check_products(operator: object, level: object) -> None:
    """Raise UnknownNameError for an operator of quantised products that does not exist, UsageError
    for an accuracy_level that is none of MatMulNBits."""
    if str(operator) not in set(QuantisedOperator):  # a list or a table may be given
        raise UnknownNameError("operator of quantised products", str(operator), QuantisedOperator)
    if type(level) is not int or level not in ACCURACY_LEVELS:
        raise UsageError(
            f"accuracy_level is {level!r}",
            "0 to 4: 4 allows int8 activations in products, 0 asks for fp32",
        )
