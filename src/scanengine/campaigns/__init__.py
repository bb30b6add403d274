"""Campaigns: the file somebody writes, what is odd about it, and the prize table it becomes."""

from scanengine.campaigns.check import check_campaign
from scanengine.campaigns.compile import compile_campaign
from scanengine.campaigns.example import EXAMPLE_CAMPAIGN, example_campaign
from scanengine.campaigns.model import Campaign
from scanengine.campaigns.parse import check_campaign_id, parse_campaign

__all__ = [
    "EXAMPLE_CAMPAIGN",
    "Campaign",
    "check_campaign",
    "check_campaign_id",
    "compile_campaign",
    "example_campaign",
    "parse_campaign",
]
