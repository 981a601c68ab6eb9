"""From one schema of `record.json` to the next: plain documents in, plain documents out."""

from __future__ import annotations

from typing import Any

from chipmark.engine.computed import class_of
from chipmark_models.errors import UnknownNameError


def record_1_to_2(document: dict[str, Any]) -> dict[str, Any]:
    """`lane` becomes `scenario`; the class of precision is concluded from what was computed.

    What record/1 did not keep is left at its default, which says that it is not known. Metrics
    keep their own schema.
    """
    stored = document.get("manifest")
    if not isinstance(stored, dict):
        return document | {"schema": "chipmark.record/2"}  # the next check says what is missing
    manifest = dict(stored)
    manifest["schema"] = "chipmark.cell/2"
    if "lane" in manifest:
        manifest["scenario"] = manifest.pop("lane")
    precision = manifest.get("precision")
    if isinstance(precision, dict):
        manifest["precision"] = precision | {"class_name": _class_name(precision)}
    return document | {"schema": "chipmark.record/2", "manifest": manifest}


def _class_name(precision: dict[str, Any]) -> str:
    weights, words, kv = (str(precision.get(n, "")) for n in ("weights", "activation", "kv"))
    try:
        return class_of(weights, words, kv)
    except UnknownNameError:
        return str(precision.get("class_name"))
