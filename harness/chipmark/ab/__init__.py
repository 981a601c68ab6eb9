"""Paired runs of two arms: ABBA rounds of fresh processes, the canary, and A/A of the machine."""
