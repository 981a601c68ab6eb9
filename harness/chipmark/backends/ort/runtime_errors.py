"""The exceptions that ONNX Runtime's binding raises."""

from __future__ import annotations


def onnxruntime_errors() -> tuple[type[Exception], ...]:
    """Its own classes of whatever version is installed, and RuntimeError; not all share a base."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    named = ("Fail", "EPFail", "InvalidGraph", "InvalidArgument", "NotImplemented",
             "RuntimeException", "NoSuchFile", "InvalidProtobuf", "EngineError")  # fmt: skip
    return (*(getattr(state, name) for name in named if hasattr(state, name)), RuntimeError)
