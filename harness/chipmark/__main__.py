"""`python -m chipmark` is the `chipmark` command."""

from __future__ import annotations

from chipmark.cli.main import entry

if __name__ == "__main__":
    entry()
