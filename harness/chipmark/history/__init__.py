"""Stored runs over time: series, where they changed, and how they drift."""
