"""Ways to a server: TLS, a socket file, a database, and a user who may do nothing but what the ledger needs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from helpers_ledger import RedisOpener, a_claim, a_look, answered, audit_of_redis, held_by, tag_of
from redis_servers import EVERYSEC, STRICT, RedisCluster, RedisServer
from scanengine.errors import SettingsError
from scanengine.ledger import PENDING
from scanengine.ledger.redis import RedisLedger, RedisReader
from scanengine.model import Adjustment, ClaimStatus

Starter = Callable[..., RedisServer]
DOCS = Path(__file__).parents[1] / "docs" / "redis.md"


@contextmanager
def asking(url: str) -> Iterator[redis.Redis]:
    """A client of the test's own."""
    client = redis.Redis.from_url(url)
    try:
        yield client
    finally:
        client.close()


def use(ledger: RedisLedger) -> None:
    """Do everything that a ledger can do."""
    assert ledger.claim(a_claim(1)).status is ClaimStatus.AWARDED, ledger.trouble
    assert ledger.observe(a_look(1)).count == 2
    ledger.announce(1)
    ledger.adjust(Adjustment("more", "spring", "stock", prize=0, amount=1))
    ledger.register_reader("accounts")
    assert [event.item for event in ledger.events("accounts", 0, 9)] == [1]
    ledger.ack("accounts", 1)
    assert ledger.totals().claims == 1


def test_tls(start_server: Starter, open_redis: RedisOpener, program_id: str) -> None:
    server = start_server(tls=True)
    ledger = open_redis(server.tls_url)
    use(ledger)
    assert ledger.claim_many([a_claim(item) for item in range(2, 600)])[-1].unit == 599
    assert audit_of_redis(server.tls_url, program_id) == (599, [])


def test_tls_of_a_server_that_nobody_vouches_for_is_refused(start_server: Starter, open_redis: RedisOpener) -> None:
    server = start_server(tls=True)
    ledger = open_redis(server.tls_url.partition("?")[0], timeout_s=1.0)
    assert ledger.claim(a_claim()) == PENDING
    assert ledger.trouble is not None
    assert "certificate" in ledger.trouble.lower()


def test_socket_file(redis_server: RedisServer, open_redis: RedisOpener, program_id: str) -> None:
    use(open_redis(redis_server.unix_url))
    assert open_redis(redis_server.url()).claim(a_claim(1)).replayed
    assert audit_of_redis(redis_server.unix_url, program_id)[0] == 1


def test_database_of_the_url_is_the_one_that_is_used(
    redis_server: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    use(open_redis(redis_server.url(db=3)))
    assert held_by(redis_server, program_id) == {}
    assert open_redis(redis_server.url()).claim(a_claim(1)).replayed is False


# The user of docs/redis.md.


def documented_rules(program_id: str) -> str:
    """Return what the docs give a ledger's user, for this program."""
    found = re.search(r"^redis-cli (ACL SETUSER scanengine on (?:.*\\\n)*.*)$", DOCS.read_text("utf-8"), re.MULTILINE)
    assert found, "docs/redis.md shows no ACL SETUSER line"
    # As a shell takes the words apart: what it would take for a pipe or a file must be quoted.
    words = shlex.split(found[1].replace("\\\n", " "))
    unquoted = re.sub(r"'[^']*'", "", found[1])
    assert not set("|<>&;()~{}*$") & set(unquoted), "a word that the shell would change is not quoted"
    return " ".join(words[5:]).replace("{<program id>}:", tag_of(program_id))


@pytest.fixture
def guarded(start_server: Starter, program_id: str) -> RedisServer:
    """A server with the documented user, whose password is ``secret``, and the functions not yet loaded."""
    return start_server(config=EVERYSEC, acl=[f"scanengine on >secret {documented_rules(program_id)}"])


def load_functions(server: RedisServer) -> None:
    """Load the functions as an operator who may."""
    from scanengine.ledger.redis.library import load_source

    server.client().execute_command("FUNCTION", "LOAD", load_source())


def test_user_of_the_docs_can_do_all_that_the_ledger_does(
    guarded: RedisServer, open_redis: RedisOpener, program_id: str
) -> None:
    load_functions(guarded)
    url = guarded.url("scanengine", "secret")
    ledger = open_redis(url, durability="everysec")
    use(ledger)
    assert ledger.durability == "everysec"
    assert (ledger.trouble, ledger.alarms) == (None, ())
    assert audit_of_redis(url, program_id) == (1, [])
    guarded.kill()
    guarded.restart()
    assert answered(ledger, a_claim(1)).replayed


def test_user_of_the_docs_is_told_to_have_the_functions_loaded(guarded: RedisServer, open_redis: RedisOpener) -> None:
    ledger = open_redis(guarded.url("scanengine", "secret"), durability="everysec", timeout_s=1.0)
    assert ledger.claim(a_claim()) == PENDING
    assert ledger.trouble is not None
    assert "scan_v1" in ledger.trouble
    load_functions(guarded)
    assert answered(ledger, a_claim()).unit == 1


@pytest.mark.parametrize(
    "words",
    [
        "EVAL return(1) 0", "FUNCTION LOAD x", "FUNCTION FLUSH", "FUNCTION DELETE scan_v1", "SCRIPT FLUSH", "KEYS *",
        "FLUSHALL", "FLUSHDB", "CONFIG SET appendonly no", "SHUTDOWN", "ACL WHOAMI",
        "REPLICAOF NO ONE", "SAVE", "MONITOR", "GET foreign", "SET foreign 1", "HGETALL foreign", "HSET foreign a 1",
        "SWAPDB 0 1", "HGETALL {another-program}:meta", "XADD {another-program}:outbox * a b",
        "FCALL scan_v1_totals 1 foreign",
    ],
)  # fmt: skip
def test_user_of_the_docs_may_do_nothing_else(words: str, guarded: RedisServer) -> None:
    load_functions(guarded)
    guarded.client().set("foreign", 1)
    with (
        asking(guarded.url("scanengine", "secret")) as client,
        pytest.raises(redis.ResponseError, match=r"permission|NOPERM"),
    ):
        client.execute_command(*words.split(" "))
    assert guarded.client().get("foreign") == b"1"


def test_user_of_the_docs_is_given_single_commands_on_its_own_keys(program_id: str) -> None:
    """No category, which would grow with the server, and no pattern beyond the program."""
    rules = documented_rules(program_id).split(" ")
    assert [rule for rule in rules if rule.startswith("~")] == [f"~{tag_of(program_id)}*"]
    assert not [rule for rule in rules if rule.startswith(("+@", "allkeys", "allcommands"))]
    assert not {"+eval", "+evalsha", "+function", "+function|load", "+config", "+config|set", "+keys"} & set(rules)


def test_strict_server_with_a_guarded_user(start_server: Starter, open_redis: RedisOpener, program_id: str) -> None:
    server = start_server(config=STRICT, acl=[f"scanengine on >secret {documented_rules(program_id)}"])
    load_functions(server)
    ledger = open_redis(server.url("scanengine", "secret"), durability="strict")
    use(ledger)
    assert ledger.durability == "strict"


SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}/x@127.0.0.1:6379/0", f"redis://:{SECRET}#x@127.0.0.1:6379/0",
        f"redis://user:{SECRET}@127.0.0.1:port/0", f"redis://:{SECRET}@127.0.0.1:6379/0?nonsense=1",
    ],
)  # fmt: skip
def test_url_that_cannot_be_read_is_refused_and_not_shown(url: str, open_redis: RedisOpener, program_id: str) -> None:
    for opening in (lambda: open_redis(url), lambda: RedisReader.open(url, program_id, None)):
        with pytest.raises(SettingsError, match="percent-encoded") as caught:
            opening()
        assert SECRET[:3] not in str(caught.value)
        assert caught.value.__suppress_context__


@pytest.mark.parametrize("outbox", ["Keep", "", "dorp"])
def test_outbox_is_one_of_two(outbox: str, redis_server: RedisServer, open_redis: RedisOpener) -> None:
    with pytest.raises(SettingsError, match='expected "keep" or "drop"'):
        open_redis(redis_server.url(), outbox=outbox)


def test_socket_file_of_a_node_leads_to_the_primary(redis_cluster: RedisCluster, open_redis: RedisOpener) -> None:
    for node in redis_cluster.nodes:
        ledger = open_redis(node.unix_url)
        assert ledger.claim(a_claim(1)).status is ClaimStatus.AWARDED, ledger.trouble
