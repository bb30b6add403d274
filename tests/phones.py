"""A phone's browser as far as a server can tell."""

from __future__ import annotations

import http.client
import json
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from serving import WAIT_S


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Phone:
    """A browser as far as it matters here: it keeps cookies and follows redirects."""

    def __init__(self) -> None:
        self.cookies: dict[str, str] = {}
        self.path = ""

    def ask(self, method: str, url: str, **headers: str) -> Reply:
        parts = urlsplit(url)
        assert parts.hostname is not None
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=WAIT_S)
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        try:
            connection.request(method, parts.path, headers=({"Cookie": cookies} if cookies else {}) | headers)
            response = connection.getresponse()
            for name, value in response.getheaders():
                if name.lower() == "set-cookie":
                    assert "secure" not in value.lower(), "a browser would not send it back without TLS"
                    key, _, rest = value.partition("=")
                    self.cookies[key] = rest.partition(";")[0]
            return Reply(
                response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()

    def open(self, url: str) -> Reply:
        """Open a link as a person does."""
        reply = self.ask("GET", url, Accept="text/html")
        self.path = urlsplit(url).path
        if reply.status == 302:
            self.path = reply.headers["location"]
            return self.ask("GET", at(url, self.path), Accept="text/html")
        return reply

    def press(self, url: str) -> Any:
        """Press the button of the page that is open."""
        reply = self.ask("POST", at(url, self.path), Accept="application/json", **{"Sec-Fetch-Site": "same-origin"})
        assert reply.status == 200, reply.body
        return json.loads(reply.body)


def at(url: str, path: str) -> str:
    """Return the URL of another path of the same server."""
    parts = urlsplit(url)
    return f"http://{parts.netloc}{path}"
