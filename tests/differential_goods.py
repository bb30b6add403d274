"""What the cases of ``differential.py`` are made of: a workspace with codes for each case, and codes for all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from helpers import GTIN, KEYS, SLOT, SPRING, Shop, an_empty_shop, replaced
from scanengine.keys import Keyring, load_keyring
from scanengine.model import Product, Scene, SegmentState, Status
from scanengine.program.publishing import SceneChange, create_batch

CODES_PER_CASE: Final = 8
LINKS_PER_CASE: Final = 2
BAD_CODES_PER_MINUTE: Final = 6
TIMEOUT_S: Final = 60.0
"""So that nothing is refused or pending because this machine is busy."""
WECHAT_SECRET: Final = "0123456789abcdef0123456789abcdef"
_SHARED: Final = 64
_BOTH: Final = Scene.AUTHENTICITY | Scene.MARKETING
_STATES: Final = {
    "inactive": None,
    "frozen": SceneChange(SegmentState.FROZEN, _BOTH, "spring", GTIN),
    "void": SceneChange(SegmentState.VOID, _BOTH, "spring", GTIN),
    "recalled": SceneChange(SegmentState.RECALLED, _BOTH, "spring", GTIN),
    "expired": SceneChange(SegmentState.ACTIVE, _BOTH, "spring", GTIN, active_until_ms=1_600_000_000_000),
}
_TITLE: Final = '可乐 "x" \\ <b>&é 😀'
"""Everything that JSON and HTML have to escape, or need not."""


class Goods:
    """A workspace, and codes by case: what one case claims, no other one asks for.

    Parameters
    ----------
    cases : int
        How many cases have codes of their own.
    has_tokens : bool
        Whether back ends must show a token.
    """

    def __init__(self, folder: Path, cases: int, *, has_tokens: bool) -> None:
        shop = an_empty_shop(folder)
        shop.workspace.keys_path.write_text(_keys(has_tokens=has_tokens))
        self.shop = Shop(shop.workspace, load_keyring(shop.workspace.keys_path))
        self.cases = cases
        self.has_tokens = has_tokens
        self._links_at = cases * CODES_PER_CASE
        self._shared_at = self._links_at + cases * LINKS_PER_CASE
        count = self._shared_at + _SHARED * len(_STATES)
        product = Product(GTIN, _TITLE, "Cola", "Brand", "drinks")
        self._first = create_batch(shop.workspace, self.shop.keyring, "cola", count, product=product).serial_start
        # Limits of persons only: what one case claims leaves as much for all the others.
        self.shop.publish(replaced(SPRING, "stock = 150\n", ""))
        active = SceneChange(SegmentState.ACTIVE, _BOTH, "spring", GTIN, "L1")
        self.shop.assign(0, self._links_at, active)
        link = SceneChange(SegmentState.ACTIVE, _BOTH | Scene.LINK, "spring", GTIN, link="https://shop.example/{code}")
        self.shop.assign(self._links_at, self._shared_at, link)
        for place, change in enumerate(_STATES.values()):
            if change is not None:
                start = self._shared_at + place * _SHARED
                self.shop.assign(start, start + _SHARED, change)
        _configure(self.shop.workspace.settings_path)
        self.shared = self._shared()

    def codes(self, case: int) -> list[str]:
        """Return the codes that only this case may claim."""
        return self._encode(case * CODES_PER_CASE, CODES_PER_CASE)

    def links(self, case: int) -> list[str]:
        """Return the codes with a landing link that only this case may show."""
        return self._encode(self._links_at + case * LINKS_PER_CASE, LINKS_PER_CASE)

    def _encode(self, start: int, count: int) -> list[str]:
        encode, first = self.shop.keyring.code_keys.encode, self._first
        return [encode(SLOT, first + offset) for offset in range(start, start + count)]

    def _shared(self) -> dict[str, list[str]]:
        """Return codes of which nothing can be claimed, by what is wrong with them."""
        found = {name: self._encode(self._shared_at + place * _SHARED, 8) for place, name in enumerate(_STATES)}
        keys = self.shop.keyring.code_keys
        found["unknown"] = [keys.encode(SLOT, 10**9 + number) for number in range(8)]
        others = Keyring([(7, bytes(32), "active")], bytes(32), bytes(32)).code_keys
        found["unknown_key"] = [others.encode(7, number) for number in range(8)]
        found["mistyped"] = [code[:-1] + ("0" if code[-1] != "0" else "1") for code in self._encode(0, 8)]
        found["forged"] = [self._forged(code) for code in self._encode(0, 8)]
        return found

    def _forged(self, code: str) -> str:
        other = "0" if code[12] != "0" else "1"
        made = [code[:12] + other + code[13:-1] + last for last in "0123456789ABCDEFGHJKMNPQRSTVWXYZ"]
        (found,) = [text for text in made if self.shop.keyring.code_keys.decode(text)[0] == Status.FORGED]
        return found


def _keys(*, has_tokens: bool) -> str:
    keys = KEYS if has_tokens else KEYS.partition("[[tokens]]")[0]
    return f'{keys}\n[wechat]\nsecret = "{WECHAT_SECRET}"\n'


def _configure(path: Path) -> None:
    text = path.read_text()
    for section, lines in (
        ("wechat", 'app_id = "wx0123456789abcdef"'),
        ("page", "guests = true"),
        ("server", f"bad_codes_per_minute = {BAD_CODES_PER_MINUTE}"),
        ("ledger", f"timeout_s = {TIMEOUT_S}"),
    ):
        text = re.sub(rf"^\[{section}\]$", f"[{section}]\n{lines}", text, flags=re.MULTILINE)
    path.write_text(text)


def set_hot_path(folder: Path, *, is_on: bool) -> None:
    """Say in the settings of a workspace whether its server has the hot path."""
    path = folder / "scanengine.toml"
    line = f"[server]\nhot_path = {str(is_on).lower()}"
    path.write_text(re.sub(r"^\[server\]$", line, path.read_text(), flags=re.MULTILINE))


def set_redis(folder: Path, url: str) -> None:
    """Say in the settings of a workspace that its ledger is a Redis that nobody else has."""
    with open(folder / "scanengine.toml", "a") as settings:  # Its last section is [ledger].
        settings.write(f'url = "{url}"\ndurability = "volatile"\n')
