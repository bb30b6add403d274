"""From a batch of requests to their answers, over one link: asked until they are known or nobody waits for them.

What the server refuses was not written. A refusal that any call would get is the server's trouble; any other is of one
item that cannot be read, which must not spoil the others of its batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from redis.exceptions import OutOfMemoryError, ResponseError

from scanengine.ledger.redis import control
from scanengine.ledger.redis._codec import Encoder
from scanengine.ledger.redis._replies import decode_answers
from scanengine.ledger.redis.codec import StrangeReplyError, UnknownCampaignError
from scanengine.ledger.redis.health import Health
from scanengine.ledger.redis.keys import Keys
from scanengine.ledger.redis.link import Link, LinkError, said_by
from scanengine.ledger.redis.session import Session, is_over
from scanengine.model import ClaimRequest, ObserveRequest, Receipt, ScanFacts

_Request = ClaimRequest | ObserveRequest
_Answer = Receipt | ScanFacts

_log = logging.getLogger(__name__)


class Asker:
    """Asks for batches over one link."""

    def __init__(self, link: Link, keys: Keys, session: Session, encoder: Encoder, health: Health) -> None:
        self.link = link
        self._keys = keys
        self._session = session
        self._encoder = encoder
        self._health = health

    async def answer(self, requests: list[_Request], is_wanted: Callable[[], bool]) -> list[_Answer | None]:
        """Return the answers in order, None for each that is not known."""
        while is_wanted():
            try:
                return await self._send(requests)
            except LinkError as error:
                _log.debug("%d requests are asked again: %s", len(requests), error)
            except StrangeReplyError as error:
                self._health.fault = str(error)
                await self.link.drop()  # The next connection says what library it is.
            except ResponseError as error:
                if is_over(error):
                    self._health.fault = said_by(error)
                    await self.link.drop()
                elif not await self.probe():
                    break
                elif len(requests) > 1:
                    middle = len(requests) // 2
                    first = await self.answer(requests[:middle], is_wanted)
                    return first + await self.answer(requests[middle:], is_wanted)
                else:
                    _log.error("item %d: the server refuses: %s", requests[0].item, said_by(error))
                    break
        return [None] * len(requests)

    async def probe(self) -> bool:
        """Tell whether the server takes a call that can write; if it does not, that is the trouble.

        Raises
        ------
        LinkError
            There is no answer.
        """
        try:
            newest = await control.announce(self._keys, 0)(self.link.call, self._session.epoch)
        except ResponseError as error:
            if is_over(error):
                await self.link.drop()
            before = self._health.fault
            is_full = isinstance(error, OutOfMemoryError)
            self._health.fault = "the memory of the server is full" if is_full else f"it refuses: {said_by(error)}"
            if self._health.fault != before:
                _log.error("claims are not taken: %s", self._health.fault)
            return False
        self._health.fault = None
        self._session.generation = newest
        return True

    async def _send(self, requests: list[_Request]) -> list[_Answer | None]:
        await self.link.ready()
        sent = requests
        if self._health.refusal:
            sent = [request for request in requests if isinstance(request, ObserveRequest)]
            if not sent:
                return [None] * len(requests)
        packed = await self._encode(sent)
        has_claims = any(isinstance(request, ClaimRequest) for request in sent)
        # A connection that is made meanwhile may be to a server that promises less.
        reply = await self.link.call_packed(packed, guard=lambda: not (has_claims and self._health.refusal))
        session = self._session
        generation, answers, is_whole = decode_answers(reply, sent, session.campaigns)
        if not is_whole:
            session.campaigns = control.read_campaigns(await self.link.call("HGETALL", self._keys.campaigns))
            generation, answers, _ = decode_answers(reply, sent, session.campaigns)
        self._health.fault = None
        session.generation = max(session.generation, generation)
        if sent is requests:
            return answers
        found = iter(answers)
        return [next(found) if isinstance(request, ObserveRequest) else None for request in requests]

    async def _encode(self, requests: list[_Request]) -> bytes:
        """Return the packed call for a batch; a campaign that is new here is asked for its number first."""
        while True:
            session = self._session
            try:
                return self._encoder.call(session.epoch, requests, session.numbers)
            except UnknownCampaignError as error:
                number = await control.number(self._keys, error.campaign)(self.link.call, session.epoch)
                session.numbers[error.campaign] = number
                session.campaigns[number] = error.campaign
