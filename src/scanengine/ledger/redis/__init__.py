"""The ledger in Redis or Valkey, for programs that several processes or machines serve; needs the extra ``redis``."""

from scanengine.ledger.redis.ledger import RedisLedger
from scanengine.ledger.redis.reader import RedisReader

__all__ = ["RedisLedger", "RedisReader"]
