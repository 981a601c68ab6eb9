"""pytest-benchmark's JSON, read, checked, stored and written."""
