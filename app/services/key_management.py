"""Making and changing keys while servers run: each of them learns of it at once, and somebody can always do it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from app.domain.access import Role
    from app.services.access import Access
    from app.storage.keys import Key, KeyStore


class KeyManagement:
    """What admins do to keys by REST and page. Commands do it too, and may leave no admin: they are the way back in."""

    def __init__(self, keys: KeyStore, access: Access) -> None:
        self._keys = keys
        self._access = access

    async def make(
        self,
        name: str,
        role: Role,
        *,
        owner: str | None = None,
        expires_at: datetime | None = None,
        limits: Mapping[str, Any] | None = None,
    ) -> tuple[str, Key]:
        """Make a key, and return it and what is known of it; it cannot be read again.

        Raises
        ------
        KeyTaken
        NoAdminLeft
            It would be the first key, which closes the service, and it is none of an admin.
        """
        secret, key = await self._keys.make(name, role, owner, expires_at, limits, keep_admin=True)
        # Until now the service may have been open.
        await self._access.tell_of_change(key.id)
        return secret, key

    async def revoke(self, key_id: int, *, force: bool = False) -> Key:
        """Let a key open nothing any more, anywhere, and end its sessions; what is revoked stays so.

        Raises
        ------
        KeyNotFound
        NoAdminLeft
            It is the last one of an admin, and that is not meant (`force`).
        """
        key = await self._keys.end(key_id, keep_admin=not force)
        await self._access.tell_of_change(key.id)
        return key

    async def change(self, key_id: int, **values: Any) -> Key:
        """Set `limits`, `expires_at` or `revoked_at`, and return the key; raises `KeyNotFound`."""
        key = await self._keys.change(key_id, **values)
        await self._access.tell_of_change(key.id)
        return key
