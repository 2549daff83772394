"""Keys of the page are made, listed and revoked by commands; a key is shown once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from acceptance.commands import Place, temporary_place

from app.domain.errors import WrongKey
from app.storage.keys import KeyStore
from app.storage.link_secret import LinkSecretStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.storage.database import Database

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with temporary_place() as found:
        yield found


async def test_a_key_is_made_listed_and_revoked(place: Place, database: Database, database_url: str) -> None:
    def run(command: str, *options: str) -> tuple[int, str, str]:
        done = place.run(command, "--env", "test", *options, DATABASE_URL=database_url)
        return done.returncode, done.stdout, done.stderr

    code, out, _ = run("keys-list")
    assert (code, "There is no key" in out) == (0, True)
    code, out, _ = run("keys-add", "--name", "ann", "--role", "operator")
    secret, note = out.splitlines()
    assert code == 0
    assert "the page needs a key" in note
    assert (await KeyStore(database).sign_in(secret))[1].name == "ann"
    code, out, error = run("keys-add", "--name", "ann", "--role", "admin")
    assert (code, out) == (1, "")
    assert "called 'ann' already" in error
    code, out, _ = run("keys-list")
    assert (code, secret in out) == (0, False)
    assert [line.split()[:2] for line in out.splitlines()] == [["NAME", "ROLE"], ["ann", "operator"]]
    assert run("keys-revoke", "--name", "ann")[0] == 0
    with pytest.raises(WrongKey):
        await KeyStore(database).sign_in(secret)
    assert "never" not in run("keys-list")[1]


async def test_links_are_renewed(place: Place, database: Database, database_url: str) -> None:
    before = await LinkSecretStore(database).read()
    done = place.run("links-renew", "--env", "test", DATABASE_URL=database_url)
    assert (done.returncode, "stop working" in done.stdout) == (0, True)
    assert await LinkSecretStore(database).read() != before


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("keys-add", "--name", "", "--role", "viewer"), 1, "NAME=ann"),
        (("keys-add", "--name", "x", "--role", "boss"), 1, "viewer, operator, admin"),
        (("keys-add", "--name", "x"), 2, "required: --role"),
        (("keys-revoke", "--name", "nobody"), 1, "no key called 'nobody'"),
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
