"""Campaign files that are wrong: every mistake is named with its place."""

from __future__ import annotations

import pytest

from helpers_campaigns import BUDGET, CASH, HEAD, POINTS, RULE, WHOLE, changed, conditioned, faults_of, goods

REFUSALS = {
    "bad TOML": (WHOLE + "\nid = = 3", "not valid TOML: Invalid value (at line 30, column 6)"),
    "lone surrogate": (changed("88 yuan", "\ud800"), "not valid TOML: 'utf-8' codec can't encode"),
    "digits without end": (changed("8800", "9" * 5000), "not valid TOML: Exceeds the limit"),
    "unknown key": (
        changed("stock = 150", "stok = 150"),
        "prizes[0].stok: unknown key; did you mean 'stock'? (known: id, kind, title, amount, currency, stock,",
    ),
    "unknown top key": (changed("title =", "titel ="), "titel: unknown key; did you mean 'title'?"),
    "missing title": (changed('title = "Open a cap, win"\n', ""), "title: missing, expected a string"),
    "empty title": (
        changed('"88 yuan"', '""'),
        "prizes[0].title: expected 1 to 200 characters on one line, found ''",
    ),
    "control character": (
        changed('"88 yuan"', '"a\\nb"'),
        "prizes[0].title: expected 1 to 200 characters on one line",
    ),
    "missing id": (changed('id = "spring"\n', ""), "id: missing, expected a string"),
    "number as id": (changed('"spring"', "7"), "id: expected a string, found 7"),
    "empty id": (changed('"spring"', '""'), "id: expected 1 to 64 bytes of UTF-8, found 0"),
    "long id": (changed('"spring"', '"' + "節" * 22 + '"'), "id: expected 1 to 64 bytes of UTF-8, found 66"),
    "path in id": (changed('"spring"', '"a/b"'), "id: expected letters, digits, '.', '_' and '-'"),
    "backslash in id": (changed('"spring"', "'a\\b'"), "id: expected letters, digits, '.', '_' and '-'"),
    "leading dot": (
        changed('"spring"', '".spring"'),
        "id: expected letters, digits, '.', '_' and '-', not starting",
    ),
    "decomposed id": (changed('"spring"', '"\u1112\u1161\u11ab"'), "id: expected Unicode normal form C"),
    "naive time": (
        changed("2026-03-01T00:00:00+08:00", "2026-03-01T00:00:00"),
        "opens: write the date, the time and the UTC offset, as in 2026-03-01T00:00:00+08:00, found 2026-03-01T00",
    ),
    "date alone": (
        changed("2026-03-01T00:00:00+08:00", "2026-03-01"),
        "opens: write the date, the time and the UTC",
    ),
    "time as text": (
        changed("2026-03-01T00:00:00+08:00", '"2026-03-01"'),
        "opens: expected a date and time with its UTC offset, found '2026-03-01'",
    ),
    "missing time": (
        changed("closes = 2027-03-01T00:00:00+08:00\n", ""),
        "closes: missing, expected a date and time with its UTC offset",
    ),
    "before 1970": (
        changed("2026-03", "1969-03"),
        "opens: expected a time from 1970 until 2200, found 1969-03-01",
    ),
    "after 2200": (
        changed("2027-03", "2200-03"),
        "closes: expected a time from 1970 until 2200, found 2200-03-01",
    ),
    "closes before it opens": (
        changed("2027-03-01", "2026-02-01"),
        "closes: must be after opens (2026-03-01T00:00:00+08:00), found 2026-02-01T00:00:00+08:00",
    ),
    "closes as it opens": (
        changed("2027-03-01T00:00:00+08:00", "2026-02-28T16:00:00Z"),
        "closes: must be after opens (2026-03-01T00:00:00+08:00), found 2026-02-28T16:00:00+00:00",
    ),
    "unknown zone": (
        changed("Asia/Shanghai", "Asia/Shangai"),
        "timezone: unknown time zone 'Asia/Shangai'; did you mean 'Asia/Shanghai'?",
    ),
    "a folder as zone": (changed("Asia/Shanghai", "Asia"), "timezone: unknown time zone 'Asia'"),
    "a path as zone": (changed("Asia/Shanghai", "../x"), "timezone: unknown time zone '../x'"),
    "limit below 1": (
        changed("[budget]", "[limits]\nper_user = 0\n[budget]"),
        "limits.per_user: expected an integer from 1 to 2**63 - 1, found 0",
    ),
    "daily limit below 1": (
        changed("[budget]", "[limits]\nper_user_per_day = -3\n[budget]"),
        "limits.per_user_per_day: expected an integer from 1 to 2**63 - 1, found -3",
    ),
    "limits not a table": (changed("[budget]", "limits = 3\n[budget]"), "limits: expected a table, found 3"),
    "boolean for integer": (
        changed("stock = 150", "stock = true"),
        "prizes[0].stock: expected an integer, found true",
    ),
    "decimal for integer": (
        changed("stock = 150", "stock = 1.5"),
        "prizes[0].stock: expected an integer, found 1.5",
    ),
    "negative stock": (
        changed("stock = 150", "stock = -1"),
        "prizes[0].stock: expected an integer from 0 to 2**63 - 1, found -1",
    ),
    "negative daily stock": (
        changed("stock = 150", "stock_per_day = -1"),
        "prizes[0].stock_per_day: expected an integer from 0 to 2**63 - 1, found -1",
    ),
    "too large": (
        changed("stock = 150", "stock = 9223372036854775808"),
        "prizes[0].stock: expected an integer from 0 to 2**63 - 1, found 9223372036854775808",
    ),
    "far too large": (
        changed("stock = 150", "stock = 0x" + "f" * 5000),
        "prizes[0].stock: expected an integer from 0 to 2**63 - 1, found an integer of 20000 bits",
    ),
    "worth too much": (
        changed("stock = 150", "stock = 9223372036854775807"),
        "prizes: all stock of cash is worth 81165673924322027101600, the most is 2**63 - 1: leave stock out",
    ),
    "negative budget": (
        changed("1_500_000", "-1"),
        "budget.total: expected an integer from 0 to 2**63 - 1, found -1",
    ),
    "budget without currency": (
        changed('currency = "CNY"\n', ""),
        "budget.currency: missing, expected a string",
    ),
    "bad currency": (
        changed('"CNY"', '"yuan"'),
        "budget.currency: expected three capital letters such as CNY, found 'y",
    ),
    "unknown kind": (
        changed('"cash"', '"cahs"'),
        "prizes[0].kind: expected cash or points or coupon or goods, found 'cahs'; did you mean 'cash'?",
    ),
    "cash without amount": (
        changed("amount = 8800\n", ""),
        "prizes[0].amount: missing: a prize of kind cash needs an amount, in the currency's minor unit",
    ),
    "points without amount": (
        changed("amount = 10\n", ""),
        "prizes[1].amount: missing: a prize of kind points needs an amount, in points",
    ),
    "cash of nothing": (
        changed("amount = 8800", "amount = 0"),
        "prizes[0].amount: expected an integer from 1 to 2**63 - 1, found 0",
    ),
    "cash that is owed": (
        changed("amount = 8800", "amount = -8800"),
        "prizes[0].amount: expected an integer from 1 to 2**63 - 1, found -8800",
    ),
    "cash above the most": (
        changed("amount = 8800", "amount = 1_000_000_000_001"),
        "prizes[0].amount: expected at most 1,000,000,000,000 minor units of money, found 1000000000001",
    ),
    "cash far above the most": (
        changed("amount = 8800", "amount = 0x" + "f" * 5000),
        "prizes[0].amount: expected an integer from 1 to 2**63 - 1, found an integer of 20000 bits",
    ),
    "cash without currency": (
        HEAD + CASH + POINTS + RULE,
        "prizes[0].currency: cash needs a currency: write it here, or in [budget] for all cash",
    ),
    "cash in another currency": (
        changed("amount = 8800", 'amount = 8800\ncurrency = "USD"'),
        "prizes[0].currency: 'USD' is not the budget's currency 'CNY'",
    ),
    "cash in two currencies": (
        HEAD
        + CASH.replace("amount", 'currency = "CNY"\namount')
        + CASH.replace("amount", 'currency = "USD"\namount').replace("cash-88", "cash-9")
        + POINTS
        + RULE,
        "prizes[1].currency: 'USD' is not the 'CNY' of prizes[0]: all cash is in one currency",
    ),
    "points in a currency": (
        changed("amount = 10\n", 'amount = 10\ncurrency = "CNY"\n'),
        "prizes[1].currency: only cash has a currency, and this prize is points",
    ),
    "repeated prize": (
        changed('"points-10"\nkind', '"cash-88"\nkind'),
        "prizes[1].id: 'cash-88' is already the id of prizes[0]",
    ),
    "repeated rule": (WHOLE + RULE, "rules[1].id: 'everyone' is already the id of rules[0]"),
    "none as a prize": (
        changed('"points-10"\nkind', '"none"\nkind'),
        "prizes[1].id: 'none' is the outcome without a prize: choose another id",
    ),
    "none as a rule": (changed('"everyone"', '"none"'), "rules[0].id: 'none' is the outcome without a prize"),
    "capitals in an id": (
        changed('"everyone"', '"Everyone"'),
        "rules[0].id: expected 1 to 64 of a-z, 0-9, '.', '_', '-', starting with a letter or digit, found 'Everyone'",
    ),
    "line break in an id": (changed('"everyone"', '"a\\n"'), "rules[0].id: expected 1 to 64 of a-z"),
    "long prize id": (changed('"everyone"', f'"{"a" * 65}"'), "rules[0].id: expected 1 to 64 of a-z"),
    "unknown fallback": (
        changed('fallback = "points-10"', 'fallback = "points-1"'),
        "prizes[0].fallback: unknown prize 'points-1'; did you mean 'points-10'?",
    ),
    "none as fallback": (
        changed('fallback = "points-10"', 'fallback = "none"'),
        "prizes[0].fallback: leave the key out to give nothing instead",
    ),
    "fallback on itself": (
        changed('fallback = "points-10"', 'fallback = "cash-88"'),
        "prizes[0].fallback: these prizes fall back on one another: cash-88 -> cash-88",
    ),
    "fallbacks in a circle": (
        HEAD
        + goods("d", 'fallback = "a"')
        + goods("a", 'fallback = "b"')
        + goods("b", 'fallback = "c"')
        + goods("c", 'fallback = "a"')
        + '[[rules]]\nid = "all"\ndraw = { mode = "certain", prize = "a" }',
        "prizes[1].fallback: these prizes fall back on one another: a -> b -> c -> a",
    ),
    "number above a byte": (
        changed("stock = 150", "number = 256"),
        "prizes[0].number: expected an integer from 0 to 255, found 256",
    ),
    "repeated prize number": (
        changed("amount = 10\n", "amount = 10\nnumber = 3\n", changed("stock = 150", "number = 3")),
        "prizes[1].number: 3 is already the number of prizes[0]",
    ),
    "repeated rule number": (
        WHOLE.replace('id = "everyone"', 'id = "everyone"\nnumber = 0') + RULE.replace("everyone", 'x"\nnumber = 0\n#'),
        "rules[1].number: 0 is already the number of rules[0]",
    ),
    "no prizes": (HEAD + RULE, "prizes: at least one [[prizes]] is needed"),
    "no rules": (HEAD + BUDGET + CASH + POINTS, "rules: at least one [[rules]] is needed"),
    "prizes not a list": (HEAD + "prizes = 3\n" + RULE, "prizes: expected tables headed [[prizes]], found 3"),
    "a prize that is no table": (HEAD + "prizes = [3]\n" + RULE, "prizes[0]: expected a table, found 3"),
    "too many prizes": (
        HEAD + "".join(goods(f"p{index}") for index in range(257)) + RULE,
        "prizes: at most 256 are possible, found 257",
    ),
    "too many rules": (
        HEAD + BUDGET + CASH + POINTS + "".join(RULE.replace("everyone", f"r{index}") for index in range(257)),
        "rules: at most 256 are possible, found 257",
    ),
    "no draw": (
        changed(RULE, '[[rules]]\nid = "everyone"\n'),
        "rules[0].draw: missing, expected a table",
    ),
    "unknown mode": (
        changed('"weighted"', '"weighed"'),
        "rules[0].draw.mode: expected weighted or certain, found 'weighed'; did you mean 'weighted'?",
    ),
    "weights of a certain draw": (
        changed('"weighted"', '"certain"'),
        "rules[0].draw.weights: a certain draw has prize, not weights",
    ),
    "prize of a weighted draw": (
        changed('"weighted",', '"weighted", prize = "points-10",'),
        "rules[0].draw.prize: a weighted draw has weights, not prize",
    ),
    "certain without prize": (
        changed(RULE, '[[rules]]\nid = "everyone"\ndraw = { mode = "certain" }\n'),
        "rules[0].draw.prize: missing, expected a string",
    ),
    "certain of an unknown prize": (
        changed(RULE, '[[rules]]\nid = "everyone"\ndraw = { mode = "certain", prize = "cash-8" }\n'),
        "rules[0].draw.prize: unknown prize 'cash-8'; did you mean 'cash-88'?",
    ),
    "no weights": (
        changed(RULE, '[[rules]]\nid = "everyone"\ndraw = { mode = "weighted" }\n'),
        "rules[0].draw.weights: expected a table of prize id = weight, missing",
    ),
    "a list of weights": (
        changed("{ cash-88 = 1, points-10 = 99, none = 900 }", "[1, 99, 900]"),
        "rules[0].draw.weights: expected a table of prize id = weight, found a list",
    ),
    "unknown prize": (
        changed("cash-88 = 1,", "cash-8 = 1,"),
        "rules[0].draw.weights: unknown prize 'cash-8'; did you mean 'cash-88'?",
    ),
    "decimal weight": (
        changed("cash-88 = 1,", "cash-88 = 0.1,"),
        "rules[0].draw.weights.cash-88: expected an integer, found 0.1: use integers",
    ),
    "boolean weight": (
        changed("cash-88 = 1,", "cash-88 = true,"),
        "rules[0].draw.weights.cash-88: expected an integer, found true: use integers",
    ),
    "negative weight": (
        changed("cash-88 = 1,", "cash-88 = -1,"),
        "rules[0].draw.weights.cash-88: a weight is not negative, found -1",
    ),
    "endless weight": (
        changed("cash-88 = 1,", f"cash-88 = {1 << 4096:#x},"),
        "rules[0].draw.weights.cash-88: a weight has at most 4096 bits, found an integer of 4097 bits",
    ),
    "weights of zero": (
        changed("{ cash-88 = 1, points-10 = 99, none = 900 }", "{ cash-88 = 0, none = 0 }"),
        "rules[0].draw.weights: at least one weight must be positive",
    ),
    "empty weights": (
        changed("{ cash-88 = 1, points-10 = 99, none = 900 }", "{}"),
        "rules[0].draw.weights: at least one weight must be positive",
    ),
    "dotted id without quotes": (
        changed("cash-88 = 1,", "cash.88 = 1,"),
        "rules[0].draw.weights.cash: expected an integer, found a table: write an id that holds a dot in quotes",
    ),
    "unknown role": (
        conditioned('roles = ["retailor"]'),
        "rules[0].when.roles[0]: expected one of consumer, retailer, associate, distributor, inspector, "
        "found 'retailor'; did you mean 'retailer'?",
    ),
    "empty list": (conditioned("roles = []"), "rules[0].when.roles: an empty list would let nobody through"),
    "text for a list": (
        conditioned('batches = "cola"'),
        "rules[0].when.batches: expected a list of strings, found 'cola'",
    ),
    "region as a number": (
        conditioned("regions = [44]"),
        "rules[0].when.regions[0]: expected a string, found 44: write it in quotes",
    ),
    "region of three digits": (
        conditioned('regions = ["44", "440"]'),
        "rules[0].when.regions[1]: expected 2, 4 or 6 digits of a division code such as \"4403\", found '440'",
    ),
    "region of nowhere": (
        conditioned('regions = ["00"]'),
        "rules[0].when.regions[0]: expected 2, 4 or 6 digits of a division",
    ),
    "wrong check digit": (
        conditioned('products = ["6901234567893"]'),
        "rules[0].when.products[0]: the check digit of '6901234567893' should be 2",
    ),
    "GTIN of nine digits": (
        conditioned('products = ["690123456"]'),
        "rules[0].when.products[0]: expected a GTIN of 8, 12, 13 or 14 digits, found '690123456'",
    ),
    "GTIN of zeros": (
        conditioned('products = ["00000000"]'),
        "rules[0].when.products[0]: expected a GTIN of 8, 12, 13 or 14",
    ),
    "GTIN in other digits": (
        conditioned('products = ["٩٦٣٨٥٠٧٤"]'),
        "rules[0].when.products[0]: expected a GTIN of 8, 12",
    ),
    "hour that is none": (
        conditioned('hours = ["18:00-25:00"]'),
        "rules[0].when.hours[0]: expected a span such as \"18:00-23:00\", found '18:00-25:00'",
    ),
    "hour after midnight's name": (
        conditioned('hours = ["18:00-24:30"]'),
        "rules[0].when.hours[0]: expected a span such as",
    ),
    "empty span": (
        conditioned('hours = ["18:00-18:00"]'),
        "rules[0].when.hours[0]: 18:00-18:00 is an empty span: write 00:00-24:00 for the whole day",
    ),
    "rule closes before it opens": (
        conditioned("opens = 2026-05-02T00:00:00+08:00, closes = 2026-05-01T00:00:00+08:00"),
        "rules[0].when.closes: must be after opens (2026-05-02T00:00:00+08:00), found 2026-05-01T00:00:00+08:00",
    ),
    "naive time of a rule": (
        conditioned("opens = 2026-05-02T00:00:00"),
        "rules[0].when.opens: write the date, the time and the UTC offset",
    ),
    "unknown condition": (
        conditioned('role = ["consumer"]'),
        "rules[0].when.role: unknown key; did you mean 'roles'?",
    ),
}


@pytest.mark.parametrize(("text", "expected"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_mistake_is_named_with_its_place(text: str, expected: str) -> None:
    """Goal: one mistake gives one fault, at its place and in the words promised; no others follow from it."""
    found = faults_of(text)
    assert [fault for fault in found if fault.startswith(expected)], found
    follow_ups = [fault for fault in found if not fault.startswith(expected)]
    assert len(follow_ups) == FOLLOW_UPS.get(expected, 0), found


FOLLOW_UPS = {
    # A misspelt key is also a missing one; a repeated or refused id leaves others who name the first one in the air.
    "titel: unknown key; did you mean 'title'?": 1,
    REFUSALS["repeated prize"][1]: 2,
    REFUSALS["none as a prize"][1]: 2,
    REFUSALS["no prizes"][1]: 2,
    REFUSALS["prizes not a list"][1]: 2,
    REFUSALS["a prize that is no table"][1]: 2,
    REFUSALS["too many prizes"][1]: 2,
    REFUSALS["weights of a certain draw"][1]: 1,
}


def test_all_faults_are_reported_at_once() -> None:
    text = (
        WHOLE.replace("stock = 150", "stock = -1")
        .replace("cash-88 = 1,", "cash-8 = 1.5,")
        .replace("Asia/Shanghai", "Mars/Base")
    )
    places = [fault.split(": ")[0] for fault in faults_of(text)]
    assert places == ["timezone", "prizes[0].stock", "rules[0].draw.weights", "rules[0].draw.weights.cash-8"]
