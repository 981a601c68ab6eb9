"""Immutable, versioned records."""
