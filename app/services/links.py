"""Links that show an output to whoever has them, for some time: signed, so that no header has to be sent."""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from app.domain.errors import LinkExpired, WrongSignature
from app.runtime.batching import Batcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.storage.link_secret import LinkSecretStore

MINUTE_S: Final = 60
"""Links end at full minutes: those made within the same one are equal, so that browsers keep what they lead to."""
CLOCKS_S: Final = 60
"""Seconds by which the clock of another server may be ahead."""
KNOWN_S: Final = 5.0
"""Seconds for which the secret is remembered: so soon another one counts everywhere."""
_MOST_AT_ONCE: Final = 100_000


@dataclass(frozen=True, slots=True)
class Signing:
    """Signs links that all end at the same time."""

    secret: bytes
    expires: int
    """Unix time in seconds."""

    def signed(self, path: str) -> str:
        """Return the path as a link."""
        return f"{path}?expires={self.expires}&signature={_signature_of_ours(self.secret, path, self.expires)}"


class Links:
    """Makes and checks links; each lives for `seconds`, and then until the minute is full."""

    def __init__(self, store: LinkSecretStore, seconds: int) -> None:
        self._store = store
        self._seconds = seconds
        self._known: tuple[float, bytes] | None = None
        """When the secret was read, monotonic, and the secret."""
        self._signing: Signing | None = None
        self._reading: Batcher[None, bytes] = Batcher(self._read, most=_MOST_AT_ONCE, flights=1)

    async def signing(self) -> Signing:
        """Return what signs the links of an answer; raises `DatabaseUnavailable`."""
        secret = await self._secret()
        expires = -(-(int(time.time()) + self._seconds) // MINUTE_S) * MINUTE_S
        if self._signing is None or self._signing.expires != expires or self._signing.secret != secret:
            self._signing = Signing(secret, expires)
        return self._signing

    async def seconds_left(self, path: str, expires: str, signature: str) -> int:
        """Return for how many seconds a link to this path still lives.

        Raises
        ------
        WrongSignature
            It is not of this path and time, or of another secret.
        LinkExpired
        DatabaseUnavailable
        """
        right = _signature(await self._secret(), path, expires)
        # A client may send any text, also one that is no UTF-8.
        if not hmac.compare_digest(right.encode(), signature.encode(errors="surrogatepass")):
            raise WrongSignature("The link was not made for this, was cut, or is of before the links were renewed.")
        # Only what we have signed comes here, and that is a number.
        left_s = int(expires) - int(time.time())
        if left_s <= 0:
            raise LinkExpired("The link has expired. Whatever names the output, such as its job, has a new one.")
        if left_s > self._seconds + MINUTE_S + CLOCKS_S:
            raise LinkExpired("The link is for longer than links may live now (LINK_SECONDS).")
        return left_s

    async def settle(self) -> None:
        """Return when the secret is not being read."""
        await self._reading.settle()

    async def _secret(self) -> bytes:
        if self._known is not None and time.monotonic() - self._known[0] < KNOWN_S:
            return self._known[1]
        return await self._reading.do(None)

    async def _read(self, asked: Sequence[None]) -> list[bytes]:
        began = time.monotonic()
        secret = await self._store.read()
        self._known = began, secret
        return [secret] * len(asked)


def output_path(content_id: int, index: int) -> str:
    """Return the path of an output, for which a link to it is signed."""
    return f"/api/v1/contents/{content_id}/outputs/{index}"


def thumbnail_path(content_id: int, index: int) -> str:
    """Return the path of an output's thumbnail."""
    return f"{output_path(content_id, index)}/thumbnail"


def unsigned(path: str) -> str:
    """Return the path itself: in place of `Signing.signed` where nobody needs a link, as on the page."""
    return path


# A job that is watched is read again and again, and its links are the same for a minute.
@lru_cache(maxsize=4096)
def _signature_of_ours(secret: bytes, path: str, expires: int) -> str:
    return _signature(secret, path, str(expires))


def _signature(secret: bytes, path: str, expires: str) -> str:
    return hmac.digest(secret, f"{path}\n{expires}".encode(errors="surrogatepass"), "sha256").hex()
