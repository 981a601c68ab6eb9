"""How products with `w8` and `w4` weights are written for a provider, and what they really take.

`accuracy_level` of MatMulNBits is a permission, not a fact: level 4 allows int8 activations, which
a machine's kernels may have or not. So what is computed is found by a product of the graph's own
kind whose result tells the types apart, and never concluded from what was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chipmark.backends.ort.options import check_products
from chipmark.backends.ort.providers import Provider
from chipmark.codes import NoteCode
from chipmark.engine.computed import Accumulator, ComputedPrecision, Number, Weights
from chipmark.engine.contract import LoadSpec
from chipmark.errors import CellFailedError, UsageError
from chipmark_models.config import ModelConfig
from chipmark_models.onnx_graphs.builder import Graph, GraphBuilder
from chipmark_models.onnx_graphs.quantised_linear import (
    INTEGERS,
    QuantisedForm,
    QuantisedOperator,
    opset_of,
    quantised_array,
    quantised_product,
)
from chipmark_models.precision import QUANTISED
from chipmark_models.tensors import layer_shapes
from chipmark_models.weights.plain import FloatArray, round_to, widen
from chipmark_models.weights.quantise import QuantisedTensor, quantise

_ROWS = (1, 32)  # kernels of one row and of several may differ
_OUT = 64
_EXACT = 1e-4
"""rms-relative distance within which a result is that of fp32 activations: another order of sums
is 1e-6 away, TF32 and fp16 over 2e-4."""
_NEAR = 0.2
"""Share of what a rounding does by itself within which a result is of that rounding: the kernels'
ties and sums are under a hundredth of it, another rounding about all of it."""

Run = Callable[[Graph, dict[str, npt.NDArray[Any]], FloatArray], FloatArray]
"""Runs a graph x -> y with these initializers on the provider."""


@dataclass(frozen=True, slots=True)
class Products:
    """What products with quantised weights take.

    linear_input: the narrowest type; by_shape: the type by "rows x k", as "32 x 576".
    """

    form: QuantisedForm
    linear_input: Number
    by_shape: Mapping[str, Number]

    def computed(self) -> ComputedPrecision:
        """Activations between operations and KV are fp32 on every provider."""
        return ComputedPrecision(
            weights=Weights(self.form.precision),
            activation=Number.FP32,
            linear_input=self.linear_input,
            kv=Number.FP32,
            accumulate=Accumulator.PROVIDER,
        )

    def details(self) -> dict[str, Any]:
        """For the record, JSON-safe."""
        found: dict[str, Any] = {
            "operator": str(self.form.operator),
            "take": {shape: str(number) for shape, number in self.by_shape.items()},
        }
        if self.form.operator is QuantisedOperator.MATMUL_NBITS:
            found["accuracy_level"] = self.form.accuracy_level
        return {"quantised_products": found}

    def notes(self) -> tuple[tuple[str, str], ...]:
        """For people: by which operators, and what products take."""
        text = f"{self.form.precision} by {self.form.operator}"
        if self.form.operator is QuantisedOperator.MATMUL_NBITS:
            text += f" at accuracy_level {self.form.accuracy_level}"
        text += f": products take {self.linear_input}"
        if len(set(self.by_shape.values())) > 1:
            by = (f"{number} at {shape}" for shape, number in self.by_shape.items())
            text += f" ({', '.join(by)})"
        text += "; activations, KV and the tensors that are not quantised are fp32"
        return ((NoteCode.PRECISION_NOTE, text),)


def form_of(spec: LoadSpec, provider: Provider) -> QuantisedForm | None:
    """How the cell's quantised products are written, by its options or the provider's data; None
    for a plain precision. Raises UnknownNameError and UsageError for options."""
    operator = str(spec.options.get("quantised", provider.quantised))
    level = spec.options.get("accuracy_level", provider.accuracy_level)
    check_products(operator, level)
    if spec.precision not in QUANTISED:
        return None
    if spec.precision not in INTEGERS:
        raise UsageError(
            f"ort:{provider.name} does not compute {spec.precision}",
            f"it is written for {' and '.join(INTEGERS)}; a precision is never substituted",
        )
    return QuantisedForm(spec.precision, QuantisedOperator(operator), level)


def find_products(form: QuantisedForm, config: ModelConfig, run: Run, fixed: bool) -> Products:
    """Try a product of each width of the model's quantised matrices, at one row and at several.

    fixed: rows are a fixed dimension. Raises CellFailedError where a result is neither that of
    fp32 activations nor of a rounding that is known.
    """
    widths = {shape[1] for shape in layer_shapes(config).values() if len(shape) == 2}
    found: dict[str, Number] = {}
    for k in sorted(width for width in widths if form.takes(width)):
        for rows in _ROWS:
            found[f"{rows} x {k}"] = _try(form, rows, k, run, fixed)
    taken = set(found.values())
    narrowest = next((n for n in _ROUNDINGS if n in taken), Number.FP32)
    return Products(form, narrowest, found)


def _try(form: QuantisedForm, rows: int, k: int, run: Run, fixed: bool) -> Number:
    random = np.random.default_rng(k)
    weights = quantise(random.standard_normal((_OUT, k), np.float32), form.precision)
    x = random.standard_normal((rows, k), np.float32)
    y = run(*_graph(form, k, weights, rows if fixed else None), x)
    wide = weights.dequantise().T.astype(np.float64)
    exact = x @ wide
    away = _rms(y - exact) / _rms(exact)
    if away <= _EXACT:
        return Number.FP32
    for number, rounded in _ROUNDINGS.items():
        given = rounded(x, weights.group) @ wide
        if _rms(y - given) <= _NEAR * _rms(given - exact):
            return number
    raise CellFailedError(
        f"{form.operator} of {form.precision} is {away:.1e} away from a product of fp32"
        f" activations ({rows} x {k}), and not by a rounding that is known",
        "what products take could not be named: ask for fp32 by --option accuracy_level=0, or by an"
        " option of the provider's own",
    )


def _graph(
    form: QuantisedForm, k: int, weights: QuantisedTensor, rows: int | None
) -> tuple[Graph, dict[str, npt.NDArray[Any]]]:
    """y (rows, n) = x (rows, k) times the weights, as the decoder's graph writes it."""
    builder = GraphBuilder(opset_of(form))
    n: int | str = "rows" if rows is None else rows
    x = builder.input("x", "float32", (n, k))
    y = quantised_product(builder, form, x, "probe", ("probe",), (_OUT, k))
    builder.op("Identity", [y], out="y")
    builder.output("y", "float32", (n, _OUT))
    graph = builder.build("product", "plain", "float32")
    return graph, {view.name: quantised_array(view, [weights]) for view in graph.weights}


def int8_by_group(x: FloatArray, group: int) -> FloatArray:
    """x (rows, k) to int8 and back, a scale for each row and group: as the oracle's
    `round_groups_int8`."""
    grouped = x.reshape(len(x), -1, group)
    scale = np.abs(grouped).max(-1, keepdims=True) / np.float32(127)
    scale = np.where(scale > 0, scale, np.float32(1))
    rounded: FloatArray = (np.rint(grouped / scale) * scale).reshape(x.shape)
    return rounded


_ROUNDINGS: Mapping[Number, Callable[[FloatArray, int], FloatArray]] = {
    Number.INT8_BY_GROUP: int8_by_group,
    Number.BF16: lambda x, group: widen(round_to(x, "bf16"), "bf16"),
    Number.FP16: lambda x, group: widen(round_to(x, "fp16"), "fp16"),
}
"""What activations may be rounded to, the narrowest first."""


def _rms(values: npt.NDArray[np.floating[Any]]) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))
