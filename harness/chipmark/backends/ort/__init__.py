"""ONNX Runtime execution providers, classic and plug-in."""
