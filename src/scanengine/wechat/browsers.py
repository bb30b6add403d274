"""Which browsers can log in with an official account, by what they call themselves.

A ``User-Agent`` proves nothing and decides nothing but which way is offered: who lies about it logs in or sees a page.

    browser                   says                                     login
    WeChat on a phone         MicroMessenger                           yes
    WeChat on a computer      MicroMessenger, WindowsWechat|MacWechat  yes
    in a mini program         MicroMessenger, miniProgram              no: a web-view opens only the domains of the
                                                                       program's list, and the program has its own login
    WeChat Work               MicroMessenger, wxwork                   no: its login is of a company's own kind
"""

from __future__ import annotations


def can_log_in(user_agent: str) -> bool:
    """Return whether a browser is one in which WeChat logs its user in with an official account."""
    text = user_agent.lower()
    return "micromessenger" in text and "miniprogram" not in text and "wxwork" not in text
