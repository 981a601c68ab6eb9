"""chipmark: one agent workload on every chip, in one honest table."""

__version__ = "0.1.0"
