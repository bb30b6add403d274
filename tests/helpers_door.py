"""People at the consumer's door: browsers that keep cookies and follow redirects, a market whose visitors log in."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from redis_servers import free_port
from serving import WAIT_S, Market, Reply, Served, serving
from wechat_stand_in import APP_ID, SECRET, WHO, WechatStandIn

WECHAT = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 "
    "MicroMessenger/8.0.49(0x18003137) NetType/WIFI Language/zh_CN"
)
DESKTOP = "Mozilla/5.0 (Windows NT 10.0) Chrome/116 Safari/537.36 MicroMessenger/7.0.20.1781(0x6700143B) WindowsWechat"
MINI_PROGRAM = f"{WECHAT} miniProgram/wx9876543210fedcba"
WECHAT_WORK = f"{WECHAT} wxwork/4.1.22"
ALIPAY = (
    "Mozilla/5.0 (Linux; Android 13; 22081212C) Chrome/105 Mobile Safari/537.36 AlipayClient/10.5.20 Language/zh-Hans"
)
SAFARI = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Version/17.0 Mobile Safari/604.1"
HTML = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
REDIRECTS_MAX = 8


class Browser:
    """One browser of one person: keeps cookies of our server, and shows them to nobody else.

    Parameters
    ----------
    home : str
        Address of our server, ``http://127.0.0.1:8080``.
    openid : str
        Whose WeChat it is.
    """

    def __init__(self, home: str, agent: str = WECHAT, openid: str = "openid-of-ann") -> None:
        self.home = home
        self.agent = agent
        self.openid = openid
        self.cookies: dict[str, str] = {}
        self.attributes: dict[str, str] = {}
        self.trail: list[str] = []

    def ask(self, method: str, url: str, body: bytes | None = None, **headers: str) -> Reply:
        """Send one request and take its cookies; ``url`` may be relative to our server."""
        url = urljoin(self.home, url)
        parts = urlsplit(url)
        is_home = url.startswith(self.home)
        sent = {"User-Agent": self.agent, "Accept": HTML, "Accept-Language": "en", WHO: self.openid}
        if is_home and self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=WAIT_S)
        try:
            connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), body, sent)
            response = connection.getresponse()
            pairs = response.getheaders()
            if is_home:
                self._take([value for name, value in pairs if name.lower() == "set-cookie"])
            return Reply(response.status, {name.lower(): value for name, value in pairs}, response.read())
        finally:
            connection.close()

    def get(self, url: str, **headers: str) -> Reply:
        return self.ask("GET", url, **headers)

    def open(self, url: str, **headers: str) -> Reply:
        """Open a page as a person does: follow redirects until there is something to see."""
        self.trail = [urljoin(self.home, url)]
        while True:
            reply = self.get(self.trail[-1], **headers)
            if reply.status != 302:
                return reply
            assert len(self.trail) < REDIRECTS_MAX, self.trail
            self.trail.append(urljoin(self.trail[-1], reply.headers["location"]))

    def begin(self, url: str) -> str:
        """Open a page that needs a login, and return the address that WeChat sends the browser back to."""
        login = self.get(url)
        assert login.status == 302, login.body
        assert login.headers["location"].endswith("#wechat_redirect")
        back = self.get(login.headers["location"])
        assert back.status == 302, back.body
        return back.headers["location"]

    def press(self, url: str, **headers: str) -> Reply:
        """Press the button of a page: a plain form, from the page itself."""
        form = {"Sec_Fetch_Site": "same-origin", "Content_Type": "application/x-www-form-urlencoded"}
        return self.ask("POST", url, b"", **(form | headers))

    def claim(self, url: str, **headers: str) -> Reply:
        """Press the button with JavaScript, which asks for JSON."""
        return self.ask("POST", url, **({"Accept": "application/json", "Sec_Fetch_Site": "same-origin"} | headers))

    def _take(self, lines: list[str]) -> None:
        for line in lines:
            pair, _, attributes = line.partition("; ")
            name, _, value = pair.partition("=")
            self.cookies[name] = value
            self.attributes[name] = attributes


@contextmanager
def wechat_serving(market: Market, stand_in: WechatStandIn, *options: object, **settings: object) -> Iterator[Served]:
    """Serve a market whose visitors log in at the stand-in; settings are of ``[wechat]``, or ``[page]`` as page_…."""
    port = free_port()
    configure(market.folder, stand_in, port, **settings)
    with serving(market.folder, "--port", port, *options) as served:
        yield served


def configure(folder: Path, stand_in: WechatStandIn, port: int, **settings: object) -> None:
    """Write the login into the settings of a workspace, in place of what a configuration before has written."""
    stand_in.redirect_hosts.add(f"127.0.0.1:{port}")
    page = {name.removeprefix("page_"): value for name, value in settings.items() if name.startswith("page_")}
    wechat = {name: value for name, value in settings.items() if not name.startswith("page_")}
    wechat = {"app_id": APP_ID, "api_url": stand_in.url, "authorize_url": stand_in.authorize_url} | wechat
    path = folder / "scanengine.toml"
    text = re.sub(r'^base_url = "[^"]*"', f'base_url = "http://127.0.0.1:{port}"', path.read_text(), flags=re.MULTILINE)
    for name, entries in (("page", page), ("wechat", wechat)):
        lines = "".join(f"{key} = {_toml(value)}\n" for key, value in entries.items() if value is not None)
        text = re.sub(rf"^\[{name}\]\n(?:[^#\[\n].*\n)*", lambda _: f"[{name}]\n{lines}", text, flags=re.MULTILINE)  # noqa: B023
    path.write_text(text)
    keys = folder / "keys.toml"
    if "[wechat]" not in re.sub(r"^#.*$", "", keys.read_text(), flags=re.MULTILINE):
        keys.write_text(f'{keys.read_text()}\n[wechat]\nsecret = "{SECRET}"\n')


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)
