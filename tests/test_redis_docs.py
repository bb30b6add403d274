"""What ``docs/redis.md`` says of a server is so: the configuration it recommends, the keys in its table."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from helpers_ledger import RedisOpener, a_campaign, a_claim, a_look, tag_of
from redis_servers import RedisServer
from scanengine.model import Adjustment, Party, PrizeTerms, Role

PAGE = (Path(__file__).parents[1] / "docs" / "redis.md").read_text("utf-8")


def documented_config() -> dict[str, str]:
    block = re.search(r"^```text\n(appendonly .*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert block
    lines = [line for line in block[1].splitlines() if not line.startswith("#")]
    assert not [line for line in lines if "#" in line], "a comment of redis.conf has a line of its own"
    return dict(line.split(" ", 1) for line in lines)


def documented_keys() -> dict[str, str]:
    """Return patterns of keys, without the program's tag, and their types."""
    rows = re.findall(r"^\| `\{id\}:(\S+)` \| (\w+) \|", PAGE, re.MULTILINE)
    return {re.sub("[A-Z]+", "[^:]+", name): kind for name, kind in rows}


def test_recommended_configuration_is_strict(start_server: Callable[..., RedisServer], open_redis: RedisOpener) -> None:
    ledger = open_redis(start_server(config=documented_config()).url(), durability="strict")
    assert (ledger.durability, ledger.trouble, ledger.alarms) == ("strict", None, ())
    assert ledger.claim(a_claim()).unit == 1


def test_every_key_is_in_the_table_and_none_expires(
    redis_server: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    ledger = open_redis(redis_server.url())
    ledger.register_reader("accounts")
    terms = a_campaign((PrizeTerms(0, money=5, stock=1, stock_per_day=1, fallback=1), PrizeTerms(1)), budget_total=9)
    ledger.claim_many([a_claim(item, terms=terms) for item in range(300)])
    ledger.claim(a_claim(1, "shop", party=Party.CHANNEL, role=Role.RETAILER, terms=terms))
    ledger.observe(a_look(1))
    ledger.observe(a_look(999))
    for number, action in enumerate(("stock", "budget", "pause", "resume", "close")):
        ledger.adjust(Adjustment(str(number), "spring", action, prize=0, amount=1))
    client = redis_server.client()
    tag = tag_of(program_id)
    keys = documented_keys()
    seen = set()
    for key in client.scan_iter(match=f"{tag}*", count=10_000):
        name = key.decode().removeprefix(tag)
        (pattern,) = [pattern for pattern in keys if re.fullmatch(pattern, name)]
        assert client.type(key).decode() == keys[pattern]
        assert client.ttl(key) == -1
        seen.add(pattern)
    assert seen == set(keys)
