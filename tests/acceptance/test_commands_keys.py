"""Keys are made, listed, revoked and restored by commands; a key is shown once, and running servers learn at once."""

from __future__ import annotations

import asyncio
import getpass
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from acceptance.commands import Place, temporary_place
from sqlalchemy import text

from app.domain.access import Role
from app.domain.errors import WrongKey
from app.storage.audit import Audit
from app.storage.keys import KeyStore
from app.storage.link_secret import LinkSecretStore
from app.storage.tenants import Tenants
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.settings import Settings
    from app.storage.database import Database

pytestmark = pytest.mark.slow

JOBS = "/api/v1/generation-jobs/"


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with temporary_place() as found:
        yield found


@dataclass
class Shell:
    """Runs commands as one does who looks after this test's service."""

    place: Place
    settings: Settings

    async def run(self, command: str, *options: str, **changes: str) -> tuple[int, str, str]:
        """Run a command to its end; return exit code, output and what was said beside it."""
        own = {
            "DATABASE_URL": self.settings.database_url.get_secret_value(),
            "REDIS_URL": self.settings.redis_url.get_secret_value(),
            "REDIS_DB": str(self.settings.redis_db),
            "REDIS_NAMESPACE": self.settings.redis_namespace,
        }
        done = await asyncio.to_thread(self.place.run, command, "--env", "test", *options, **(own | changes))
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def shell(place: Place, settings: Settings) -> Shell:
    return Shell(place, settings)


async def noted(database: Database) -> list[tuple[Any, ...]]:
    """Return the audit: who, what, to what, from where."""
    async with database.transaction() as session:
        rows = await session.execute(text("SELECT actor, role, action, target, address FROM audit_log ORDER BY id"))
        return [tuple(row) for row in rows]


async def test_a_key_is_made_listed_revoked_and_restored(shell: Shell, database: Database) -> None:
    code, out, _ = await shell.run("keys-list")
    assert (code, "There is no key" in out) == (0, True)
    code, out, _ = await shell.run("keys-add", "--name", "ann", "--role", "operator")
    secret, note = out.splitlines()
    assert code == 0
    assert "the service needs a key" in note
    store = KeyStore(database)
    assert (await store.sign_in(secret, "10.1.2.3"))[1].name == "ann"
    code, out, error = await shell.run("keys-add", "--name", "ann", "--role", "admin")
    assert (code, out) == (1, "")
    assert "called 'ann' already" in error
    code, out, _ = await shell.run("keys-list")
    assert (code, secret in out) == (0, False)
    header, row = out.splitlines()
    assert header.split() == "NAME ROLE OWNER MADE EXPIRES LAST USED FROM REVOKED LIMITS".split()
    assert row.split()[:3] == ["ann", "operator", "ann"]
    assert "10.1.2.3" in row
    code, out, _ = await shell.run("keys-revoke", "--name", "ann")
    assert (code, "No key of an admin is left" in out) == (0, True)
    with pytest.raises(WrongKey):
        await store.sign_in(secret)
    assert (await store.named("ann")).revoked_at is not None
    assert (await shell.run("keys-restore", "--name", "ann"))[0] == 0
    assert (await store.sign_in(secret))[1].name == "ann"
    who = f"command line ({getpass.getuser()})"
    assert await noted(database) == [
        (who, "admin", action, "key ann", "command line") for action in ("key_add", "key_revoke", "key_restore")
    ]


async def test_a_key_without_more_is_a_users_and_has_what_is_said_of_it(shell: Shell, database: Database) -> None:
    store, began = KeyStore(database), datetime.now(UTC)
    _, out, _ = await shell.run("keys-add", "--name", "app", "--role", "", "--owner", "", "--expires", "")
    key = await store.named("app")
    assert (key.role, key.owner, key.expires_at, key.limits) == (Role.USER, "app", None, {})
    assert "Its role is user, and its jobs are of app." in out
    more = ("--owner", "bob", "--expires", "0.5", "--limits", "running=2 waiting=none")
    _, out, _ = await shell.run("keys-add", "--name", "bot", *more)
    key = await store.named("bot")
    assert (key.owner, key.limits) == ("bob", {"running": 2, "waiting": None})
    assert key.expires_at is not None
    assert began <= key.expires_at - timedelta(hours=12) <= datetime.now(UTC)
    assert "its jobs are of bob, until" in out
    assert "running=2 waiting=none" in (await shell.run("keys-list"))[1]


async def test_running_servers_learn_of_it_from_the_command(
    shell: Shell, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing but the command's word can tell the server in time.
    monkeypatch.setattr("app.services.access.KNOWN_S", 3600.0)
    monkeypatch.setattr("app.services.access.OPEN_S", 3600.0)
    assert (await client.get(JOBS)).status == 200
    await shell.run("keys-add", "--name", "boss", "--role", "admin")

    async def closed() -> bool:
        return bool((await client.get(JOBS)).status == 401)

    await eventually(closed)
    secret = (await shell.run("keys-add", "--name", "ann"))[1].splitlines()[0]

    async def becomes(status: int) -> None:
        async def is_so() -> bool:
            return bool((await client.get(JOBS, headers={"Authorization": f"Bearer {secret}"})).status == status)

        await eventually(is_so)

    await becomes(200)
    await shell.run("keys-revoke", "--name", "ann")
    await becomes(401)
    await shell.run("keys-restore", "--name", "ann")
    await becomes(200)


async def test_a_command_does_its_work_without_redis_and_says_so(shell: Shell, database: Database) -> None:
    await KeyStore(database).add("ann", Role.ADMIN)
    code, out, error = await shell.run("keys-revoke", "--name", "ann", REDIS_URL="redis://127.0.0.1:1")
    assert (code, "opens nothing any more" in out) == (0, True)
    assert "running servers could not be told: they know it within 5 s" in error
    assert "Traceback" not in error
    # Of ours, that does not run: who could be told shares it.
    code, _, error = await shell.run("keys-restore", "--name", "ann", REDIS_URL="")
    assert (code, error) == (0, "")


async def test_a_users_weight_is_set_and_told(place: Place, database: Database, database_url: str) -> None:
    def run(*options: str) -> str:
        done = place.run("weights", "--env", "test", *options, DATABASE_URL=database_url)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "All users have the weight 1." in run()
    assert "ann" in run("--name", "ann", "--weight", "2.5")
    assert await Tenants(database).weights() == {"ann": 2.5}
    (entry,) = (await Audit(database).page()).entries
    assert (entry.action, entry.target, entry.data["weight"]) == ("weight_set", "user ann", 2.5)
    assert "All users have the weight 1." in run("--name", "ann", "--weight", "1")


async def test_links_are_renewed(place: Place, database: Database, database_url: str) -> None:
    before = await LinkSecretStore(database).read()
    done = place.run("links-renew", "--env", "test", DATABASE_URL=database_url)
    assert (done.returncode, "stop working" in done.stdout) == (0, True)
    assert await LinkSecretStore(database).read() != before
    (entry,) = (await Audit(database).page()).entries
    assert (entry.action, entry.target, entry.outcome, entry.address) == (
        "links_renew",
        "links",
        "done",
        "command line",
    )
    assert entry.actor.startswith("command line (")


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("keys-add", "--name", "", "--role", "viewer"), 1, "NAME=ann"),
        (("keys-add", "--name", "api"), 1, "the audit calls others so"),
        (("keys-add", "--name", "x", "--role", "boss"), 1, "user, viewer, operator, admin"),
        (("keys-add", "--name", "x", "--owner", " y"), 1, "OWNER is to have"),
        (("keys-add", "--name", "x", "--expires", "soon"), 1, "EXPIRES is a number of days"),
        (("keys-add", "--name", "x", "--expires", "9" * 400), 1, "EXPIRES is a number of days"),
        (("keys-add", "--name", "x", "--expires", "2020-01-31"), 1, "lies in the past: 2020-01-31 00:00 UTC"),
        (("keys-add", "--name", "x", "--limits", "speed=2"), 1, "LIMITS: "),
        (("keys-add",), 2, "required: --name"),
        (("keys-revoke", "--name", "nobody"), 1, "no key called 'nobody'"),
        (("keys-restore", "--name", "nobody"), 1, "no key called 'nobody'"),
        *((("weights", "--name", "x", "--weight", each), 1, "from 0.01 to 100") for each in ("0", "nan", "1e9")),
        (("weights", "--name", "x"), 1, "NAME=ann WEIGHT=2"),
        (("weights", "--weight", "2"), 1, "NAME=ann WEIGHT=2"),
        (("keys-list", "--name", "x"), 2, "unrecognized arguments: --name x"),
    ],
)
def test_a_command_that_lacks_something_says_what(
    place: Place, database_url: str, options: tuple[str, ...], code: int, told: str
) -> None:
    done = place.run(*options, "--env", "test", DATABASE_URL=database_url)
    assert done.returncode == code
    assert told in done.stderr
    assert "Traceback" not in done.stderr
