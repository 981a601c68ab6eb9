"""Triton kernels, each with its plain reference."""
