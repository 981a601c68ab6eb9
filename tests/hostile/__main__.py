"""Mutated files through the readers, from a shell in tests/.

python -m hostile NAME SEED       one input of a subject, its error let through
python -m hostile NAME.. -n 500   so many inputs of the subjects whose names begin so
"""

from __future__ import annotations

import argparse
import tempfile
import traceback
from pathlib import Path

from hostile.subjects import subjects
from hostile.trial import Subject, prepared, run_trial


def one(subject: Subject, seed: int) -> None:
    """Mutate, seal, read, and let the reader's error through."""
    with tempfile.TemporaryDirectory() as folder:
        source = subject.good(Path(folder))
        prepared(subject, source, source.read_bytes(), seed)
        print(source.read_bytes()[:3000])
        try:
            subject.use(source)
        except BaseException:
            traceback.print_exc()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("-n", type=int, default=0)
    parser.add_argument("--seed", type=int, default=12)
    given = parser.parse_args()
    if not given.n:
        name, seed = given.words
        one(next(s for s in subjects() if s.name == name), int(seed))
        return
    prefixes = tuple(given.words) or ("",)
    chosen = [s for s in subjects() if s.name.startswith(prefixes)]
    for outcome in run_trial(chosen, given.n * len(chosen), given.seed):
        print(outcome.text())
        causes: dict[str, str] = {}
        for failure in outcome.failures:
            where = failure.partition(" at ")[2]
            causes.setdefault(where or failure.partition(": ")[2][:60], failure)
        for failure in causes.values():
            print("   ", failure[:400])


if __name__ == "__main__":
    main()
