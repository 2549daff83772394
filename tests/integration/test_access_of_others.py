"""Of what is another user's nothing is seen: not in lists, counts and figures, not by keys, files or fragments."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import WSMsgType
from integration.access_world import UNKNOWN, picture, rows_of
from integration.monitor_fixtures import Document

from app.monitor import shared_fragments
from harness import LIVES, SMALL_BODY

if TYPE_CHECKING:
    from integration.access_world import World

pytestmark = LIVES
JOBS = "/api/v1/generation-jobs"
SENDING = {name: value for name, value in SMALL_BODY.items() if name != "user_id"}
SEES_ALL = ("eve", "otto", "ada")


async def told(world: World, who: str, method: str, path: str, **more: Any) -> Any:
    """Return what is answered, which is JSON and no refusal."""
    answer = await world.ask(who, method, path, **more)
    assert answer.status < 400, answer.text
    return json.loads(answer.text)


@pytest.mark.parametrize(
    "query",
    ["", "?user_id=ann", "?status=completed", "?q=sunset", "?user_id=ann&q=sunset", "?sort=created_at", "?limit=1",
     "?created_after=2020-01-01T00:00:00Z", "?job_type=image", "?skip=1", "?q=sunset&limit=1"],
)  # fmt: skip
async def test_lists_hold_nothing_of_others(world, query):
    whole = await told(world, "ann", "GET", f"{JOBS}/{query}")
    assert whole["total"] >= 1
    none = await told(world, "bob", "GET", f"{JOBS}/{query}")
    assert (none["items"], none["total"], none["total_exact"], none["next_cursor"]) == ([], 0, True, None)
    for who in SEES_ALL:
        seen = await told(world, who, "GET", f"{JOBS}/{query}")
        assert [each["job_id"] for each in seen["items"]] == [each["job_id"] for each in whole["items"]]
        assert seen["total"] == whole["total"]


async def test_a_cursor_of_anothers_list_leads_to_ones_own(world):
    await world.job("failed", "bob")
    first = await told(world, "ann", "GET", f"{JOBS}/?limit=1&sort=created_at")
    rest = await told(world, "bob", "GET", f"{JOBS}/?sort=created_at&cursor={first['next_cursor']}")
    assert {each["user_id"] for each in rest["items"]} == {"bob"}
    assert rest["total"] == 1


async def test_figures_count_nothing_of_others(world):
    mine = await told(world, "ann", "GET", f"{JOBS}/queue/stats")
    assert (mine["pending_jobs"], mine["by_priority"]) == (1, {"-100": 1})
    others = await told(world, "bob", "GET", f"{JOBS}/queue/stats")
    assert (others["pending_jobs"], others["running_jobs"], others["oldest_wait_seconds"]) == (0, 0, None)
    assert (others["by_priority"], others["by_model"]) == ({}, {})
    for who in SEES_ALL:
        assert (await told(world, who, "GET", f"{JOBS}/queue/stats"))["pending_jobs"] == 1


@pytest.mark.parametrize("action", ["cancel", "retry"])
async def test_a_bulk_action_finds_nothing_of_others(world, action):
    numbers = [int(each["job_id"]) for each in world.things.values()]
    before = await rows_of(world, "ann")
    asked = {"job_ids": [*numbers, int(UNKNOWN["job_id"])]}
    answer = await told(world, "bob", "POST", f"{JOBS}/{action}", json=asked)
    # But for the number each is told of as of what is not there.
    kinds = {json.dumps(each).replace(str(each["job_id"]), "#") for each in answer["results"]}
    assert len(answer["results"]) == len(numbers) + 1
    assert len(kinds) == 1
    assert "job_not_found" in kinds.pop()
    for chosen in ({"user_id": "ann"}, {"q": "sunset"}, {"status": ["completed", "failed", "pending"]}, {}):
        asked = {"filter": chosen} if chosen else {"all": True}
        answer = await told(world, "bob", "POST", f"{JOBS}/{action}", json=asked)
        assert (answer["results"], answer["matched"], answer["matched_exact"]) == ([], 0, True)
    assert await rows_of(world, "ann") == before


@pytest.mark.parametrize("action", ["cancel", "retry", "delete"])
async def test_a_bulk_form_of_the_page_does_nothing_to_others(world, action):
    before = await rows_of(world, "ann")
    numbers = ",".join(each["job_id"] for each in world.things.values())
    answer = await world.ask("bob", "POST", f"/monitor/bulk/{action}", form={"jobs": numbers, "asked": "yes"})
    unknown = await world.ask("bob", "POST", f"/monitor/bulk/{action}", form={"jobs": "9997,9998,9999", "asked": "yes"})
    said = [each.headers["Set-Cookie"].partition(";")[0].split(".")[:4] for each in (answer, unknown)]
    assert said[0] == said[1]
    assert await rows_of(world, "ann") == before
    page = await world.ask("bob", "GET", f"/monitor/bulk/{action}?until_id=9999")
    assert Document(page.text).all("input", name="jobs", value=numbers) == []
    assert world.things["failed"]["job_id"] not in page.text


@pytest.mark.parametrize("action", ["cancel", "retry"])
async def test_the_undo_of_anothers_action_is_as_one_that_never_was(world, action):
    other = "retry" if action == "cancel" else "cancel"
    number = world.things["failed" if other == "retry" else "queued"]["job_id"]
    done = await world.ask("ann", "POST", f"/monitor/bulk/{other}", form={"job": number})
    entry = done.headers["Set-Cookie"].partition(";")[0].rpartition(".")[2]
    assert int(entry) > 0
    before = await rows_of(world, "ann")
    path = f"/monitor/bulk/{action}"
    of_anns = await world.ask("bob", "POST", path, form={"entry": entry})
    of_none = await world.ask("bob", "POST", path, form={"entry": "999999"})
    assert of_anns.headers["Set-Cookie"].split(";")[0] == of_none.headers["Set-Cookie"].split(";")[0]
    assert "bulk_none" in of_anns.headers["Set-Cookie"]
    assert await rows_of(world, "ann") == before
    # Ann's own undo does it, also in the hands of an operator, who sees the audit's jobs anyway.
    await world.ask("ann", "POST", path, form={"entry": entry})
    assert await rows_of(world, "ann") != before


async def test_an_idempotency_key_is_its_owners(world):
    headers = {"Idempotency-Key": "one"}
    first = await world.ask("ann", "POST", f"{JOBS}/", json=SENDING, headers=headers)
    again = await world.ask("ann", "POST", f"{JOBS}/", json=SENDING, headers=headers)
    assert (first.status, again.status, again.headers["Idempotency-Replayed"]) == (201, 201, "true")
    assert again.text == first.text
    # Neither the answer nor, by another body, that there is one.
    for body in (SENDING, SENDING | {"prompt": "another"}):
        others = await world.ask("bob", "POST", f"{JOBS}/", json=body, headers=headers | {"Idempotency-Key": "one"})
        if body is SENDING:
            assert others.status == 201
            assert "Idempotency-Replayed" not in others.headers
            assert json.loads(others.text)["user_id"] == "bob"
        else:
            assert others.code == "idempotency_key_reused"


@pytest.mark.parametrize("who", ["ann", "bob", "otto", "ada"])
async def test_a_user_sends_for_itself_alone_and_an_operator_for_anybody(world, who):
    for user_id in (None, "ann", "bob", "somebody else"):
        body = SENDING if user_id is None else SENDING | {"user_id": user_id}
        for path in (f"{JOBS}/", f"{JOBS}/check"):
            answer = await world.ask(who, "POST", path, json=body)
            if who in ("ann", "bob") and user_id not in (None, who):
                assert (answer.status, answer.code) == (403, "forbidden")
            else:
                assert answer.status < 300, answer.text
                assert path.endswith("check") or json.loads(answer.text)["user_id"] == (user_id or who)
        query = f"?user_id={user_id}" if user_id is not None else ""
        sent = await world.ask(who, "POST", f"/api/v1/uploads{query}", data=picture())
        assert (sent.status == 403) is (who in ("ann", "bob") and user_id not in (None, who)), sent.text


@pytest.mark.parametrize("path", [f"{JOBS}/", f"{JOBS}/check"])
@pytest.mark.parametrize("field", ["image", "mask", "inputs"])
@pytest.mark.parametrize("thing", ["upload", "text", "content"])
async def test_a_job_cannot_take_anothers_file(world, path, field, thing):
    def reference(things: dict[str, str]) -> Any:
        if thing == "content":
            return {"content": int(things["content_id"]), "output": 0}
        return {"upload": things["upload_id"]} if thing == "upload" else f"upload:{things['upload_id']}"

    def body(things: dict[str, str]) -> dict[str, Any]:
        if field == "inputs":
            graph = {"1": {"class_type": "LoadImage", "inputs": {"image": "x"}}}
            graph["2"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}
            if thing == "text":
                graph["1"]["inputs"]["image"] = reference(things)
                return {"job_type": "workflow", "workflow": graph}
            return {"job_type": "workflow", "workflow": graph, "inputs": {"1.image": reference(things)}}
        named = {"image": {"upload": own}} if field == "mask" else {}
        return SENDING | named | {field: reference(things)}

    own, things = await world.upload("bob"), world.things["completed"]
    before = await rows_of(world, "ann")
    anothers = await world.ask("bob", "POST", path, json=body(things))
    none = await world.ask("bob", "POST", path, json=body(UNKNOWN))
    assert anothers.status == none.status == 422
    assert anothers.lines(things) == none.lines(UNKNOWN)
    assert await rows_of(world, "ann") == before
    # Nothing of hers has become his.
    assert len((await told(world, "bob", "GET", "/api/v1/uploads"))["items"]) == 1
    assert (await told(world, "ann", "POST", path, json=body(things) | {"image": reference(things)} if field == "mask"
                       else body(things)))  # fmt: skip


@pytest.mark.parametrize("query", ["", "?user_id=ann", "?limit=1"])
async def test_lists_of_uploads_hold_nothing_of_others(world, query):
    assert (await told(world, "ann", "GET", f"/api/v1/uploads{query}"))["items"]
    none = await told(world, "bob", "GET", f"/api/v1/uploads{query}")
    assert none == {"items": [], "next_cursor": None}
    for who in SEES_ALL:
        assert (await told(world, who, "GET", f"/api/v1/uploads{query}"))["items"]


async def test_the_same_bytes_of_two_users_are_two_uploads(world):
    data = picture()
    first = await world.ask("ann", "POST", "/api/v1/uploads", data=data)
    second = await world.ask("bob", "POST", "/api/v1/uploads", data=data)
    # Not even by "that is here already".
    assert (first.status, second.status) == (201, 201)
    assert json.loads(first.text)["upload_id"] != json.loads(second.text)["upload_id"]


@pytest.mark.parametrize("path", ["/monitor/", "/monitor/?view=gallery", "/monitor/?user=ann", "/monitor/?q=sunset"])
async def test_fragments_that_many_ask_for_at_once_do_not_mix_them(world, path, monkeypatch):
    # However slowly they ask, they ask together: the next one is not made before.
    monkeypatch.setattr(shared_fragments, "APART_S", 1.5)
    await world.job("completed", "bob")
    warm = await world.ask("ada", "GET", path, headers={"X-Fragment": "1"})
    assert warm.status == 200
    everybody = ["ann", "bob", "eve", "otto", "ada"] * 2
    answers = await asyncio.gather(*(world.ask(who, "GET", path, headers={"X-Fragment": "1"}) for who in everybody))
    alone = {who: await world.ask(who, "GET", path) for who in set(everybody)}
    for who, answer in zip(everybody, answers, strict=True):
        jobs = {each["data-job"] for _, each in Document(answer.text).elements if "data-job" in each}
        assert jobs == {each["data-job"] for _, each in Document(alone[who].text).elements if "data-job" in each}
    hers, his = (Document(alone[who].text) for who in ("ann", "bob"))
    numbers = [{each["data-job"] for _, each in page.elements if "data-job" in each} for page in (hers, his)]
    assert numbers[0]
    assert not numbers[0] & numbers[1]


async def test_the_fragment_of_anothers_job_is_not_shared(world, monkeypatch):
    monkeypatch.setattr(shared_fragments, "APART_S", 1.5)
    path = f"/monitor/jobs/{world.things['completed']['job_id']}"
    await world.ask("ada", "GET", path, headers={"X-Fragment": "1"})
    who = ["ann", "bob", "eve"] * 3
    answers = await asyncio.gather(*(world.ask(each, "GET", path, headers={"X-Fragment": "1"}) for each in who))
    assert [each.status for each in answers] == [200, 404, 200] * 3


async def test_a_page_and_its_header_tell_a_user_nothing_of_others(world):
    secret = "a plan that is nobody's business"
    job = await world.life.fail(await world.life.execute(user_id="ann", prompt=secret, priority=100), "Such a pity.")
    await world.job("queued", "bob")
    for path in ("/monitor/", "/monitor/?status=failed", "/monitor/?view=gallery", "/monitor/new", "/monitor/nothing"):
        answer = await world.ask("bob", "GET", path)
        for word in (secret, "Such a pity", str(job.job_id), world.things["completed"]["content_id"]):
            assert word not in answer.text, (path, word)
        assert "Queue <b>1</b>" in answer.text


@pytest.mark.parametrize("path", ["/monitor/new?again={job_id}", "/monitor/new?image=upload:{upload_id}",
                                  "/monitor/new?image=content:{content_id}:0"])  # fmt: skip
async def test_the_form_for_new_jobs_is_not_filled_in_from_anothers(world, path):
    things = world.things["completed"]
    of_anns = await world.ask("bob", "GET", path.format(**things))
    of_none = await world.ask("bob", "GET", path.format(**UNKNOWN))

    def compared(lines: list[str]) -> list[str]:
        # Each form has a number of its own.
        return [line for line in lines if 'name="press"' not in line and not line.startswith("Content-Length")]

    assert compared(of_anns.lines(things)) == compared(of_none.lines(UNKNOWN))
    assert (await world.ask("ann", "GET", path.format(**things))).status == 200


@pytest.mark.parametrize("who", ["bob", "eve", "otto"])
async def test_one_job_of_anothers_among_several_ends_no_upgrade_but_his(world, who):
    mine = await world.job("queued", "bob")
    path = f"/ws/jobs?job_ids={mine.job_id},{world.things['queued']['job_id']}"
    answer = await world.ask(who, "GET", path)
    if who == "bob":
        unknown = await world.ask("bob", "GET", f"/ws/jobs?job_ids={mine.job_id},{UNKNOWN['job_id']}")
        assert (answer.status, answer.code) == (404, "job_not_found")
        assert answer.lines(world.things["queued"]) == unknown.lines(UNKNOWN)
    else:
        assert answer.status == 101


async def test_a_socket_cannot_be_had_another_job_added(world):
    mine = await world.job("queued", "bob")
    number = int(world.things["queued"]["job_id"])
    headers = world.credentials("bob", of_page=False)
    async with world.client.ws_connect(f"/ws/jobs/{mine.job_id}", headers=headers) as ws:
        assert (await ws.receive_json())["job_id"] == mine.job_id
        await ws.send_json({"type": "subscribe", "job_ids": [number]})
        await ws.send_json({"type": "ping", "id": "last"})
        while (message := await ws.receive()).type is WSMsgType.TEXT:
            frame = message.json()
            assert frame.get("job_id") != number
            if frame.get("type") == "pong":
                break


async def test_a_preview_in_redis_is_its_owners(world):
    running = await world.job("running")
    path = f"/monitor/jobs/{running.job_id}/preview"
    assert (await world.ask("bob", "GET", path)).status == 404
    assert (await world.ask("ann", "GET", path)).status == 204


async def test_a_thumbnail_in_a_cache_is_its_owners(world):
    # Whoever knows the validator of a file cannot ask whether it is still the same one.
    path = "/api/v1/contents/{content_id}/outputs/0".format(**world.things["completed"])
    etag = (await world.ask("ann", "GET", path)).headers["ETag"]
    for headers in ({"If-None-Match": etag}, {"Range": "bytes=0-0"}, {"If-Range": etag, "Range": "bytes=0-0"}):
        assert (await world.ask("bob", "GET", path, headers=headers)).status == 404
        assert (await world.ask("ann", "GET", path, headers=headers)).status in (206, 304)
    assert "private" in (await world.ask("ann", "GET", path)).headers["Cache-Control"]
