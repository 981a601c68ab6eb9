"""What executes the engine's steps, one folder a kind."""
