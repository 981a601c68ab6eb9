"""`python -m chipmark.gate.simulation`."""

import sys

from chipmark.gate.simulation.rule import main

if __name__ == "__main__":
    sys.exit(main())
