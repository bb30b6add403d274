"""The words of an explanation, in Chinese and English: one sentence for each kind of step."""

from __future__ import annotations

from typing import Any, Final, Literal

from scanengine.program.explaining import Step

Language = Literal["zh", "en"]
_NOTHING: Final = "–"

WORDS: Final[dict[str, tuple[str, str]]] = {
    # From the text to the item.
    "handed_over": ("{chars} characters were handed over; the time is {now}", "收到 {chars} 个字符,时间为 {now}"),
    "bare": ("the text is taken as it stands", "文本原样作为码"),
    "wrapped": ("a link is around it; the code in it has {chars} characters", "文本是链接,其中的码有 {chars} 个字符"),
    "wrapped_nothing": (
        "no code is in it: not one of our links, or too long",
        "其中没有码:不是本系统的链接,或文本过长",
    ),
    "imported": ("it is an imported code, letter for letter: item {item}", "与导入的码逐字相同:第 {item} 号"),
    "product_only": (
        "it is a product number, {gtin}: it names a product and no single item",
        "这是商品条码 {gtin}:只说明商品,不对应某一件",
    ),
    "spelled": ("the spelling is right: {expected} symbols of the alphabet", "拼写正确:{expected} 个符号都在字母表内"),
    "spelled_wrong": (
        "the spelling is wrong: {symbols} symbols, expected {expected}; {strange} are outside the alphabet",
        "拼写有误:共 {symbols} 个符号,应为 {expected} 个;{strange} 个不在字母表内",
    ),
    "check": ("the check symbol is right", "校验符正确"),
    "check_wrong": ("the check symbol is wrong: a symbol was mistyped or misread", "校验符不符:有符号输错或读错"),
    "slot": ("key slot {slot} is there and checks codes ({slot_state})", "密钥槽 {slot} 可验码({slot_state})"),
    "slot_revoked": ("key slot {slot} is revoked in keys.toml", "密钥槽 {slot} 已在 keys.toml 中吊销"),
    "slot_unknown": ("there is no key slot {slot} in keys.toml", "keys.toml 中没有密钥槽 {slot}"),
    "tag": ("the tag is right: made with our key, item {item}", "防伪标签正确:由我方密钥生成,第 {item} 号"),
    "tag_wrong": ("the tag is wrong: our key did not make this code", "防伪标签不符:不是我方密钥生成的码"),
    "batch": (
        "batch {batch}, offset {offset} of {count}: item {item}",
        "码包 {batch} 第 {offset} 个(共 {count}):第 {item} 号",
    ),
    "batch_none": ("item {item} is in no batch, or its batch was deleted", "第 {item} 号不在任何码包中,或码包已删除"),
    "batch_test": ("batch {batch} is of test codes: they are worth nothing", "码包 {batch} 是测试码:不发放任何价值"),
    # The segment.
    "segment": (
        "segment {start}:{end} of generation {generation}: {state}; scenes {scenes}; product {product}; lot {lot}; "
        "market {market}; link {link}",
        "号段 {start}:{end}(第 {generation} 代):{state};场景 {scenes};商品 {product};批号 {lot};"
        "市场 {market};链接 {link}",
    ),
    "product_right": ("the link names product {gtin}, which it is", "链接中的商品 {gtin} 与该码一致"),
    "product_wrong": (
        "the link names product {gtin}, but the item is {product}",
        "链接中的商品是 {gtin},但该码属于 {product}",
    ),
    "state_wrong": ("the state is {state}, expected active", "状态为{state},应为已激活"),
    "active": ("the state is active, without a window", "状态为已激活,不限时间"),
    "active_window": ("the state is active from {opens} until {closes}", "在 {opens} 至 {closes} 期间有效"),
    "active_later": ("it is not active before {time}", "{time} 之前未激活"),
    "active_no_more": ("it expired at {time}", "已于 {time} 过期"),
    # The campaign and its rules.
    "marketing_off": ("the scene marketing is off: no campaign", "营销场景未开启:没有活动"),
    "campaign_none": ("no campaign is assigned", "未指定活动"),
    "campaign_unpublished": ("campaign {campaign} is assigned, but not published", "已指定活动 {campaign},但尚未发布"),
    "campaign": (
        "campaign {campaign} ({title}) of generation {generation}: from {opens} until {closes}, {timezone}",
        "活动 {campaign}({title}),第 {generation} 代:{opens} 至 {closes},时区 {timezone}",
    ),
    "rule_fails": (
        "rule {rule} does not hold: {field} is {found}, expected {expected}",
        "规则 {rule} 不成立:{field}为 {found},应为 {expected}",
    ),
    "rule_holds": ("rule {rule} holds and draws (it asked for: {fields})", "规则 {rule} 成立并抽奖(条件:{fields})"),
    "rule_later": ("rule {rule} is not asked: {drawing} draws", "不再看规则 {rule}:已由 {drawing} 抽奖"),
    "rule_none": ("no rule holds", "没有规则成立"),
    "drawn": (
        "rule {rule} draws {prize} ({title}): {mode}, {weight} of {total}",
        "规则 {rule} 抽中 {prize}({title}):{mode},权重 {weight}/{total}",
    ),
    "drawn_none": (
        "rule {rule} draws no prize: {mode}, {weight} of {total}",
        "规则 {rule} 未抽中:{mode},权重 {weight}/{total}",
    ),
    # The ledger.
    "ledger_none": ("there is no ledger yet: nothing was ever claimed", "尚无账本:从未领取过"),
    "ledger_trouble": ("the ledger takes no claims now: {trouble}", "账本目前不接受领取:{trouble}"),
    "scans": ("scans counted: {count}, the first at {first}", "已计扫码 {count} 次,首次 {first}"),
    "scans_none": ("no scan was counted yet", "尚无扫码计数"),
    "clock_ahead": ("the ledger's time is later, and counts: {clock}", "账本时间更晚,以其为准:{clock}"),
    "claimed_not": ("no claim of it is recorded for the party {party}", "{party}尚无人领取"),
    "claimed": ("it was claimed for the party {party} at {at}, in {campaign}", "{party}已于 {at} 领取,活动 {campaign}"),
    "claimed_mine": (
        "this user claimed it for the party {party} at {at}, in {campaign}",
        "该用户已以{party}身份于 {at} 领取,活动 {campaign}",
    ),
    "claimed_other": (
        "somebody else claimed it for the party {party} at {at}, in {campaign}",
        "他人已以{party}身份于 {at} 领取,活动 {campaign}",
    ),
    "generation_behind": (
        "the tables are of generation {found}, the ledger has seen {expected}: publish again, or restore the manifest",
        "数据表为第 {found} 代,账本已见第 {expected} 代:请重新发布,或恢复 manifest",
    ),
    "open": ("the campaign is open", "活动进行中"),
    "not_started": ("the campaign has not started: it opens at {opens}", "活动未开始:{opens} 开始"),
    "ended": ("the campaign has ended at {closes}", "活动已于 {closes} 结束"),
    "paused": ("an adjustment has paused the campaign", "活动已被暂停"),
    "closed": ("an adjustment has closed the campaign", "活动已被关闭"),
    "limit": ("claims of this user in all: {count} of {limit}", "该用户累计领取 {count}/{limit} 次"),
    "limit_none": ("claims of this user in all: {count}, without a limit", "该用户累计领取 {count} 次,不限"),
    "limit_day": ("claims of this user today: {count} of {limit}", "该用户今日领取 {count}/{limit} 次"),
    "limit_day_none": ("claims of this user today: {count}, without a limit", "该用户今日领取 {count} 次,不限"),
    "stock": ("stock of {prize}: {given} of {limit} given", "{prize} 库存:已发 {given}/{limit}"),
    "stock_day": ("stock of {prize} today: {given} of {limit} given", "{prize} 今日库存:已发 {given}/{limit}"),
    "budget": ("money for {prize}: {given} of {limit} spent", "{prize} 所用预算:已用 {given}/{limit}"),
    "budget_day": ("money for {prize} today: {given} of {limit} spent", "{prize} 所用今日预算:已用 {given}/{limit}"),
    "given": ("{prize} can be given", "{prize} 可发放"),
    "not_given": ("{prize} cannot be given", "{prize} 无法发放"),
    "nothing_left": ("no fallback is left", "没有可替代的奖品"),
    # The end of it.
    "answer_status": ("so the answer is {status}, and nothing can be claimed", "因此结果为{status},不能领取"),
    "answer_awarded": ("so a claim now would be awarded: {prize}", "因此现在领取会得到:{prize}"),
    "answer_awarded_again": (
        "so a claim now gets the same answer again: {prize}",
        "因此再次领取得到同样的结果:{prize}",
    ),
    "answer_no_prize": ("so a claim now would be recorded without a prize", "因此现在领取会记录为未中奖"),
    "answer_no_prize_again": (
        "so a claim now gets the same answer again: no prize",
        "因此再次领取得到同样的结果:未中奖",
    ),
    "answer_taken": ("so a claim now would be told that it is taken", "因此现在领取会被告知已被领取"),
    "answer_pending": ("so a claim now would stay pending, to be asked again", "因此现在领取会处于待定,需稍后重试"),
    "answer_limited_per_user": (
        "so a claim now would be refused: the user's limit is reached; the code stays unused",
        "因此现在领取会被拒绝:该用户已达上限;码未被使用",
    ),
    "answer_limited_per_user_per_day": (
        "so a claim now would be refused: the user's limit of the day is reached; the code stays unused",
        "因此现在领取会被拒绝:该用户已达当日上限;码未被使用",
    ),
    "answer_closed_not_started": (
        "so a claim now would be refused: the campaign has not started; the code stays unused",
        "因此现在领取会被拒绝:活动未开始;码未被使用",
    ),
    "answer_closed_ended": (
        "so a claim now would be refused: the campaign has ended",
        "因此现在领取会被拒绝:活动已结束",
    ),
    "answer_closed_paused": (
        "so a claim now would be refused: the campaign is paused; the code stays unused",
        "因此现在领取会被拒绝:活动已暂停;码未被使用",
    ),
    "answer_ineligible_no_rule": (
        "so a claim now would be refused: no rule is for this scan; the code stays unused",
        "因此现在领取会被拒绝:没有适用的规则;码未被使用",
    ),
    "answer_ineligible_scene_off": (
        "so a claim now would be refused: marketing is off; the code stays unused",
        "因此现在领取会被拒绝:营销场景未开启;码未被使用",
    ),
}
"""English and Chinese of each step."""

NAMES: Final[dict[str, str]] = {
    "active": "已激活", "inactive": "未激活", "frozen": "已冻结", "void": "已作废", "recalled": "已召回",
    "verify": "仅验码",
    "malformed": "格式错误", "mistyped": "输入有误", "unknown_key": "密钥未知", "forged": "伪造", "unknown": "无此码",
    "wrong_product": "商品不符", "expired": "已过期", "valid": "有效", "product_only": "仅商品条码",
    "authenticity": "防伪", "marketing": "营销", "anti_diversion": "防窜货", "trace": "溯源", "link": "链接",
    "time": "时间", "hours": "时段", "product": "商品", "item": "码号", "region": "地区", "role": "角色",
    "consumer": "消费者", "channel": "渠道", "retailer": "零售商", "associate": "导购", "distributor": "经销商",
    "inspector": "稽查", "weighted": "按权重", "certain": "必中",
}  # fmt: skip
"""Chinese of the words that are English names in files and replies; all of them are."""
_NAMED: Final = frozenset(
    {"state", "slot_state", "status", "scenes", "field", "fields", "party", "mode", "found", "expected"}
)
"""Values that may be such a name; the others are titles and ids, and stay as they are."""


def sentence(step: Step, language: Language) -> str:
    """Return a step in words."""
    english, chinese = WORDS[step.key]
    values = {name: _shown(name, value, language) for name, value in step.values.items()}
    return (english if language == "en" else chinese).format_map(values)


def _shown(name: str, value: Any, language: Language) -> str:
    if value is None or value in ("", []):
        return _NOTHING
    if isinstance(value, list):
        return ("、" if language == "zh" else ", ").join(_shown(name, each, language) for each in value)
    text = str(value)
    if language == "en" or name not in _NAMED:
        return text
    return "、".join(NAMES.get(part, part) for part in text.split(", "))


def language_of(environment: dict[str, str]) -> Language:
    """Return the language of a terminal: Chinese where its locale is."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if environment.get(name):
            return "zh" if environment[name].lower().startswith("zh") else "en"
    return "en"
