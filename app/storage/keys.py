"""Keys and sessions: who may sign in to the page, and which browsers have. Only hashes are kept."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError

from app.domain.access import Role, Viewer
from app.domain.errors import KeyNotFound, KeyTaken, WrongKey
from app.storage.schema import KeyRow, SessionRow

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from app.storage.database import Database

PREFIX: Final = "gn_"
"""Begins every key, so that one that got lost is known for what it is."""
SESSION: Final = timedelta(hours=12)
"""Time for which a browser stays signed in after its last request."""
_RENEWED_AFTER: Final = timedelta(minutes=10)
_NOTED_AFTER: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Key:
    """A key, without what only its owner has."""

    name: str
    role: Role
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


class KeyStore:
    """Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._closed: bool | None = None

    async def closed(self) -> bool:
        """Whether a key was ever made: from then on the page needs one, even when all are revoked."""
        # It never becomes false again, so it is asked only until then.
        if not self._closed:
            async with self._database.transaction() as session:
                self._closed = bool(await session.scalar(select(select(KeyRow.id).exists())))
        return self._closed

    async def add(self, name: str, role: Role) -> str:
        """Make a key and return it; it cannot be read again. Raises `KeyTaken`."""
        secret = PREFIX + secrets.token_urlsafe(32)
        try:
            async with self._database.transaction() as session:
                session.add(KeyRow(name=name, role=role.value, key_hash=_hash(secret)))
        except IntegrityError as error:
            raise KeyTaken(f"There is a key called {name!r} already; revoked ones keep their names too.") from error
        return secret

    async def all(self) -> list[Key]:
        """Return every key, the oldest first."""
        async with self._database.transaction() as session:
            rows = await session.scalars(select(KeyRow).order_by(KeyRow.id))
            return [
                Key(row.name, Role(row.role), row.created_at, row.last_used_at, row.revoked_at) for row in rows.all()
            ]

    async def revoke(self, name: str) -> None:
        """Let a key open nothing any more, and end its sessions; raises `KeyNotFound`."""
        async with self._database.transaction() as session:
            revoked = update(KeyRow).where(KeyRow.name == name).values(revoked_at=func.now()).returning(KeyRow.id)
            key_id = await session.scalar(revoked)
            if key_id is None:
                raise KeyNotFound(f"There is no key called {name!r}.")
            await session.execute(delete(SessionRow).where(SessionRow.key_id == key_id))

    async def sign_in(self, secret: str) -> tuple[str, Viewer]:
        """Begin a session and return its token, which only the browser has; raises `WrongKey`."""
        async with self._database.transaction() as session:
            used = (
                update(KeyRow)
                .where(KeyRow.key_hash == _hash(secret), KeyRow.revoked_at.is_(None))
                .values(last_used_at=func.now())
                .returning(KeyRow.id, KeyRow.name, KeyRow.role)
            )
            key = (await session.execute(used)).one_or_none()
            if key is None:
                raise WrongKey("That key does not open this page.")
            token = secrets.token_urlsafe(32)
            session.add(SessionRow(token_hash=_hash(token), key_id=key.id, expires_at=func.now() + SESSION))
        return token, Viewer(key.name, Role(key.role), signed_in=True)

    async def viewer(self, token: str) -> Viewer | None:
        """Return whose session this is; None when it has ended, or its key was revoked."""
        hashed = _hash(token)
        found = (
            select(KeyRow.id, KeyRow.name, KeyRow.role, KeyRow.last_used_at, SessionRow.expires_at, func.now())
            .join(SessionRow, SessionRow.key_id == KeyRow.id)
            .where(SessionRow.token_hash == hashed, SessionRow.expires_at > func.now(), KeyRow.revoked_at.is_(None))
        )
        async with self._database.transaction() as session:
            row = (await session.execute(found)).one_or_none()
            if row is None:
                return None
            key_id, name, role, used_at, expires_at, now = row
            if now - (expires_at - SESSION) > _RENEWED_AFTER:
                renewed = update(SessionRow).where(SessionRow.token_hash == hashed)
                await session.execute(renewed.values(expires_at=func.now() + SESSION))
            if used_at is None or now - used_at > _NOTED_AFTER:
                await session.execute(update(KeyRow).where(KeyRow.id == key_id).values(last_used_at=func.now()))
        return Viewer(name, Role(role), signed_in=True)

    async def live(self, tokens: Collection[str]) -> set[str]:
        """Return those of the tokens whose sessions go on, by one statement; that does not count as their use."""
        hashes = {_hash(token): token for token in tokens}
        found = (
            select(SessionRow.token_hash)
            .join(KeyRow, SessionRow.key_id == KeyRow.id)
            .where(SessionRow.token_hash.in_(hashes), SessionRow.expires_at > func.now(), KeyRow.revoked_at.is_(None))
        )
        async with self._database.transaction() as session:
            return {hashes[each] for each in await session.scalars(found)}

    async def sign_out(self, token: str) -> None:
        """End a session."""
        async with self._database.transaction() as session:
            await session.execute(delete(SessionRow).where(SessionRow.token_hash == _hash(token)))

    async def prune(self) -> int:
        """Delete sessions that have ended, and return how many."""
        async with self._database.transaction() as session:
            ended = delete(SessionRow).where(SessionRow.expires_at <= func.now()).returning(SessionRow.key_id)
            return len((await session.scalars(ended)).all())


def _hash(secret: str) -> str:
    # 256 random bits cannot be guessed: a slow hash would add nothing.
    # A browser may send any bytes as one, which come as lone surrogates.
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
