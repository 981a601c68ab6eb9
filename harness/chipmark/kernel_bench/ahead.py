"""`chipmark kernels ahead`: which compilers a target wants."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from chipmark.errors import UnknownNameError, UsageError
from chipmark.terminal.console import show_error


def targets_of(argv: Sequence[str]) -> list[str]:
    """The targets that a command line names; empty where it names none."""
    # Without abbreviations a word of another option could not be taken for one of this.
    only = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    only.add_argument("--targets", "--target", default="")
    try:
        known, _ = only.parse_known_args(list(argv))
    except argparse.ArgumentError:
        return []  # an option without its value: that is the command's own parser's to report
    return [name for name in known.targets.split(",") if name]


def main(argv: Sequence[str]) -> int:
    """Hand the command to Triton's own compilers or to Ascend's; its exit code."""
    from chipmark.kernel_bench import ahead_cache, ascend_ahead
    from chipmark_kernels import aot
    from chipmark_kernels.ascend.targets import ASCEND_TARGETS
    from chipmark_kernels.device import TARGETS

    if any(word.split("=")[0] in ("--cache", "--unpack") for word in argv):
        return ahead_cache.main(argv)
    named = targets_of(argv)
    valid = [*TARGETS, *ASCEND_TARGETS]
    try:
        for name in named:
            if name not in valid:
                raise UnknownNameError("target", name, valid)
        ascend = [name for name in named if name in ASCEND_TARGETS]
        if ascend and len(named) > 1:
            raise UsageError(
                f"--targets: {ascend[0]} is compiled by itself, for it has compilers of its own; "
                f"call once for {' and once for '.join(named)}"
            )
    except (UnknownNameError, UsageError) as error:
        show_error(error)
        return error.exit_code
    return ascend_ahead.main(argv) if ascend else aot.main(argv)
