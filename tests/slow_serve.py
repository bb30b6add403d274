"""``scanengine`` with a ledger of little capacity: ``python slow_serve.py BATCH_MAX SECONDS ARGUMENTS…``.

Each batch holds at most so many requests and takes so many seconds more. Nothing else is changed.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from scanengine.cli import main
from scanengine.ledger import schema, sqlite
from scanengine.ledger.redis import asking
from scanengine.ledger.redis import ledger as redis_ledger


def slow_down(batch_max: int, seconds: float) -> None:
    """Replace what answers a batch in both ledgers."""
    schema.BATCH_MAX = redis_ledger.BATCH_MAX = batch_max  # type: ignore[misc]
    answer_sqlite, answer_redis = sqlite.SqliteLedger._answer, asking.Asker.answer
    turn = asyncio.Lock()

    def slow_sqlite(self: Any, requests: Any) -> Any:
        time.sleep(seconds)
        return answer_sqlite(self, requests)

    async def slow_redis(self: Any, *asked: Any) -> Any:
        async with turn:  # One after the other, as one server does.
            await asyncio.sleep(seconds)
        return await answer_redis(self, *asked)

    sqlite.SqliteLedger._answer = slow_sqlite  # type: ignore[method-assign]
    asking.Asker.answer = slow_redis  # type: ignore[method-assign]


if __name__ == "__main__":
    slow_down(int(sys.argv[1]), float(sys.argv[2]))
    del sys.argv[1:3]
    main()
