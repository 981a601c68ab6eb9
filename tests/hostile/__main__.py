"""`python -m hostile SUBJECT SEED` in tests/: one mutated file through its reader, shown whole."""

from __future__ import annotations

import sys
import tempfile
import traceback
from pathlib import Path

from hostile.subjects import subjects
from hostile.trial import prepared


def main(name: str, seed: int) -> None:
    """Mutate, seal, read, and let the reader's error through."""
    subject = next(s for s in subjects() if s.name == name)
    with tempfile.TemporaryDirectory() as folder:
        source = subject.good(Path(folder))
        prepared(subject, source, source.read_bytes(), seed)
        print(source.read_bytes()[:3000])
        try:
            subject.use(source)
        except BaseException:
            traceback.print_exc()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
