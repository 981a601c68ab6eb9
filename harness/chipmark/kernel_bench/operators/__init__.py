"""Single operators of a model on any backend: parity, time and share of the roof of each."""
