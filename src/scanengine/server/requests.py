"""Who asks, and by which id a request is found again: client addresses behind proxies, and request ids.

Any client can write any header, so what a header says is believed only of a peer that is named in the settings as a
proxy of ours. Nothing here is stored.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from socket import AF_INET, inet_pton
from typing import Final, Protocol

from aiohttp import web
from multidict import MultiMapping

from scanengine.program._claims import Names

logger = logging.getLogger(__name__)

ID_HEADER: Final = "X-Request-Id"
REQUEST_ID: Final[ContextVar[str]] = ContextVar("scanengine_request_id", default="")
"""Id of the request that is being answered; "" outside one. Replies, problems and log lines carry it."""
_SANE_ID: Final = re.compile(r"[A-Za-z0-9._-]{8,64}")
_ID_PREFIX_BYTES: Final = 6
_ID_DIGITS: Final = 8
_IPV6_SITE_BYTES: Final = 8
"""A /64 is the least that a network gives to one customer, who can take any address in it."""

_ids = Names(os.urandom(_ID_PREFIX_BYTES), _ID_DIGITS)

Address = IPv4Address | IPv6Address


class Asked(Protocol):
    """What tells who asks, of a request: aiohttp's, or one of the hot path."""

    @property
    def app(self) -> web.Application:
        """Who is asked."""

    @property
    def method(self) -> str:
        """In upper case."""

    @property
    def headers(self) -> MultiMapping[str]:
        """As they were sent; names in any case."""

    @property
    def remote(self) -> str | None:
        """Address of the peer, None if it has none."""

    @property
    def query_string(self) -> str:
        """What follows the path's question mark."""

    @property
    def query(self) -> MultiMapping[str]:
        """The same, read."""


class Proxies:
    """The networks whose forwarding headers are believed.

    Parameters
    ----------
    networks : iterable of str
        ``10.0.0.0/8``, ``fd00::/8``, or a single address.

    Raises
    ------
    ValueError
        If one of them is no network; the settings have been checked for that.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(map(ip_network, networks))
        self._has_warned = False

    @property
    def are_any(self) -> bool:
        """Whether there are proxies whose headers are believed."""
        return bool(self._networks)

    def trusts(self, address: Address | None) -> bool:
        """Whether an address is one of our proxies."""
        return any(address in network for network in self._networks) if address is not None else False

    def client(self, request: Asked) -> Address | None:
        """Return who asks: the peer or, behind proxies of ours, whom the outermost of them has seen.

        Notes
        -----
        Each proxy appends its own peer to ``X-Forwarded-For``, so the header is read from the right, and no further
        than the first address that is not ours: what stands left of it anybody may have written. An entry that is no
        address ends the reading too. ``Forwarded`` (RFC 7239) is not read: a proxy that sets only one of the two
        would pass on what a client wrote into the other. None if the peer has no address, as on a Unix socket.
        """
        client = read_address(request.remote or "")
        if not self.trusts(client):
            if client is not None and client.is_private and "X-Forwarded-For" in request.headers:
                self._warn(client)
            return client
        for entry in reversed(",".join(request.headers.getall("X-Forwarded-For", ())).split(",")):
            found = read_address(entry)
            if found is None:
                break
            client = found
            if not self.trusts(found):
                break
        return client

    def source(self, request: Asked) -> bytes:
        """Return what one customer of a network shares, of who asks; all peers without an address are one source."""
        if not self._networks and "X-Forwarded-For" not in request.headers:
            # The usual way, at a tenth of the cost: an IPv4 peer, and nobody in between.
            with suppress(OSError):
                return inet_pton(AF_INET, request.remote or "")
        client = self.client(request)
        return b"" if client is None else source_of(client)

    def _warn(self, client: Address) -> None:
        """Say once that what looks like a proxy of ours is not known as one."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "requests come with X-Forwarded-For from %s, which is not in trusted_proxies of [server]: all who come "
                "through it count as one source of bad codes",
                client,
            )

    def request_id(self, request: Asked) -> str:
        """Return the id of a request: that of a proxy of ours if it is a sane one, else a new one.

        An id of anybody else is not taken over, as it goes into the log: it could hold a code, or pass for another's.
        """
        given = request.headers.get(ID_HEADER)
        if given is not None and _SANE_ID.fullmatch(given) and self.trusts(read_address(request.remote or "")):
            return given
        return new_request_id()


PROXIES: Final = web.AppKey("proxies", Proxies)


def new_request_id() -> str:
    """Return an id that no other request has: 20 hexadecimal digits, of the process and a running number in it."""
    return _ids.next()


def _renew_ids() -> None:
    """Give a forked process ids of its own."""
    global _ids  # noqa: PLW0603 - set once a process
    _ids = Names(os.urandom(_ID_PREFIX_BYTES), _ID_DIGITS)


os.register_at_fork(after_in_child=_renew_ids)


def source_of(address: Address) -> bytes:
    """Return what one customer of a network shares: the IPv4 address, or the /64 of an IPv6 address."""
    return address.packed if address.version == 4 else address.packed[:_IPV6_SITE_BYTES]


def read_address(text: str) -> Address | None:
    """Return the address of a text: bare or with a port, IPv6 in brackets or not; None if it is none."""
    text = text.strip(' \t"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A socket that listens for both shows IPv4 peers as IPv6 ones.
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


@lru_cache(maxsize=1024)
def is_loopback(address: str) -> bool:
    """Whether a text is an address of this machine itself."""
    # Reading an address costs more than all else of a look at a code, and most requests come from few of them.
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
