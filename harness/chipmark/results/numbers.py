"""Numbers of a stored file with the range that what reads them can take."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Whole = Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)]
"""A whole number of 64 bits."""

Count = Annotated[int, Field(ge=0, lt=1 << 63)]
"""How many of something, or bytes."""

Natural = Annotated[int, Field(ge=1, lt=1 << 63)]
"""How many of what there is at least one of."""

Amount = Annotated[float, Field(ge=0)]
"""A time, a power, an error or a rate; finite, as every float of a stored part."""

Positive = Annotated[float, Field(gt=0)]
"""An amount that is divided by."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole."""

Number = float | Whole | None
"""A value of the table, null where it is not known."""
