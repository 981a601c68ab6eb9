"""Readers of vendors' command-line tools: what is printed, and the meter and state made of it."""
