"""The one scheduler that drives every backend."""
