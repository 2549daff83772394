"""Who may use the service: without keys any user of this machine, with keys those who show one or have signed in."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from app.domain.access import ANYBODY
from app.domain.errors import DatabaseUnavailable, SignInNeeded, TooManyWrongKeys, WrongKey
from app.domain.key_format import is_key
from app.runtime.batching import Batcher
from app.storage.keys import hashed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from app.domain.access import Caller
    from app.messaging.events import Events
    from app.storage.keys import KeyStore

SESSION_COOKIE: Final = "genonaut_session"
OPEN_S: Final = 2.0
"""Maximum seconds from the creation of the first key until the service requires one."""
KNOWN_S: Final = 5.0
"""Seconds for which it is remembered whose a key is, should the news of its revocation be lost."""
AWAY_S: Final = 600.0
"""Seconds for which it is remembered while PostgreSQL is away."""
MOST_KNOWN: Final = 10_000
KEYS_CHANGED: Final = "keys_changed"
"""Type of the event that tells all servers of a change to a key."""
WRONG_AT_ONCE: Final = 20
WRONG_EVERY_S: Final = 3.0
"""An address may send `WRONG_AT_ONCE` wrong keys, and then one in so many seconds."""
_MOST_ADDRESSES: Final = 10_000
GOOD_CHARS: Final = 16
"""Characters of a key's hash by which it is known to open something: nobody finds another one with the same 64 bits."""


class Shown(NamedTuple):
    """What a request shows of who it is from."""

    key: str | None
    session: str | None
    address: str | None
    """Where it comes from; None where that is not known."""
    is_local: bool
    """Whether it comes from this machine, and calls this server by a name of it; not looked at with a key."""


@dataclass(frozen=True, slots=True)
class Over:
    """What lets nobody in any more: sessions, keys, and being anybody."""

    sessions: frozenset[str]
    key_ids: frozenset[int]
    anybody: bool

    def includes(self, session: str | None, key_id: int | None) -> bool:
        """Whether who shows this session, else this key, else nothing, is let in no more."""
        if session is not None:
            return session in self.sessions
        return key_id in self.key_ids if key_id is not None else self.anybody


class Access:
    """Finds out who sends a request. With `read_only` the page changes nothing, whatever the role."""

    def __init__(self, keys: KeyStore, events: Events, *, read_only: bool) -> None:
        self._keys = keys
        self._events = events
        self.read_only: Final = read_only
        self._open_at: float | None = None
        """Monotonic time of the last check that found no key; None before one did, and once a key exists."""
        self._looking = False
        """Whether it is being looked for a key just now."""
        self._known: OrderedDict[str, tuple[float, Caller]] = OrderedDict()
        """Hash of a key → when it was last looked for, monotonic, and whose it is; the last used comes last."""
        self._changes = 0
        """How often keys have changed: what was read before the last change is not remembered."""
        self._finding = Batcher(keys.find, most=64, flights=2)
        self.wrong: Final = WrongKeys()
        self._good = GoodKeys(keys)
        self.on_change: list[Callable[[int], None]] = []
        """Called with the id of each key that was changed, by any server."""

    async def caller(self, shown: Shown) -> Caller:
        """Return who sends what shows this.

        Without keys it must come from this machine itself: behind a proxy every request does, and the name that it
        calls tells what was asked for outside.

        Raises
        ------
        SignInNeeded, WrongKey, TooManyWrongKeys
        DatabaseUnavailable
            It cannot be known.
        """
        if shown.key is not None:
            return await self._holder(shown.key, shown.address)
        if await self.open():
            if not shown.is_local:
                raise SignInNeeded("No key has been made yet, so the service is open on its own machine only.")
            return ANYBODY
        caller = await self._keys.caller(shown.session) if shown.session else None
        if caller is None:
            raise SignInNeeded("A key is needed: Authorization: Bearer <key>, or sign in to the page.")
        return caller

    async def holder(self, key_id: int) -> Caller | None:
        """Return whose key this is, looked for anew; None when it has ended. Raises `DatabaseUnavailable`."""
        return await self._keys.holder(key_id)

    async def open(self) -> bool:
        """Whether no key has ever been made, so that this machine needs none."""
        now = time.monotonic()
        # Of many at once one looks, and the others go by what was known a moment ago.
        if self._open_at is None or (now - self._open_at > OPEN_S and not self._looking):
            self._looking = True
            try:
                self._open_at = None if await self._keys.closed() else now
            except DatabaseUnavailable:
                # PostgreSQL is away. What was open at the last check stays open, and shows what is in Redis.
                if self._open_at is None:
                    raise
            finally:
                self._looking = False
        return self._open_at is not None

    async def over(self, sessions: Collection[str], key_ids: Collection[int], *, anybody: bool) -> Over:
        """Return which of the sessions, and of the keys, let nobody in any more.

        `anybody` asks about those who have shown neither, whom the first key shuts out. Raises `DatabaseUnavailable`.
        """
        shut_out = anybody and not await self.open()
        live: tuple[set[str], set[int]] = set(), set()
        if sessions or key_ids:
            live = await self._keys.live(sessions, key_ids)
        return Over(frozenset(sessions) - live[0], frozenset(key_ids) - live[1], shut_out)

    async def tell_of_change(self, key_id: int) -> bool:
        """Have all servers look at a key anew, and return whether they were told.

        One that is not reached does so within `KNOWN_S`.
        """
        self.forget(key_id)
        return await self._events.publish_event({"type": KEYS_CHANGED, "key": key_id})

    def forget(self, key_id: int) -> None:
        """Look at a key anew when it is next shown, and tell those who asked for that."""
        for key_hash in [each for each, (_, caller) in self._known.items() if caller.key_id == key_id]:
            del self._known[key_hash]
        self._open_at = None
        self._good.forget()
        self._changes += 1
        for callback in self.on_change:
            callback(key_id)

    async def admit(self, key: str, address: str | None) -> None:
        """Raise `TooManyWrongKeys` for what opens nothing from an address that has sent too many such keys.

        A key that opens something is let by: its holder is not shut out by a guesser behind the same proxy. Raises
        `DatabaseUnavailable` too.
        """
        try:
            self.wrong.check(address)
        except TooManyWrongKeys:
            if not is_key(key) or not await self._good.includes(hashed(key)):
                raise

    async def settle(self) -> None:
        """Return when no key is being looked for."""
        await self._finding.settle()

    async def _holder(self, key: str, address: str | None) -> Caller:
        if not is_key(key):
            raise _wrong(is_first=self.wrong.count(address))
        key_hash = hashed(key)
        known = self._known.get(key_hash)
        if known is not None and time.monotonic() - known[0] < KNOWN_S:
            return known[1]
        if known is None:
            await self.admit(key, address)
        began, changes = time.monotonic(), self._changes
        try:
            caller = await self._finding.do((key_hash, address))
        except DatabaseUnavailable:
            if known is None or began - known[0] > AWAY_S:
                raise
            # PostgreSQL is away, and what needs it fails by itself.
            return known[1]
        if caller is None:
            self._known.pop(key_hash, None)
            self._good.drop(key_hash)
            raise _wrong(is_first=self.wrong.count(address))
        if changes == self._changes:
            self._known[key_hash] = began, caller
            self._known.move_to_end(key_hash)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return caller


class GoodKeys:
    """Which keys open something, by the beginnings of their hashes: of others it is known without looking for them.

    They are read only when a key comes from an address that has guessed too often, and then at most once in `KNOWN_S`,
    however many guess from however many addresses: looked for is one key in `WRONG_EVERY_S` from each, as ever.
    The alternative, to look for all well-formed keys within a budget that all addresses share, would let guessers
    spend it, and shut out good keys again: the checksum in a key is no secret.
    """

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys
        self._reading = asyncio.Lock()
        self._found: set[str] = set()
        self._read_at: float | None = None
        """Monotonic time of the last reading, even if it failed; None when a key has changed since."""

    async def includes(self, key_hash: str) -> bool:
        """Whether the key of this hash opens something, or did a moment ago; raises `DatabaseUnavailable`."""
        async with self._reading:
            if self._read_at is None or time.monotonic() - self._read_at > KNOWN_S:
                self._read_at = time.monotonic()
                self._found = await self._keys.good(GOOD_CHARS)
        return key_hash[:GOOD_CHARS] in self._found

    def drop(self, key_hash: str) -> None:
        """Note that a key opens nothing any more: shown again and again it would be looked for each time."""
        self._found.discard(key_hash[:GOOD_CHARS])

    def forget(self) -> None:
        """Read them anew when they are next needed."""
        self._read_at = None


class WrongKeys:
    """How many wrong keys came from each address lately: more than a few are not looked for."""

    def __init__(self) -> None:
        self._until: OrderedDict[str, float] = OrderedDict()
        """Address → the monotonic time at which all its wrong keys are forgiven."""
        self.counted = 0
        """How many wrong keys have come."""

    def count(self, address: str | None) -> bool:
        """Count a wrong key, and return whether the address had not sent any lately; raises `TooManyWrongKeys`."""
        self.counted += 1
        self.check(address)
        now, name = time.monotonic(), address or ""
        is_first = self._until.get(name, 0.0) < now
        self._until[name] = max(now, self._until.get(name, now)) + WRONG_EVERY_S
        self._until.move_to_end(name)
        if len(self._until) > _MOST_ADDRESSES:
            self._until.popitem(last=False)
        return is_first

    def check(self, address: str | None) -> None:
        """Raise `TooManyWrongKeys` if so many came from this address that no unknown one is looked for."""
        over_s = self._until.get(address or "", 0.0) - time.monotonic() - (WRONG_AT_ONCE - 1) * WRONG_EVERY_S
        if over_s > 0:
            raise TooManyWrongKeys("Too many wrong keys came from this address; try again later.", over_s)


def _wrong(*, is_first: bool) -> WrongKey:
    return WrongKey("The key is wrong, was revoked, or has expired.", is_first=is_first)
