"""What `scripts/gpu` runs on a machine with a GPU, one subject a file."""
