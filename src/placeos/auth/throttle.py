"""How often a password may be tried. Pure: time comes in as an argument.

A leaky bucket per key: each try fills it by one, it empties at a steady rate, and while it is
full the next try has to wait. A try is charged before the password is looked at and refunded
if it was right, so many at once are no way around. Memory is bounded: beyond `capacity` keys
the least recently touched is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

CAPACITY: Final = 10_000  # keys


class Bucket:
    """Counts tries by key: `limit` of them at once, then one per `every` seconds."""

    def __init__(self, limit: int, every: float, *, capacity: int = CAPACITY) -> None:
        self._limit = limit
        self._every = every
        self._capacity = capacity
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, key: str, now: float) -> float:
        """Seconds until the next try is allowed; 0 if it is now."""
        excess = self._level(key, now) - (self._limit - 1)
        return max(0.0, excess * self._every)

    def charge(self, key: str, now: float) -> None:
        """A try begins."""
        level = min(self._level(key, now) + 1.0, self._limit)
        self._levels[key] = (level, now)
        self._levels.move_to_end(key)
        if len(self._levels) > self._capacity:
            self._levels.popitem(last=False)

    def refund(self, key: str) -> None:
        """The try was a good one and does not count."""
        level, at = self._levels.pop(key, (0.0, 0.0))
        if level > 1.0:
            self._levels[key] = (level - 1.0, at)

    def clear(self, key: str) -> None:
        """Nothing that was tried before counts."""
        self._levels.pop(key, None)

    def _level(self, key: str, now: float) -> float:
        level, at = self._levels.get(key, (0.0, now))
        return max(0.0, level - max(0.0, now - at) / self._every)


class PasswordThrottle:
    """Tries of passwords, by account and address together and each by itself.

    The pair is strict. The account alone is lenient, so that a stranger elsewhere cannot lock
    somebody out with a few tries; the address alone stops one machine trying many accounts.
    """

    def __init__(self) -> None:
        self._pair = Bucket(5, 12.0)
        self._account = Bucket(50, 20.0)
        self._address = Bucket(100, 3.0)

    def wait(self, account: str, address: str, now: float) -> float:
        """Seconds until a try of this account from this address is allowed."""
        return max(
            self._pair.wait(f"{account} {address}", now),
            self._account.wait(account, now),
            self._address.wait(address, now),
        )

    def charge(self, account: str, address: str, now: float) -> None:
        """A try begins."""
        self._pair.charge(f"{account} {address}", now)
        self._account.charge(account, now)
        self._address.charge(address, now)

    def refund(self, account: str, address: str) -> None:
        """The password was right."""
        self._pair.clear(f"{account} {address}")
        self._account.refund(account)
        self._address.refund(address)
