"""Plain torch references, one file a kernel, with the launchers' signatures."""
