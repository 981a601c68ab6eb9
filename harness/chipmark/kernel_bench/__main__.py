"""`python -m chipmark.kernel_bench SUBCOMMAND`, with numpy, rich, torch and triton only."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from chipmark.errors import UnknownNameError
from chipmark.kernel_bench.subcommands import SUBCOMMANDS


def main(argv: Sequence[str]) -> int:
    """The exit code of the subcommand; 2 for one that does not exist."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m chipmark.kernel_bench SUBCOMMAND [--help]\n")
        for name, entry in SUBCOMMANDS.items():
            print(f"  {name:8}{entry.summary}")
        return 0 if argv else 2
    if argv[0] not in SUBCOMMANDS:
        error = UnknownNameError("subcommand", argv[0], SUBCOMMANDS)
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return SUBCOMMANDS[argv[0]].main()(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
