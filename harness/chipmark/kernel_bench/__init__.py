"""Kernels on a GPU: cases, peers, roofs, timing and verdicts. `chipmark kernels`."""
