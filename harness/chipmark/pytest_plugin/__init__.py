"""The `chipmark` fixture beside pytest-benchmark."""
