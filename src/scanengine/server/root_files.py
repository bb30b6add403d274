"""Files at the root of the site: proofs of ownership such as ``MP_verify_*.txt``, and what browsers and robots ask for.

A file is read when it is asked for, so a new one is served at once. Only plain names are looked up, only regular files
that lie in the folder itself are opened, and no link is followed: nothing else of the workspace can be reached.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from http import HTTPStatus
from pathlib import Path
from typing import Final

from aiohttp import web

from scanengine.server.routes import PROGRAM, Reply, Route

BYTES_MAX: Final = 64 << 10
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")
"""No dot in front: hidden files are what editors and tools leave behind."""
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".xml": "application/xml",
    ".json": "application/json",
    ".ico": "image/x-icon",
    ".png": "image/png",
}
_TEXT: Final = "text/plain; charset=utf-8"
_ROBOTS: Final = b"User-agent: *\nDisallow: /s/\nDisallow: /S/\nDisallow: /01/\nDisallow: /v1/\nDisallow: /wechat/\n"
"""A code is a bearer secret: its page has no place in a search engine."""


async def get_root_file(request: web.Request) -> web.Response:
    """Serve a file of the workspace's folder of root files."""
    name = request.match_info["name"]
    program = request.app[PROGRAM]
    folder = program.workspace.folder / program.settings.server.root_files
    content = await asyncio.to_thread(_read, folder, name) if _NAME.fullmatch(name) else None
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    if content is not None:
        return web.Response(body=content, headers=headers | {"Content-Type": _TYPES.get(Path(name).suffix, _TEXT)})
    if name == "robots.txt":
        return web.Response(body=_ROBOTS, headers=headers | {"Content-Type": _TEXT})
    if name == "favicon.ico":
        # Every browser asks for it: none is no error, and need not be asked for again today.
        return web.Response(status=HTTPStatus.NO_CONTENT, headers={"Cache-Control": "max-age=86400"})
    raise web.HTTPNotFound


def _read(folder: Path, name: str) -> bytes | None:
    """Return the content of a regular file of the folder; None if there is none, or it is too large."""
    try:
        # Not blocking, as to open a pipe that nobody writes to takes for ever.
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > BYTES_MAX:
            return None
        return os.read(descriptor, BYTES_MAX)
    except OSError:
        return None
    finally:
        os.close(descriptor)


ROUTES: Final = (
    Route(
        "GET",
        "/{name}",
        get_root_file,
        replies=(
            Reply(200, "The file, its type by its name", media="*/*"),
            Reply(204, "No icon", media=None),
        ),
        problems=(404,),
    ),
)
