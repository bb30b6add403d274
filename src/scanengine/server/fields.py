"""The fields of requests as ``/openapi.json`` shows them, and how bodies that are not asked for often are read.

The bounds are only shown here: :class:`~scanengine.program.scans.Scan` checks them, for the library and the command
line as for HTTP, and says in its own words what is wrong.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from scanengine.model import TEXT_CHARS_MAX, USER_BYTES_MAX, VISIT_BYTES_MAX, Role

ADCODES: Final[list[dict[str, Any]]] = [
    {"type": "null"},
    {"type": "string", "pattern": "^([0-9]{2}|[0-9]{4}|[0-9]{6})$"},
    {"type": "integer", "const": 0},
    *({"type": "integer", "minimum": 10**digits // 10, "maximum": 10**digits - 1} for digits in (2, 4, 6)),
]
"""What a region may be; of a union msgspec shows no bounds."""


def _text(bytes_max: int) -> dict[str, Any]:
    # JSON Schema can count characters only; the format says that it is bytes.
    return {"minLength": 1, "maxLength": bytes_max, "format": f"utf-8-{bytes_max}-bytes"}


CODE_SCHEMA: Final[dict[str, Any]] = {
    "type": "string",
    "maxLength": TEXT_CHARS_MAX,
    "description": "What the scanner handed over: a code in any spelling, or a URL around it.",
}
Code = Annotated[str, Meta(description=CODE_SCHEMA["description"], extra_json_schema={"maxLength": TEXT_CHARS_MAX})]
User = Annotated[
    str,
    Meta(
        description=f"Who scans, with its source in front: `wx:o6_bm`. At most {USER_BYTES_MAX} bytes of UTF-8.",
        extra_json_schema=_text(USER_BYTES_MAX),
    ),
]
Visit = Annotated[
    str,
    Meta(
        description=f"The same for all retries of one scan. At most {VISIT_BYTES_MAX} bytes of UTF-8.",
        extra_json_schema=_text(VISIT_BYTES_MAX),
    ),
]
RoleName = Annotated[str, Meta(extra_json_schema={"enum": [role.name.lower() for role in Role]})]
Region = Annotated[str | int | float | None, Meta(description="China adcode of 2, 4 or 6 digits.")]
"""JSON knows one kind of number, and some clients write 44.0 for 44."""

T = TypeVar("T")


def read_body(body: bytes, kind: type[T]) -> T:
    """Return a JSON body as a structure; 44.0 is read as 44 where an integer is expected.

    Raises
    ------
    msgspec.DecodeError
        If it is not JSON, or (as ValidationError) not such a structure.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        if "got `float`" not in str(error):
            raise
        return msgspec.convert(_with_integers(msgspec.json.decode(body)), kind)


def _with_integers(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [_with_integers(each) for each in value]
    if isinstance(value, dict):
        return {name: _with_integers(each) for name, each in value.items()}
    return value
