"""The page steers the queue without a script: pauses with a banner everywhere, weights, moves, and what undoes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from integration.monitor_fixtures import Document, act, entries, read

from app.domain.access import Role
from app.keys import DATABASE, KEYS, QUEUE_CONTROL
from app.web.permissions import PERMISSIONS

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient

PAGES = ("", "backends", "workers", "stats", "schedule", "audit", "keys")
ODD = """..%2F <b>"o'brien"</b> {{ 7 * 7 }}&ü"""


async def pressed(client: TestClient[Any, Any], path: str, **fields: str) -> Document:
    """Send a form, and return the page to which it leads."""
    answer = await act(client, path, **fields)
    assert answer.status == 303, await answer.text()
    return await read(client, answer.headers["Location"])


async def undone(client: TestClient[Any, Any], page: Document) -> Document:
    """Press the undo that a page offers."""
    (form,) = page.all("form", class_="undo")
    at = page.elements.index(("form", form))
    fields = {each["name"]: each["value"] for kind, each in page.elements[at : at + 4] if kind == "input"}
    return await pressed(client, form["action"], entry=fields["entry"], back=fields["back"])


async def test_a_paused_queue_is_said_on_every_page_until_it_is_resumed(client, life):
    job_id = await life.submit()
    page = await pressed(client, "/monitor/queue/pause", reason="<b>New</b> models")
    assert "The queue is paused: within 2 s" in page.text
    for place in (*PAGES, f"jobs/{job_id}"):
        page = await read(client, f"/monitor/{place}")
        assert "The queue is paused by monitor since" in page.text, place
        assert "what runs goes on. Reason: <b>New</b> models" in page.text
        assert page.all("form", action="/monitor/queue/resume"), place
    assert "The queue is paused: <b>New</b> models" in page.text, "and why it waits, at the job"
    page = await pressed(client, "/monitor/queue/resume")
    assert "The queue goes on." in page.text
    assert not page.all("div", id="paused")
    page = await undone(client, page)
    assert "<b>New</b> models" in page.text, "with the same reason"
    page = await undone(client, page)
    assert not page.all("div", id="paused")
    assert [entry[1:] for entry in await entries(client.app[DATABASE])] == [
        (action, "queue", "done") for action in ("pause", "resume", "pause", "resume")
    ]


@pytest.mark.parametrize("name", ["ann", ODD, "x" * 255])
async def test_a_user_is_paused_and_weighed_in_the_table_of_users(client, life, name):
    await life.submit(user_id=name)
    page = await read(client, "/monitor/schedule")
    assert {"type": "hidden", "name": "user", "value": name} in page.all("input", name="user")
    page = await pressed(client, "/monitor/users/pause", user=name, reason="too many")
    assert "The user's jobs are paused" in page.text
    assert f"Jobs of {name} are paused." in (await read(client, "/monitor/")).text
    control = client.app[QUEUE_CONTROL]
    assert (await control.user(name)).pause.reason == "too many"
    page = await undone(client, page)
    assert (await control.user(name)).pause is None
    await undone(client, page)
    assert (await control.user(name)).pause.reason == "too many"
    page = await pressed(client, "/monitor/users/weight", user=name, weight="2.5")
    assert (await control.user(name)).weight == 2.5
    assert "2.5" in [each["value"] for each in page.all("input", name="weight")]
    await undone(client, page)
    assert (await control.user(name)).weight == 1.0
    assert {entry[2] for entry in await entries(client.app[DATABASE])} == {f"user {name}"}


@pytest.mark.parametrize("weight", ["0", "nan", "-1", "1e9", "inf", "", "much"])
async def test_what_is_no_weight_is_said_and_changes_nothing(client, weight):
    answer = await act(client, "/monitor/users/weight", user="ann", weight=weight)
    assert answer.status == 422
    assert "0.01 to 100" in await answer.text()
    assert (await client.app[QUEUE_CONTROL].user("ann")).weight == 1.0


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/monitor/users/pause", {}),
        ("/monitor/users/pause", {"user": "x" * 256}),
        ("/monitor/users/pause", {"user": "a\0b"}),
        ("/monitor/queue/pause", {"reason": "x" * 201}),
        ("/monitor/users/resume", {"entry": "99999999999999999999"}),
        ("/monitor/users/resume", {"entry": "7"}),
    ],
)
async def test_nor_is_anything_changed_by_a_form_that_is_wrong(client, path, fields):
    assert (await act(client, path, **fields)).status == 422
    assert await client.app[QUEUE_CONTROL].pauses() == []


async def test_a_job_is_moved_on_its_page(client, life):
    first, second = await life.submit(user_id="ann"), await life.submit(user_id="ann")
    page = await read(client, f"/monitor/jobs/{second}")
    assert page.all("form", action=f"/monitor/jobs/{second}/front")
    page = await pressed(client, f"/monitor/jobs/{second}/front")
    assert f"Job {second} is the next one of its user" in page.text
    assert "next in the queue" in page.text
    assert "moved_to_front" in page.text
    page = await pressed(client, f"/monitor/jobs/{first}/priority", priority="-7")
    assert page.all("input", name="priority", value="-7")
    page = await undone(client, page)
    assert page.all("input", name="priority", value="0")
    assert not (await pressed(client, f"/monitor/jobs/{first}/priority", priority="0")).all("form", class_="undo")
    for wrong in ("101", "1.5", "", "ten", "-"):
        assert (await act(client, f"/monitor/jobs/{first}/priority", priority=wrong)).status == 422


async def test_a_job_that_runs_offers_no_move_and_says_why_not(client, life):
    claim = await life.claim()
    page = await read(client, f"/monitor/jobs/{claim.job_id}")
    for action in ("front", "priority"):
        assert not page.all("form", action=f"/monitor/jobs/{claim.job_id}/{action}")
        page = await pressed(client, f"/monitor/jobs/{claim.job_id}/{action}", priority="3")
        assert "does not wait any more" in page.text
    assert [entry[3] for entry in await entries(client.app[DATABASE])] == ["job_not_waiting"] * 2


async def test_each_sees_what_it_may_do_and_of_other_users_no_pause(client, life):
    job_id = await life.submit(user_id="ann")
    control = client.app[QUEUE_CONTROL]
    await control.pause("ann", None, "boss")
    await control.pause("ben", None, "boss")
    made = {role: await client.app[KEYS].add(role, role, owner="ann") for role in reversed(Role)}
    for role, secret in made.items():
        page = Document(await (await client.get("/monitor/", headers={"X-API-Key": secret})).text())
        assert "ann are paused" in page.text or "ann, ben are paused" in page.text
        assert ("ben" in page.text) is (role is not Role.USER)
        job = Document(await (await client.get(f"/monitor/jobs/{job_id}", headers={"X-API-Key": secret})).text())
        assert bool(job.all("form", action=f"/monitor/jobs/{job_id}/front")) is (role is not Role.VIEWER)
        if role is Role.USER:
            continue
        schedule = Document(await (await client.get("/monitor/schedule", headers={"X-API-Key": secret})).text())
        assert bool(schedule.all("form", action="/monitor/queue/pause")) is (role in (Role.OPERATOR, Role.ADMIN))
        assert bool(schedule.all("form", action="/monitor/users/weight")) is (role is Role.ADMIN)
    assert PERMISSIONS["POST /monitor/users/weight"] == "set_weight"
