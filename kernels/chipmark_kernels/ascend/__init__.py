"""Ascend's compilers, ahead of time: what is compiled, how, and what came of it."""
