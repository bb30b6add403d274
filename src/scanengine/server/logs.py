"""The log of a server as one JSON object a line, for programs that collect it.

    {"time": "2026-05-01T04:00:00.000Z", "level": "WARNING", "logger": "scanengine.program.program",
     "message": "item 1099511627776: verified without counts, …", "item": 1099511627776, "request": "3bbd0e3b59ea…"}

What is logged is the business of those who log: item numbers, and never a code, a person or a token.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

from scanengine.errors import ScanEngineError
from scanengine.server.requests import REQUEST_ID

logger = logging.getLogger(__name__)

_ITEM: Final = re.compile(r"item (\d{1,20})\b")
"""How a message begins that is about one item."""


class JsonFormatter(logging.Formatter):
    """Makes one JSON object of a record, in ASCII and on one line, whatever its message holds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        message = record.getMessage()
        found: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname,
            "logger": record.name,
            "message": message,
        }
        about = _ITEM.match(message)
        if about:
            found["item"] = int(about[1])
        request = REQUEST_ID.get()
        if request:
            found["request"] = request
        if record.exc_info:
            found["trace"] = self.formatException(record.exc_info)
        return json.dumps(found)


def use_json() -> None:
    """Let everything that this process logs be JSON: errors that end it and warnings too."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonFormatter())
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_end


def _log_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logger.critical("ended by %s", kind.__name__, exc_info=(kind, error, trace))


@contextmanager
def logging_as(kind: str) -> Iterator[None]:
    """Log as the settings say inside the block, ``text`` or ``json``; as JSON also why it ends, if it does."""
    if kind != "json":
        yield
        return
    use_json()
    try:
        yield
    except (ScanEngineError, OSError) as error:
        logger.critical("%s", error)
        sys.exit(1)
