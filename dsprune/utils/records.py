"""Read typed JSON files; any problem is one line."""

import json
from pathlib import Path
from reprlib import repr as short_repr
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from dsprune.errors import UserError
from dsprune.utils.documents import without_duplicates
from dsprune.utils.files import describe_system_error

__all__ = [
    "Count",
    "FileName",
    "Record",
    "Seconds",
    "parse_record",
    "problem_of",
    "read_bytes",
    "read_json_object",
    "read_record",
]

M = TypeVar("M", bound=BaseModel)

MOST_BYTES = 2**31

Count = Annotated[int, Field(ge=0, le=10**15)]
"""Number of steps, weights or bytes."""

Seconds = Annotated[float, Field(ge=0, le=10**12, allow_inf_nan=False)]
"""A duration, or seconds since 1970."""

FileName = Annotated[str, Field(pattern=r"^[^./\\\x00][^/\\\x00]*$")]
"""The name of a file in the folder of its list: no path, and no hidden file."""


class Record(BaseModel):
    """Base class of the content of dsprune's files: frozen, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_bytes(path: Path, way_out: str) -> bytes:
    """Return the content of a file.

    Raises:
        UserError: the file does not exist, cannot be read, or is too large to be one of dsprune's.
    """
    try:
        if not path.is_file():  # a pipe could block forever
            raise UserError(f"{path}: {'not a file' if path.exists() else 'no such file'}: {way_out}")
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UserError(f"{path}: {size:,} bytes, more than such a file has: {way_out}")
        return path.read_bytes()
    except OSError as error:
        raise UserError(describe_system_error(error)) from error


def read_record(path: Path, kind: type[M], what: str, way_out: str) -> M:
    """Read a JSON file.

    Args:
        path: the file.
        kind: the model of its content.
        what: expected content, such as `a list of files`, for messages.
        way_out: the way out, for messages.

    Raises:
        UserError: the file does not exist, cannot be read, or has other content.
    """
    return parse_record(read_bytes(path, way_out), kind, str(path), what, way_out)


def read_json_object(path: Path, what: str, way_out: str) -> dict[str, Any] | None:
    """Read a JSON file with an object of any keys; None if it does not exist. See `read_record`."""
    return read_record(path, RootModel[dict[str, Any]], what, way_out).root if path.exists() else None


def parse_record(text: bytes | str, kind: type[M], where: str, what: str, way_out: str) -> M:
    """Read JSON that is part of a file; see `read_record`."""
    try:
        record = kind.model_validate_json(text)
        json.loads(text, object_pairs_hook=without_duplicates)  # of two equal keys pydantic takes the last
    except ValidationError as error:
        raise UserError(f"{where}: not {what} ({problem_of(error)}): {way_out}") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    return record


def problem_of(error: ValidationError) -> str:
    """Return the first problem with its field and value."""
    problem = error.errors(include_url=False)[0]
    field = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    return f"{field}: value {short_repr(problem['input'])}: {message}" if field else message
