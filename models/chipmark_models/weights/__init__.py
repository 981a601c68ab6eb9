"""Weights from a seeded rule, a folder of safetensors or a GGUF file."""
