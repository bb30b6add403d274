"""WeChat's own protocols, and nothing of ours: who logs in, and how WeChat is asked for it."""

from scanengine.wechat.browsers import can_log_in
from scanengine.wechat.oauth import Exchange, OAuthClient, Outcome, authorize_prefix

__all__ = ["Exchange", "OAuthClient", "Outcome", "authorize_prefix", "can_log_in"]
