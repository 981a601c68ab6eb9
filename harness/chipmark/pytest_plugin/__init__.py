"""The `chipmark` fixture, which works with pytest-benchmark."""
