"""Files of a model's folder: inside it, or where the cache of Hugging Face keeps what it links."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from chipmark_models.errors import BadInputError
from chipmark_models.foreign_file import MIB, lies_in, read_json

JSON_BYTES = 32 * MIB
"""Most bytes of a JSON file of a model: the index of a hundred thousand tensors takes a third."""


def check_place(path: Path) -> None:
    """Raise BadInputError where a link leads out of the folder that the file is in.

    A snapshot of Hugging Face's cache is a folder of links into `models--OWNER--NAME/blobs`, from
    wherever the snapshot itself may have been linked or copied.
    """
    if lies_in(path, path.parent):
        return
    real = Path(os.path.realpath(path))
    blobs = real.parent
    if blobs.name != "blobs" or not blobs.parent.name.startswith("models--"):
        raise BadInputError(path, "leads out of its folder", hint="copy the file into the folder")


def read_json_object(path: Path, hint: str = "") -> dict[str, Any]:
    """A JSON file of a model's folder that holds an object; BadInputError otherwise."""
    check_place(path)
    data = read_json(path, JSON_BYTES, hint=hint)
    if not isinstance(data, dict):
        raise BadInputError(path, "is not a JSON object")
    return data
