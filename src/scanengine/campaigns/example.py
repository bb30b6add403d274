"""The campaign file that a new workspace starts with: it is valid as it stands, and shows every key."""

from __future__ import annotations

import re
from datetime import date
from typing import Final

_EXAMPLE_YEAR: Final = 2026
_OPENING_MONTH: Final = 3
_DATE: Final = re.compile(r"\b(20[0-9][0-9])-(?=[0-9]{2}-)")
EXAMPLE_CAMPAIGN: Final = '''\
# One campaign. Check it with `scanengine campaign check`, publish it with `scanengine campaign publish`.
# A published campaign is never changed in place: edit this file and publish the next generation.

id = "spring"                         # for ever: files, draws and claims refer to it
title = "Open a cap, win"
opens = 2026-03-01T00:00:00+08:00     # always with the UTC offset
closes = 2027-03-01T00:00:00+08:00    # the first moment after the end
timezone = "Asia/Shanghai"            # days, and the hours of rules, are counted in this zone

[limits]                              # recorded claims of one person; leave a key out for no limit
per_user_per_day = 20
# per_user = 500

[budget]                              # money awarded at most, in the currency's minor unit (fen)
currency = "CNY"
total = 1_500_000                     # 15,000 yuan in all
per_day = 100_000                     # 1,000 yuan on one local day

[page]                                # how the page behind a printed code looks; leave it out for a plain one
moment = "red_packet"                 # what opens the prize: plain, red_packet or wheel; it decides nothing
color = "#c8102e"                     # the accent; text on it and in it stays readable whatever it is
title = "开盖有奖"
title_en = "Open a cap, win"          # for browsers that prefer English; without it `title`
rules = """
每个码只能领取一次奖品，每人每天最多 20 次。
奖品送完为止。"""
rules_en = """
Each code gives one prize, and each person may claim 20 times a day.
While stocks last."""

# Prizes. `kind` is cash, points, coupon or goods. Without `stock` a prize never runs out. When stock or
# budget is used up, the `fallback` is given instead; without a fallback, nothing. Each prize and rule gets a
# number (0 to 255) when it is first published and keeps it; write `number` only to choose it yourself.

[[prizes]]
id = "cash-88"
kind = "cash"
amount = 8800                         # 88 yuan
title = "88 yuan"
stock = 200
stock_per_day = 15
fallback = "points-10"

[[prizes]]
id = "points-10"
kind = "points"
amount = 10
title = "10 points"

[[prizes]]
id = "points-50"
kind = "points"
amount = 50
title = "50 points"

# Rules. The first one whose conditions all hold draws. Weights are integers of any sum: below, 1 of 1,000
# codes wins 88 yuan, 99 win points and 900 nothing. What a rule draws for a code
# never changes, however often and by whomever it is scanned. Conditions: roles (consumer, retailer,
# associate, distributor, inspector; consumers only if left out), regions (2, 4 or 6 digits of a division
# code), products (GTINs), batches (labels), hours (local), opens and closes.

[[rules]]
id = "happy-hour"
draw = { mode = "weighted", weights = { points-50 = 1, none = 9 } }
[rules.when]
regions = ["44"]                      # Guangdong
hours = ["22:00-02:00"]               # over midnight
opens = 2026-05-01T00:00:00+08:00
closes = 2026-05-06T00:00:00+08:00

[[rules]]
id = "everyone"
draw = { mode = "weighted", weights = { cash-88 = 1, points-10 = 99, none = 900 } }

[[rules]]
id = "shop"
draw = { mode = "certain", prize = "points-10" }
when = { roles = ["retailer"] }
'''


def example_campaign(today: date) -> str:
    """Return the example with its dates moved by whole years, so that it is open today."""
    year = today.year - (today.month < _OPENING_MONTH)
    return _DATE.sub(lambda found: f"{int(found[1]) - _EXAMPLE_YEAR + year}-", EXAMPLE_CAMPAIGN)
