"""Bringing a database's schema to head says what it did, and what stands in the way."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import asyncpg
import pytest
from acceptance.commands import Place, free_ports, temporary_place

from app.storage.database import HEAD

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with temporary_place() as found:
        yield found


async def test_it_says_from_which_revision_to_which(place, empty_database_url):
    first = place.run("migrate", "--env", "dev", DATABASE_URL=empty_database_url)
    assert first.returncode == 0, first.stderr
    assert first.stdout == f"The schema of dev went from nothing to revision {HEAD}.\n"
    second = place.run("migrate", "--env", "dev", DATABASE_URL=empty_database_url)
    assert second.stdout == f"The schema of dev is at revision {HEAD} already.\n"


def test_an_embedded_database_is_migrated_too(place):
    done = place.run("migrate", "--env", "demo")
    assert done.stdout == f"The schema of demo went from nothing to revision {HEAD}.\n"
    assert place.is_quiet()


async def test_a_schema_of_a_newer_version_is_left_alone(place, database_url):
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    await connection.close()
    done = place.run("migrate", "--env", "dev", DATABASE_URL=database_url)
    assert done.returncode == 1
    assert "revision 9999" in done.stderr
    assert "Traceback" not in done.stderr


async def test_the_server_refuses_a_database_without_schema_and_says_which_command_helps(place, empty_database_url):
    done = place.run("serve", "--env", "dev", DATABASE_URL=empty_database_url)
    assert done.returncode == 1
    assert "make migrate-dev" in done.stderr


def test_a_database_that_is_away_is_one_sentence_without_the_password(place):
    (port,) = free_ports(1)
    done = place.run("migrate", "--env", "dev", DATABASE_URL=f"postgresql://me:s3cret@127.0.0.1:{port}/genonaut")
    assert done.returncode == 1
    assert re.fullmatch(r"The database that DATABASE_URL names cannot be used: .*\n", done.stderr)
    assert "s3cret" not in done.stderr
