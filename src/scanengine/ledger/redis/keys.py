"""Names of all keys of one program's ledger: one hash tag, so that they share a slot of a Cluster."""

from __future__ import annotations

import re
from typing import Final

from scanengine.errors import SettingsError

BUCKET_BITS: Final = 7
"""128 neighbouring items share a hash: with a claim each, as much as Redis keeps in one compact listpack by default."""
BUCKET_ITEMS: Final = 1 << BUCKET_BITS
BUCKET_MASK: Final = BUCKET_ITEMS - 1

_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9._-]+")


class Keys:
    """Keys of one program.

    Parameters
    ----------
    program_id : str
        The program's id, with or without ``/`` and the id of its key.

    Raises
    ------
    SettingsError
        The id cannot stand in a hash tag and in a pattern of an ACL.
    """

    def __init__(self, program_id: str) -> None:
        name = program_id.partition("/")[0]
        if not _PLAIN_ID.fullmatch(name):
            raise SettingsError(f"[program] id {name!r}: a ledger in Redis needs one of A-Z a-z 0-9 . _ - only")
        self.tag = name
        self.prefix = f"{{{name}}}:".encode()
        self.meta = self.prefix + b"meta"
        self.campaigns = self.prefix + b"campaigns"
        self.readers = self.prefix + b"readers"
        self.adjustments = self.prefix + b"adjustments"
        self.outbox = self.prefix + b"outbox"
        self.buckets = self.prefix + b"c:"
        self.scans = self.prefix + b"s:"
        self.people = self.prefix + b"u:"
        self._counts = self.prefix + b"k:"

    def bucket_of(self, item: int) -> bytes:
        """Return the key of the bucket that holds the claims of an item."""
        return self.buckets + b"%x" % (item >> BUCKET_BITS)

    def scans_of(self, item: int) -> bytes:
        """Return the key of the scans of an item."""
        return self.scans + b"%x" % item

    def person(self, campaign: int, user_hash: int) -> bytes:
        """Return the key of a person's counts in the campaign of a number."""
        return self.people + b"%x:%016x" % (campaign, user_hash)

    def campaign(self, campaign: str) -> bytes:
        """Return the key of what is counted and adjusted of a campaign."""
        return self._counts + campaign.encode()
