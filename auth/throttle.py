"""How fast passwords may be guessed: failed log-ins make the next ones wait. Pure, given a clock.

Three things are counted: an account from an address, an account from everywhere, and an address with all accounts. What is counted under an
account's name is counted whether there is such an account or not, so that nobody learns it by waiting.

An account that is attacked from everywhere may still be logged in to from where its owner did before: otherwise an attacker who takes every
chance would keep the owner out for as long as they like.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from dataclasses import dataclass

ENTRIES_MAX = 100_000
"""Counts that are kept, and addresses from which accounts were logged in to; of each the oldest go first."""
FORGOTTEN_AFTER = 900.0
"""Seconds without a failure after which an address, or an account from an address, starts anew."""
ACCOUNT_WINDOW = 600.0
"""Seconds in which the failures of an account from everywhere are counted together."""
OWN_SECONDS = 7 * 86400.0
"""How long an address counts as one that an account is used from, in seconds since the last log-in."""


class SlowDown(Exception):
    """A log-in that came too soon after others that failed. ``retry_after`` in seconds."""

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(f"too many failed log-ins: try again in {math.ceil(retry_after)} s")


@dataclass(frozen=True, slots=True)
class Pace:
    """How many failures cost nothing, and the seconds to wait after each further one: twice as long every time, up to the longest."""

    free: int
    shortest: float
    longest: float

    def delay(self, failures: int) -> float:
        """Seconds from the last of so many failures to the next attempt."""
        if failures < self.free:
            return 0.0
        return min(self.longest, self.shortest * 2.0 ** min(failures - self.free, 32))


PAIR = Pace(5, 1.0, 60.0)
ADDRESS = Pace(20, 1.0, 60.0)
ACCOUNT = Pace(20, 5.0, 5.0)

Key = tuple[str | None, str | None]
"""An account and an address, None for any."""


@dataclass(slots=True)
class _Count:
    failures: int
    since: float
    last: float


class Throttle:
    """Who has failed how often. ``now`` in seconds of a clock that never goes back."""

    def __init__(self, entries: int = ENTRIES_MAX) -> None:
        self._entries = entries
        self._counts: OrderedDict[Key, _Count] = OrderedDict()
        """By the time of the last failure."""
        self._own: OrderedDict[Key, float] = OrderedDict()
        """By the time of the last log-in."""

    def check(self, account: str, address: str, now: float) -> None:
        """Whether this account may be tried from this address; SlowDown."""
        network = network_of(address)
        pair, *wide = _keys(account, network)
        logged_in = self._own.get(pair)
        is_own = logged_in is not None and now - logged_in < OWN_SECONDS
        wait = max(self._wait(key, now) for key in ([pair] if is_own else [pair, *wide]))
        if wait > 0:
            raise SlowDown(wait)

    def failed(self, account: str, address: str, now: float) -> None:
        """Count an attempt as failed. Done when it begins: a thousand at once are then worth no more than one after the other."""
        self._drop_old(now)
        for key in _keys(account, network_of(address)):
            count = self._counts.get(key)
            if count is None or _is_over(key, count, now):
                count = self._counts[key] = _Count(0, now, now)
            count.failures += 1
            count.last = now
            self._counts.move_to_end(key)
        while len(self._counts) > self._entries:
            self._counts.popitem(last=False)

    def forgive(self, account: str, address: str) -> None:
        """Take back one failure: nothing was tried after all."""
        for key in _keys(account, network_of(address)):
            count = self._counts.get(key)
            if count is not None and count.failures > 0:
                count.failures -= 1

    def succeeded(self, account: str, address: str, now: float) -> None:
        """Take back the failure that the attempt was counted as. The account starts anew from this address; nothing else does."""
        self.forgive(account, address)
        pair = _keys(account, network_of(address))[0]
        self._counts.pop(pair, None)
        self._own[pair] = now
        self._own.move_to_end(pair)
        while len(self._own) > self._entries:
            self._own.popitem(last=False)

    def __len__(self) -> int:
        """Entries of all kinds."""
        return len(self._counts) + len(self._own)

    def _wait(self, key: Key, now: float) -> float:
        count = self._counts.get(key)
        if count is None or _is_over(key, count, now):
            return 0.0
        return count.last + _pace(key).delay(count.failures) - now

    def _drop_old(self, now: float) -> None:
        """Drop what has expired. Both tables are in the order in which they expire."""
        while self._counts and now - next(iter(self._counts.values())).last >= FORGOTTEN_AFTER:
            self._counts.popitem(last=False)
        while self._own and now - next(iter(self._own.values())) >= OWN_SECONDS:
            self._own.popitem(last=False)


def network_of(address: str) -> str:
    """What counts as one address: of IPv6 a /64, any machine may draw addresses from it (RFC 8981). What is none stays as it is."""
    try:
        parsed = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))


def _keys(account: str, network: str) -> tuple[Key, Key, Key]:
    return (account, network), (account, None), (None, network)


def _pace(key: Key) -> Pace:
    account, network = key
    if network is None:
        return ACCOUNT
    return ADDRESS if account is None else PAIR


def _is_over(key: Key, count: _Count, now: float) -> bool:
    """Whether a count starts anew. One that is forgotten is not there any more."""
    return key[1] is None and now - count.since >= ACCOUNT_WINDOW
