"""One measured cell in a child process of its own."""
