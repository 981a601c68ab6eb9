"""What every part of a stored file is held to."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StoredPart(BaseModel):
    """A part of a stored file. Frozen; unknown fields are an error, so that a misspelt one is not
    lost, and so is a number that is not finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False
    )
