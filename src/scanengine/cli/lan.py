"""``demo --lan``: which address phones reach, which code is scanned next, and how long it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Iterator
from typing import Final

import click

from scanengine.cli.demo import BATCH, Place
from scanengine.cli.screen import Link, Screen
from scanengine.program import Program
from scanengine.server import Metrics, Server
from scanengine.server.gate import Gate

_ELSEWHERE: Final = ("198.51.100.1", 9)
"""An address reserved for documentation (RFC 5737): it is on no network, so the way to it is the way out."""


def own_address() -> str:
    """Return the address of this machine on its network; nothing is sent to find it.

    Raises
    ------
    ClickException
        If the machine is on no network.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(_ELSEWHERE)
            address: str = probe.getsockname()[0]
    except OSError as error:
        raise click.ClickException(
            f"no network found that a phone could share: {error.strerror}; name an address of this machine with --host"
        ) from error
    return address


def read_address(text: str) -> str:
    """Return an address that a phone can open.

    Raises
    ------
    UsageError
        If it is no IP address, or one that no machine has for itself.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise click.UsageError(f"--host {text[:80]!r} is no IP address such as 192.168.1.20") from None
    if address.is_unspecified or address.is_multicast or "%" in text:
        raise click.UsageError(f"--host {text} is nothing that a phone can open: name one address of this machine")
    return str(address)


async def show(program: Program, place: Place, lucky: str) -> None:
    """Serve behind a gate, and show in the terminal what happens, until told to stop or until the terminal is gone.

    Parameters
    ----------
    lucky : str
        Code of the first link, so that there is a prize to see; all others come as they are printed.
    """
    gate, metrics, ended = Gate(), Metrics(), threading.Event()
    server = Server(program, place.host, place.port, metrics=metrics, shares_port=True, gate=gate.middleware)
    await server.start()
    screen = Screen(program, metrics, links(program, gate, place.url, lucky), place.url)
    # In a thread of its own: a terminal that is held up must not hold up the phones.
    shown = asyncio.create_task(asyncio.to_thread(screen.run, ended))
    shown.add_done_callback(lambda _: server.stop())
    try:
        await server.run_until_stopped()
    finally:
        ended.set()
        # A terminal that was closed is nothing to complain about, and nobody would read it.
        with contextlib.suppress(OSError):
            await shown


def links(program: Program, gate: Gate, url: str, lucky: str) -> Iterator[Link | None]:
    """Yield what to show: a new link as soon as the one before was opened, None when every code was scanned."""
    for code in _unscanned(program, lucky):
        path = gate.offer(f"/s/{code}")
        # Capitals need half the modules; everything before the path reads the same in either case.
        link = Link.to(url.upper() + path)
        yield link
        while gate.is_waiting:
            yield link
    while True:
        yield None


def _unscanned(program: Program, lucky: str) -> Iterator[str]:
    """Yield the codes that nobody has scanned: a lucky one, then those of the batch in their order."""
    yield lucky
    batch = program.snapshot.batch(BATCH)
    assert batch is not None
    codes = batch.codes
    for serial in range(codes.serial_start, codes.serial_start + codes.count):
        text = program.keyring.code_keys.encode(codes.slot, serial)
        scan = program.verify(text).scan
        if scan is None or scan.count == 0:
            yield text
