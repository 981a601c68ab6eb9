"""The options that name files of the user's own, the same for every command that takes them."""

from __future__ import annotations

from typing import Any

import typer

from chipmark.user_files import CHIPS, PROVIDERS, VARIABLES


def _file(option: str, name: str, what: str) -> Any:
    return typer.Option(
        None,
        option,
        envvar=VARIABLES[name],
        metavar="FILE",
        help=f"{what} of your own (a {name}), added to the built-in list.",
    )


PROVIDERS_FILE = _file("--providers", PROVIDERS, "Providers of ONNX Runtime")
CHIPS_FILE = _file("--chips", CHIPS, "Chips")

PRICES_FILE = typer.Option(
    None,
    "--prices",
    envvar="CHIPMARK_PRICES",
    metavar="BOOK",
    help="Price book; default: the example of 2026.",
)
