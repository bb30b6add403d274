"""The two formats of batches, and which of them a request is in and its reply is to be in."""

from __future__ import annotations

import json
from functools import lru_cache
from types import MappingProxyType, ModuleType
from typing import Final, NoReturn, TypeVar

import msgspec
from aiohttp import hdrs, web

from scanengine.errors import ScanError
from scanengine.server._batches import count_entries
from scanengine.server.looks import Frame
from scanengine.server.problems import Problem, bad_request, problem_of

_JSON: Final = "application/json"
_PACKED: Final = ("application/msgpack", "application/vnd.msgpack")
"""As most clients call it, and as it is registered."""
_ANYTHING: Final = ("application/x-www-form-urlencoded", "application/octet-stream")
"""What clients say of a body when nobody has told them what it is."""
_SHOWN_CHARS: Final = 40
_FIXED_ARRAY_MAX: Final = 15

T = TypeVar("T")


class Format:
    """One format of batches.

    Parameters
    ----------
    name : str
        As its users call it.
    module
        ``msgspec.json`` or ``msgspec.msgpack``, whose functions are alike.
    """

    def __init__(self, name: str, module: ModuleType, frame: Frame) -> None:
        self.name = name
        self.frame = frame
        self._module = module

    def check_count(self, body: bytes, count_max: int, field: str) -> None:
        """Check how many entries the list of a batch has, before anything is made of them.

        The list of MessagePack has its length in front, where :meth:`decode` stops; that of JSON has to be counted.

        Raises
        ------
        ScanError
            There are more.
        """
        if self._module is not msgspec.json:
            return
        found = count_entries(body)
        if found > count_max:
            raise ScanError(field, f"expected at most {count_max} entries, found {found}")

    def decode(self, body: bytes | msgspec.Raw, kind: type[T]) -> T:
        """Return a body as a structure, or one entry of a body.

        Raises
        ------
        msgspec.DecodeError, UnicodeDecodeError, RecursionError
            If it is not of this format, or (as ValidationError) not such a structure.
        """
        found: T = self._module.decode(body, type=kind)
        return found

    def decode_leniently(self, body: bytes, kind: type[T], error: msgspec.DecodeError) -> T:
        """Return a body that may hold halves of characters; raise the error if that is not what is wrong with it.

        JavaScript writes half of a cut emoji as ``\\ud83c``, which is no text: it must fail in its place, alone.
        """
        if self._module is not msgspec.json or isinstance(error, msgspec.ValidationError):
            raise error
        try:
            # As text: of bytes json would take UTF-16 and a byte order mark too.
            found = json.loads(body.decode(), parse_constant=_refuse)
        except ValueError:
            raise error from None
        return msgspec.convert(found, kind)

    def problem_of(self, error: Exception) -> Problem:
        """Return the problem of a body, or of an entry, that cannot be read."""
        is_unreadable = isinstance(error, msgspec.DecodeError | UnicodeDecodeError)
        if is_unreadable and not isinstance(error, msgspec.ValidationError):
            return bad_request(f"the body is not {self.name}: {error}", "body")
        return problem_of(error)

    def join(self, results: list[bytes]) -> bytes:
        """Return encoded results as one reply."""
        frame = self.frame
        return frame.head(len(results)) + frame.separator.join(results) + frame.tail


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _json_head(_: int) -> bytes:
    return b'{"results":['


def _packed_head(count: int) -> bytes:
    """Return a map of one key and the head of an array (fixmap, fixstr, fixarray or array 16 of MessagePack)."""
    size = bytes([0x90 | count]) if count <= _FIXED_ARRAY_MAX else b"\xdc" + count.to_bytes(2, "big")
    return b"\x81\xa7results" + size


_json: Final = Format("JSON", msgspec.json, Frame(msgspec.json.encode, _json_head, b",", b"]}"))
_packed: Final = Format("MessagePack", msgspec.msgpack, Frame(msgspec.msgpack.encode, _packed_head, b"", b""))
FORMATS: Final = MappingProxyType({_JSON: _json} | dict.fromkeys(_PACKED, _packed))
"""By content type."""
MEDIA: Final = tuple(FORMATS)


def media_of(request: web.Request) -> str:
    """Return the content type of a request's body; JSON if it says nothing, or nothing of use.

    Raises
    ------
    HTTPUnsupportedMediaType
        If it is neither format.
    """
    found = request.headers.get(hdrs.CONTENT_TYPE)
    if found is None:
        return _JSON
    media = found.partition(";")[0].strip().lower()
    if media in _ANYTHING:
        return _JSON
    if media not in FORMATS:
        shown = ascii(found)[:_SHOWN_CHARS]
        raise web.HTTPUnsupportedMediaType(reason=f"expected Content-Type {' or '.join(MEDIA)}, found {shown}")
    return media


def reply_media(request: web.Request, spoken: str) -> str:
    """Return the content type that the reply is to have: by ``Accept``, or the request's own."""
    accept = request.headers.getall(hdrs.ACCEPT, ())
    return _preferred(",".join(accept), spoken) if accept else spoken


@lru_cache(maxsize=64)
def _preferred(accept: str, spoken: str) -> str:
    """Return what is liked best of what there is; named beats ``*/*``, and without any of it the request's own."""
    best, best_rank = spoken, (0.0, False, False)
    for part in accept.lower().split(","):
        media, *parameters = [each.strip() for each in part.split(";")]
        is_named = media in FORMATS
        if not is_named and media not in ("*/*", "application/*"):
            continue
        found = media if is_named else spoken
        rank = (_quality(parameters), is_named, found == spoken)
        if rank[0] > 0 and rank > best_rank:
            best, best_rank = found, rank
    return best


def _quality(parameters: list[str]) -> float:
    for each in parameters:
        name, _, value = each.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
