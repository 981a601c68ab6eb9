"""ONNX graphs of the decoder: one walk over the layers, an emitter a graph level."""
