"""What a simulated device must measure, computed apart from everything that measures it."""
