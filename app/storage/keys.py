"""Keys and sessions: who may use the service, and which browsers have signed in. Only hashes are kept."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError

from app.domain.access import Caller, Role
from app.domain.errors import KeyNotFound, KeyTaken, NoAdminLeft, WrongKey
from app.domain.key_format import is_key, new_key
from app.domain.limits import UNLIMITED, Limits
from app.runtime.json_text import loads
from app.storage.schema import KeyRow, SessionRow
from app.storage.statements import Statement

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncSession

    from app.storage.database import Database

SESSION: Final = timedelta(hours=12)
"""Time for which a browser stays signed in after its last request."""
_RENEWED_AFTER: Final = timedelta(minutes=10)
_NOTED_AFTER: Final = timedelta(minutes=1)
_NOT_ENDED: Final = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"
_FIND: Final = Statement(f"""
    WITH asked AS (SELECT * FROM unnest(:hashes::text[], :addresses::text[]) AS asked (key_hash, address)),
    noted AS (
        UPDATE api_keys SET last_used_at = now(), last_used_from = asked.address
        FROM asked WHERE api_keys.key_hash = asked.key_hash AND {_NOT_ENDED}
            AND (last_used_at IS NULL OR last_used_at < now() - :noted_after::interval)
    )
    SELECT key_hash, id, name, role, owner, limits FROM api_keys
    WHERE key_hash = ANY(:hashes) AND {_NOT_ENDED}""")  # noqa: S608  # of our own words only
_USE: Final = Statement(f"""
    UPDATE api_keys SET last_used_at = now(), last_used_from = :address
    WHERE key_hash = :key_hash AND {_NOT_ENDED} RETURNING id, name, role, owner, limits""")  # noqa: S608

_GOOD: Final = Statement(f"SELECT left(key_hash, :chars::int) AS beginning FROM api_keys WHERE {_NOT_ENDED}")  # noqa: S608
_ANY: Final = Statement("SELECT EXISTS (SELECT FROM api_keys)")
_HOLDER: Final = Statement(f"SELECT id, name, role, owner, limits FROM api_keys WHERE id = :key_id AND {_NOT_ENDED}")  # noqa: S608


@dataclass(frozen=True, slots=True)
class Key:
    """A key, without what only its holder has."""

    id: int
    name: str
    role: Role
    owner: str
    """The `user_id` of its jobs."""
    limits: Mapping[str, Any]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    last_used_from: str | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class KeyPage:
    """Keys, the newest first, and whether there are older and newer ones."""

    keys: list[Key]
    older: bool
    newer: bool


class KeyStore:
    """Methods raise `DatabaseUnavailable` while PostgreSQL is away."""

    def __init__(self, database: Database, limits: Mapping[Role, Limits] | None = None) -> None:
        """`limits` are those of each role, where its keys do not have others."""
        self._database = database
        self._limits = limits or {}
        self._closed: bool | None = None

    async def closed(self) -> bool:
        """Whether a key was ever made: from then on the service needs one, even when all are revoked."""
        # It never becomes false again, so it is asked only until then.
        if not self._closed:
            async with self._database.driver() as connection:
                self._closed = bool(await _ANY.value(connection))
        return self._closed

    async def has_admin(self) -> bool:
        """Whether there is a key of an admin that has not ended."""
        admins = select(KeyRow.id).where(KeyRow.role == Role.ADMIN.value, *_not_ended())
        async with self._database.transaction() as session:
            return bool(await session.scalar(select(admins.exists())))

    async def add(
        self,
        name: str,
        role: Role,
        *,
        owner: str | None = None,
        expires_at: datetime | None = None,
        limits: Mapping[str, Any] | None = None,
        keep_admin: bool = False,
    ) -> str:
        """Make a key and return it; it cannot be read again. Without an owner its jobs are of its name.

        Raises
        ------
        KeyTaken
        NoAdminLeft
            With `keep_admin`: nobody could make or revoke keys any more.
        """
        return (await self.make(name, role, owner, expires_at, limits, keep_admin=keep_admin))[0]

    async def make(
        self,
        name: str,
        role: Role,
        owner: str | None,
        expires_at: datetime | None,
        limits: Mapping[str, Any] | None,
        *,
        keep_admin: bool,
    ) -> tuple[str, Key]:
        """Make a key, as `add` does, and return also what is known of it."""
        secret = new_key()
        row = KeyRow(
            name=name,
            role=role.value,
            owner=owner or name,
            key_hash=hashed(secret),
            expires_at=expires_at,
            limits=dict(limits or {}),
        )
        try:
            async with self._database.transaction() as session:
                session.add(row)
                await session.flush()
                if keep_admin:
                    await _require_admin(session)
                await session.refresh(row)
                return secret, _key(row)
        except IntegrityError as error:
            raise KeyTaken(f"There is a key called {name!r} already; revoked ones keep their names too.") from error

    async def all(self) -> list[Key]:
        """Return every key, the oldest first."""
        async with self._database.transaction() as session:
            return [_key(row) for row in await session.scalars(select(KeyRow).order_by(KeyRow.id))]

    async def page(
        self,
        *,
        name: str | None = None,
        owner: str | None = None,
        before: int | None = None,
        after: int | None = None,
        limit: int = 50,
    ) -> KeyPage:
        """Return up to `limit` keys before, or after, the one of that number, or the newest ones."""
        chosen = select(KeyRow)
        for column, value in ((KeyRow.name, name), (KeyRow.owner, owner)):
            if value is not None:
                chosen = chosen.where(column == value)
        upward = after is not None
        if after is not None:
            chosen = chosen.where(KeyRow.id > after).order_by(KeyRow.id)
        else:
            chosen = chosen.order_by(KeyRow.id.desc())
            if before is not None:
                chosen = chosen.where(KeyRow.id < before)
        async with self._database.transaction() as session:
            found = [_key(row) for row in await session.scalars(chosen.limit(limit + 1))]
        more, found = len(found) > limit, found[:limit]
        if upward:
            found.reverse()
        return KeyPage(found, older=True if upward else more, newer=more if upward else before is not None)

    async def named(self, name: str) -> Key:
        """Return the key of this name, or raise `KeyNotFound`."""
        async with self._database.transaction() as session:
            row = await session.scalar(select(KeyRow).where(KeyRow.name == name))
        if row is None:
            raise KeyNotFound(f"There is no key called {name!r}.")
        return _key(row)

    async def get(self, key_id: int) -> Key:
        """Return the key of this number, or raise `KeyNotFound`."""
        async with self._database.transaction() as session:
            row = await session.get(KeyRow, key_id)
        if row is None:
            raise _no_key(key_id)
        return _key(row)

    async def revoke(self, name: str) -> int:
        """Let a key open nothing any more, end its sessions, and return its id; raises `KeyNotFound`."""
        return (await self.end((await self.named(name)).id, keep_admin=False)).id

    async def end(self, key_id: int, *, keep_admin: bool) -> Key:
        """Let a key open nothing any more, end its sessions, and return it; ending it again changes nothing.

        Raises
        ------
        KeyNotFound
        NoAdminLeft
            With `keep_admin`: it is the last one of an admin.
        """
        revoked_at = func.coalesce(KeyRow.revoked_at, func.now())
        revoked = update(KeyRow).where(KeyRow.id == key_id).values(revoked_at=revoked_at).returning(KeyRow)
        async with self._database.transaction() as session:
            if keep_admin:
                # Two admins who revoke each other's keys at once would both see the other one live.
                admins = select(KeyRow.id).where(KeyRow.role == Role.ADMIN.value, *_not_ended())
                await session.execute(admins.order_by(KeyRow.id).with_for_update())
            row = (await session.scalars(revoked)).one_or_none()
            if row is None:
                raise _no_key(key_id)
            key = _key(row)
            if keep_admin and key.role is Role.ADMIN:
                await _require_admin(session)
            await session.execute(delete(SessionRow).where(SessionRow.key_id == key_id))
        return key

    async def restore(self, name: str) -> int:
        """Take back a revocation, and return the key's id; raises `KeyNotFound`."""
        return (await self.change((await self.named(name)).id, revoked_at=None)).id

    async def limit(self, name: str, limits: Mapping[str, Any]) -> int:
        """Set the limits of a key that are not the defaults, and return its id; raises `KeyNotFound`."""
        return (await self.change((await self.named(name)).id, limits=dict(limits))).id

    async def change(self, key_id: int, **values: Any) -> Key:
        """Set `limits`, `expires_at` or `revoked_at` of a key, and return it; raises `KeyNotFound`."""
        changed = update(KeyRow).where(KeyRow.id == key_id).values(**values).returning(KeyRow)
        async with self._database.transaction() as session:
            row = (await session.scalars(changed)).one_or_none()
            if row is None:
                raise _no_key(key_id)
            return _key(row)

    async def find(self, asked: Sequence[tuple[str, str | None]]) -> list[Caller | None]:
        """Return whose keys have these hashes, each with the address that it came from; None for what opens nothing.

        At most once in `_NOTED_AFTER` it is noted when and from where a key was used.
        """
        hashes, addresses = [key_hash for key_hash, _ in asked], [address for _, address in asked]
        async with self._database.driver() as connection:
            rows = await _FIND.rows(connection, hashes=hashes, addresses=addresses, noted_after=_NOTED_AFTER)
        found = {row["key_hash"]: self._caller(row) for row in rows}
        return [found.get(key_hash) for key_hash in hashes]

    async def good(self, chars: int) -> set[str]:
        """Return so many characters of the hash of each key that opens something; that does not count as their use."""
        async with self._database.driver() as connection:
            return {row["beginning"] for row in await _GOOD.rows(connection, chars=chars)}

    async def holder(self, key_id: int) -> Caller | None:
        """Return whose key this is; None when it has ended. That does not count as its use."""
        async with self._database.driver() as connection:
            row = await _HOLDER.row(connection, key_id=key_id)
        return self._caller(row) if row is not None else None

    async def sign_in(self, secret: str, address: str | None = None) -> tuple[str, Caller]:
        """Begin a session and return its token, which only the browser has; raises `WrongKey`."""
        key = None
        if is_key(secret):
            async with self._database.driver() as connection:
                key = await _USE.row(connection, key_hash=hashed(secret), address=address)
        if key is None:
            raise WrongKey("That key does not open this page.")
        token = secrets.token_urlsafe(32)
        async with self._database.transaction() as session:
            session.add(SessionRow(token_hash=hashed(token), key_id=key["id"], expires_at=func.now() + SESSION))
        return token, self._caller(key)

    async def caller(self, token: str) -> Caller | None:
        """Return whose session this is; None when it has ended, or its key has."""
        key_of_it = select(KeyRow, SessionRow.expires_at, func.now()).join(SessionRow, SessionRow.key_id == KeyRow.id)
        found = key_of_it.where(
            SessionRow.token_hash == hashed(token), SessionRow.expires_at > func.now(), *_not_ended()
        )
        async with self._database.transaction() as session:
            row = (await session.execute(found)).one_or_none()
            if row is None:
                return None
            key, expires_at, now = row
            if now - (expires_at - SESSION) > _RENEWED_AFTER:
                renewed = update(SessionRow).where(SessionRow.token_hash == hashed(token))
                await session.execute(renewed.values(expires_at=func.now() + SESSION))
            if key.last_used_at is None or now - key.last_used_at > _NOTED_AFTER:
                await session.execute(update(KeyRow).where(KeyRow.id == key.id).values(last_used_at=func.now()))
            return self._caller({name: getattr(key, name) for name in ("name", "role", "owner", "id", "limits")})

    async def live(self, tokens: Collection[str], key_ids: Collection[int]) -> tuple[set[str], set[int]]:
        """Return those of the tokens, and of the keys, that have not ended; that does not count as their use."""
        hashes = {hashed(token): token for token in tokens}
        sessions = (
            select(SessionRow.token_hash)
            .join(KeyRow, SessionRow.key_id == KeyRow.id)
            .where(SessionRow.token_hash.in_(hashes), SessionRow.expires_at > func.now(), *_not_ended())
        )
        keys = select(KeyRow.id).where(KeyRow.id.in_(key_ids), *_not_ended())
        async with self._database.transaction() as session:
            live_tokens = {hashes[each] for each in await session.scalars(sessions)} if hashes else set()
            return live_tokens, set(await session.scalars(keys)) if key_ids else set()

    async def sign_out(self, token: str) -> None:
        """End a session."""
        async with self._database.transaction() as session:
            await session.execute(delete(SessionRow).where(SessionRow.token_hash == hashed(token)))

    def _caller(self, row: Any) -> Caller:
        role = Role(row["role"])
        limits = self._limits.get(role, UNLIMITED).over(_limits(row["limits"]))
        return Caller(row["name"], role, row["owner"], row["id"], limits)

    async def prune(self) -> int:
        """Delete sessions that have ended, and return how many."""
        async with self._database.transaction() as session:
            ended = delete(SessionRow).where(SessionRow.expires_at <= func.now()).returning(SessionRow.key_id)
            return len((await session.scalars(ended)).all())


def hashed(secret: str) -> str:
    """Return the hash by which a key or a token is kept and found.

    256 random bits cannot be guessed: a slow hash would add nothing. Whoever guesses learns nothing from the time that
    a search for a hash takes.
    """
    # A browser may send any bytes as one, which come as lone surrogates.
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def _not_ended() -> tuple[ColumnElement[bool], ...]:
    return KeyRow.revoked_at.is_(None), or_(KeyRow.expires_at.is_(None), KeyRow.expires_at > func.now())


async def _require_admin(session: AsyncSession) -> None:
    """Raise `NoAdminLeft` if no key of an admin lets anybody in; what the transaction has done is then undone."""
    admins = select(KeyRow.id).where(KeyRow.role == Role.ADMIN.value, *_not_ended())
    if not await session.scalar(select(admins.exists())):
        raise NoAdminLeft(
            "No key of an admin would be left, and nobody could make or revoke keys any more. Make another key with "
            "the role admin first."
        )


def _no_key(key_id: int) -> KeyNotFound:
    return KeyNotFound(f"There is no key {key_id}.")


def _key(row: KeyRow) -> Key:
    return Key(**{name: getattr(row, name) for name in Key.__dataclass_fields__} | {"role": Role(row.role)})


def _limits(value: Any) -> dict[str, Any]:
    """Return the column's value, which the driver itself gives as a text."""
    named: dict[str, Any] = loads(value) if isinstance(value, str) else value
    return named
