"""Findings for people, for CI servers and for pull requests."""
