"""The page of keys: made and shown once, revoked and restored, and what is wrong said at its field."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from integration.monitor_fixtures import HOSTILE, Document, act, entries, flash, read

from app import keys
from app.domain.access import Role
from app.main import create_app

if TYPE_CHECKING:
    from app.storage.keys import KeyStore

PAGE = "/monitor/keys"
SECRET = re.compile(r"gno_[0-9A-Za-z]{49}")


@pytest.fixture(autouse=True)
def _open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the service stay open to this machine: who may is tested elsewhere."""
    monkeypatch.setattr("app.services.access.Access.open", _always)


async def _always(_: Any) -> bool:
    return True


@pytest.fixture
async def store(client: Any) -> KeyStore:
    """The keys, of which one is an admin's."""
    found: KeyStore = client.app[keys.KEYS]
    await found.add("boss", Role.ADMIN)
    return found


async def test_a_key_is_made_and_shown_in_the_answer_alone(client, store, database, caplog):
    caplog.set_level(logging.DEBUG)
    fields = {"name": "ann", "role": "operator", "owner": "bob", "expires": "30", "limits": "running=2 waiting=none"}
    answer = await act(client, PAGE, **fields)
    page = await answer.text()
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    (secret,) = set(SECRET.findall(page))
    key = await store.named("ann")
    assert (key.role, key.owner, key.limits) == (Role.OPERATOR, "bob", {"running": 2, "waiting": None})
    assert key.expires_at is not None
    assert abs(key.expires_at - datetime.now(UTC) - timedelta(days=30)) < timedelta(hours=1)
    assert (await store.sign_in(secret))[1].name == "ann"
    # Nothing reads it anew, and it stands nowhere else.
    assert "data-poll" not in page
    assert secret not in str(answer.headers)
    assert secret not in (await read(client, PAGE)).text
    assert secret not in caplog.text
    assert secret not in (await read(client, "/monitor/audit")).text
    assert await entries(database) == [("monitor", "key_add", "key ann", "done")]


async def test_a_key_is_revoked_and_that_is_taken_back(client, store, database):
    secret = await store.add("ann", Role.USER)
    key = await store.named("ann")
    said = await flash(client, await act(client, f"{PAGE}/{key.id}/revoke"))
    assert f"Key {key.id} opens nothing any more" in said
    assert (await store.named("ann")).revoked_at is not None
    answer = await act(client, f"{PAGE}/{key.id}/restore", back=PAGE)
    page = await read(client, answer.headers["Location"])
    assert f"Key {key.id} opens again" in page.text
    (undo,) = page.all("form", class_="undo")
    assert undo["action"] == f"{PAGE}/{key.id}/revoke"
    assert (await store.sign_in(secret))[1].name == "ann"
    assert await entries(database) == [
        ("monitor", "key_revoke", "key ann", "done"),
        ("monitor", "key_restore", "key ann", "done"),
    ]


async def test_limits_are_changed_and_that_is_taken_back(client, store, database):
    await store.add("ann", Role.USER, limits={"running": 2, "waiting": None})
    key = await store.named("ann")
    (field,) = (await read(client, PAGE)).all("input", id=f"limits-{key.id}")
    assert field["value"] == "running=2 waiting=none"
    answer = await act(client, f"{PAGE}/{key.id}/limits", limits="running=5 upload_bytes=1KiB", back=PAGE)
    assert answer.status == 303
    page = await read(client, answer.headers["Location"])
    assert f"The limits of key {key.id} are changed" in page.text
    assert (await store.named("ann")).limits == {"running": 5, "upload_bytes": 1024}
    (undo,) = page.all("form", class_="undo")
    (entry,) = page.all("input", name="entry")
    assert undo["action"] == f"{PAGE}/{key.id}/limits"
    page = await read(client, (await act(client, undo["action"], entry=entry["value"])).headers["Location"])
    assert (await store.named("ann")).limits == {"running": 2, "waiting": None}
    # That too is taken back.
    (again,) = page.all("input", name="entry")
    await act(client, undo["action"], entry=again["value"])
    assert (await store.named("ann")).limits == {"running": 5, "upload_bytes": 1024}
    await act(client, f"{PAGE}/{key.id}/limits", limits=" ")
    assert (await store.named("ann")).limits == {}
    assert await entries(database) == [("monitor", "key_change", "key ann", "done")] * 4


async def test_limits_are_taken_back_only_as_the_audit_tells_of_this_key(client, store, database):
    for name in ("ann", "bob"):
        await store.add(name, Role.USER, limits={"running": 2})
    ann, bob = await store.named("ann"), await store.named("bob")
    await act(client, f"{PAGE}/{bob.id}/revoke")
    await act(client, f"{PAGE}/{bob.id}/limits", limits="running=9")
    for entry in ("1", "2", "3", "0", "x", "²", "9" * 30):
        said = await flash(client, await act(client, f"{PAGE}/{ann.id}/limits", entry=entry))
        assert f"The limits of key {ann.id} stay" in said
    assert (await store.named("ann")).limits == {"running": 2}
    assert len(await entries(database)) == 2
    assert (await act(client, f"{PAGE}/999/limits", limits="")).status == 404


async def test_limits_that_make_no_sense_are_said_at_their_field_and_change_nothing(client, store):
    await store.add("ann", Role.USER, limits={"running": 2})
    key = await store.named("ann")
    answer = await act(client, f"{PAGE}/{key.id}/limits", limits="speed=<9>")
    html = await answer.text()
    assert answer.status == 422
    assert "speed" in re.search(rf'<small class="bad" id="limits-{key.id}-fault">(.*?)</small>', html, re.DOTALL)[1]
    (field,) = Document(html).all("input", id=f"limits-{key.id}")
    assert (field["value"], field["aria-invalid"]) == ("speed=<9>", "true")
    # A page that is read anew would lose what is filled in; of other keys there is nothing to say.
    assert "data-poll" not in html
    assert "limits-1" not in html
    assert (await store.named("ann")).limits == {"running": 2}


async def test_the_last_key_of_an_admin_stays(client, store, database):
    key = await store.named("boss")
    said = await flash(client, await act(client, f"{PAGE}/{key.id}/revoke"))
    assert "was not revoked: it is the last one of an admin" in said
    assert (await store.named("boss")).revoked_at is None
    assert await entries(database) == [("monitor", "key_revoke", "key boss", "no_admin_left")]
    for path in ("999", "x", "9" * 60):
        assert (await act(client, f"{PAGE}/{path}/revoke")).status == 404


async def test_the_first_key_is_an_admins(client):
    answer = await act(client, PAGE, name="ann", role="user")
    page = await answer.text()
    assert answer.status == 409
    assert "The first key closes the service" in page
    assert "There is no key" in page
    assert (await act(client, PAGE, name="ann", role="admin")).status == 200


@pytest.mark.parametrize(
    ("fields", "name", "said"),
    [
        ({"name": ""}, "name", "1 to 255 characters"),
        ({"name": "api"}, "name", "the audit calls others so"),
        ({"name": "boss"}, "name", "There is a key called"),
        ({"role": "king"}, "role", "user, viewer, operator, admin"),
        ({"owner": "a\tb"}, "owner", "printable"),
        ({"expires": "soon"}, "expires", "a number of days"),
        ({"expires": "2020-01-01"}, "expires", "lies in the past"),
        ({"limits": "speed=9"}, "limits", "speed"),
    ],
)
async def test_what_is_wrong_is_said_at_its_field_and_all_stays_filled_in(client, store, fields, name, said):
    sent = {"name": "ann", "role": "operator", "owner": "bob", "expires": "3", "limits": "running=2"} | fields
    answer = await act(client, PAGE, **sent)
    html = await answer.text()
    page = Document(html)
    assert answer.status in (409, 422)
    assert said in re.search(rf'<small class="bad" id="{name}-fault">(.*?)</small>', html, re.DOTALL)[1]
    for other in ("name", "owner", "expires", "limits"):
        (shown,) = page.all("input", id=other)
        assert shown["value"] == sent[other]
        assert ("aria-invalid" in shown) == (other == name)
    # A page that is read anew would lose what is filled in.
    assert "data-poll" not in html
    assert [key.name for key in await store.all()] == ["boss"]


async def test_the_list_shows_limits_last_use_and_state_and_is_paged(client, store):
    for number in range(60):
        await store.add(f"key {number}", Role.USER, owner=HOSTILE[:200], limits={"running": number})
    await store.revoke("key 59")
    await store.sign_in(await store.add("used", Role.USER), "10.1.2.3")
    page = await read(client, PAGE)
    cards = [card["id"] for card in page.all("li", class_="card fleet live")]
    assert len(cards) == 49
    assert "from 10.1.2.3" in page.text
    assert "running=58" in page.text
    assert not page.all("script", src="")
    assert "<script>alert(1)</script>" in page.text
    actions = [form["action"] for form in page.all("form") if form.get("action", "").startswith(f"{PAGE}/")]
    assert [action.rpartition("/")[2] for action in actions].count("restore") == 1
    (older,) = page.all("a", rel="next")
    rest = await read(client, older["href"])
    assert len(rest.all("li")) - len(rest.all("ul", id="health")) >= 12
    assert "boss" in rest.text
    (newer,) = rest.all("a", rel="prev")
    assert "from 10.1.2.3" in (await read(client, newer["href"])).text


async def test_a_read_only_page_shows_keys_and_makes_none(settings, aiohttp_client):
    client = await aiohttp_client(create_app(settings.model_copy(update={"monitor_read_only": True})))
    await client.app[keys.KEYS].add("boss", Role.ADMIN)
    page = await read(client, PAGE)
    assert "boss" in page.text
    assert not page.all("form", method="post")
    assert page.all("a", href=PAGE)
