"""Bringing the database's schema to the one of this version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic.util import CommandError

from app.commands.terminal import show
from app.domain.errors import DatabaseUnavailable, GenonautError
from app.environment import with_servers
from app.storage.database import Database, make_engine
from app.storage.migrating import migrate

if TYPE_CHECKING:
    from app.settings import Settings


class MigrationFailed(GenonautError):
    """The schema could not be brought to head."""

    code = "migration_failed"


async def migrate_schema(settings: Settings) -> int:
    """Bring the schema to head, and tell from which revision to which."""
    async with with_servers(settings, redis=False, migrated=False) as complete:
        before = await _revision(complete)
        try:
            await migrate(complete)
        except CommandError as error:
            raise MigrationFailed(
                f"The database has the schema of revision {before}, which this version does not lead to ({error}): "
                "it was made by a newer version, or by another branch."
            ) from error
        after = await _revision(complete)
    what = f"The schema of {settings.genonaut_env}"
    if before == after:
        show(f"{what} is at revision {after} already.")
    else:
        show(f"{what} went from {before or 'nothing'} to revision {after}.")
    return 0


async def _revision(settings: Settings) -> str | None:
    """Return the schema's revision; None when there is no schema."""
    engine = make_engine(settings)
    try:
        return await Database(engine).schema_revision()
    except DatabaseUnavailable as error:
        raise DatabaseUnavailable(f"The database that DATABASE_URL names cannot be used: {_reason(error)}") from error
    finally:
        await engine.dispose()


def _reason(error: BaseException) -> BaseException:
    """Return the first cause, in the driver's own words."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
