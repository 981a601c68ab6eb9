"""Pydantic models out of files that somebody else may have made; faults name file and field."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from chipmark_models.errors import BadInputError
from chipmark_models.foreign_file import Error, PathLike

Model = TypeVar("Model", bound=BaseModel)


def parse_model(
    kind: type[Model], text: str, path: PathLike, *, error: Error = BadInputError, hint: str = ""
) -> Model:
    """A model from a JSON text; raises `error` with the first field that is wrong.

    `kind` must refuse numbers that are not finite itself (`allow_inf_nan=False`).
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as why:
        field, problem = first_fault(why)
        raise error(path, problem, field=field, hint=hint) from why


def checked_model(
    kind: type[Model], data: Any, path: PathLike, *, error: Error = BadInputError, hint: str = ""
) -> Model:
    """As `parse_model`, from a document that was parsed before."""
    try:
        return kind.model_validate(data)
    except ValidationError as why:
        field, problem = first_fault(why)
        raise error(path, problem, field=field, hint=hint) from why


def first_fault(error: ValidationError) -> tuple[str, str]:
    """The field of a model's first fault, names joined by dots, and what is wrong with it."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return ".".join(str(part) for part in first["loc"]), first["msg"]
