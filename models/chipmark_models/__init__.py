"""Model configs, costs, weights, the oracle, the torch decoder and ONNX graphs."""
