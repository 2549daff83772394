"""What the page of one job shows: pictures, where its time went, what was asked, what went wrong, and who did what."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from integration.monitor_fixtures import HOSTILE, SPANS, WORKER, Document, act, note, read
from sqlalchemy import update

from app import keys
from app.domain.access import Role
from app.services.access import SESSION_COOKIE
from app.storage.attempts import Claim
from app.storage.keys import KeyStore
from app.storage.schema import JobRow
from harness import LIVES, eventually

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient


WEBP = b"RIFF\x00\x00\x00\x00WEBPVP8 "


async def job_page(client: TestClient[Any, Any], job_id: int) -> Document:
    page = await read(client, f"/monitor/jobs/{job_id}")
    repeated = [name for name, count in Counter(found.get("id") for _, found in page.elements).items() if count > 1]
    assert repeated in ([], [None])
    return page


def words(page: Document) -> str:
    return " ".join(page.text.split())


async def test_the_picture_comes_up_while_the_job_runs_and_gives_way_to_the_results(client, life):
    claim = await life.execute()
    path = f"/monitor/jobs/{claim.job_id}/preview"
    assert not (await job_page(client, claim.job_id)).all("img")
    assert (await client.get(path)).status == 204
    await client.app[keys.PREVIEWS].put(claim.job_id, 1, 7, WEBP)
    page = await job_page(client, claim.job_id)
    (picture,) = page.all("img", class_="preview")
    assert (picture["data-preview"], picture["src"]) == (str(claim.job_id), f"{path}?n=7")
    answer = await client.get(picture["src"])
    assert (answer.status, answer.content_type, await answer.read()) == (200, "image/webp", WEBP)
    assert answer.headers["Cache-Control"] == "private, max-age=60"
    await life.complete(claim)
    (picture,) = (await job_page(client, claim.job_id)).all("img")
    assert picture["src"].endswith("/thumbnail")


async def test_the_node_at_work_has_its_own_bar_and_its_title(client, life, database):
    claim = await life.execute()
    assert "hidden" in (await job_page(client, claim.job_id)).all("progress", id="node-bar")[0]
    graph = {"3": {"class_type": "KSampler", "inputs": {}, "_meta": {"title": "My <sampler>"}}}
    await note(database, claim, graph=graph)
    await life.progress(claim, 61, {"id": "3", "type": "KSampler", "value": 13, "max": 20})
    page = await job_page(client, claim.job_id)
    whole, own = page.all("progress")
    assert (whole["value"], own["value"], own["max"]) == ("61", "13.0", "20.0")
    assert "KSampler 13/20" in words(page)
    assert "My <sampler>" in page.text
    await life.complete(claim)
    assert not (await job_page(client, claim.job_id)).all("progress")


async def test_a_job_that_is_gone_or_never_was_is_said_to_be(client, life):
    job = await life.complete(await life.execute())
    await act(client, f"/monitor/jobs/{job.job_id}/delete")
    for job_id in (job.job_id, 999):
        for path in ("", "/confirm-delete"):
            page = await read(client, f"/monitor/jobs/{job_id}{path}", status=404)
            assert f"There is no job {job_id}. It was deleted, or there never was one of this number." in page.text


async def test_the_jobs_before_and_after_are_linked_past_those_that_are_gone(client, life):
    first, gone, middle, last = [await life.submit() for _ in range(4)]
    await act(client, f"/monitor/jobs/{gone}/cancel")
    await act(client, f"/monitor/jobs/{gone}/delete")
    page = await job_page(client, middle)
    assert [link["href"] for link in page.all("a", rel="prev")] == [f"/monitor/jobs/{first}"]
    assert [link["href"] for link in page.all("a", rel="next")] == [f"/monitor/jobs/{last}"]
    assert not (await job_page(client, first)).all("a", rel="prev")
    assert not (await job_page(client, last)).all("a", rel="next")


@LIVES
async def test_a_waiting_job_shows_its_place_and_when_its_turn_may_come(client, life, database):
    first, second = await life.submit(), await life.submit()
    assert "next in the queue" in words(await job_page(client, first))
    page = await job_page(client, second)
    assert "number 2 in the queue" in words(page)
    assert not page.all("span", id="eta"), "without a live worker nothing can be said"
    beats = {"gpu-a": {"healthy": True, "slots": 1}, "ill": {"healthy": False, "slots": 8}}
    await client.app[keys.REGISTRY].beat("w", {"slots": 9}, beats)

    async def said() -> bool:
        return "no runs to compare with" in words(await job_page(client, second))

    await eventually(said)
    await act(client, f"/monitor/jobs/{first}/cancel")
    done = Claim((await life.store.claim(WORKER, "gpu-a", "p", 60)).job_id, 1, WORKER)
    await life.store.executing(done)
    await life.complete(done)
    await note(database, done, (0, 0, 12, 12))
    first, second = await life.submit(), await life.submit()

    async def told() -> bool:
        return "≈ 8–18 s until it begins" in words(await job_page(client, second))

    await eventually(told)
    assert "≈ 0–1 s until it begins" in words(await job_page(client, first))


async def test_a_running_job_shows_what_is_left_by_runs_of_the_same_workflow(client, life, database):
    done = await life.execute()
    await life.complete(done)
    await note(database, done, (0, 0, 20, 20), workflow_key="k" * 32)
    claim = await life.execute()
    await note(database, claim, workflow_key="other")
    assert "no runs to compare with" in words(await job_page(client, claim.job_id))
    await note(database, claim, (0, 0), workflow_key="k" * 32)
    assert "s left" in words(await job_page(client, claim.job_id))
    await life.complete(claim)
    page = await job_page(client, claim.job_id)
    assert not page.all("span", id="eta")


async def test_the_bars_are_as_long_as_what_they_stand_for(client, life, database):
    claim = await life.execute()
    await life.complete(claim)
    await note(database, claim, (0.5, 1, 9, 9.25), spans=SPANS)
    page = await job_page(client, claim.job_id)
    lanes = [found for tag, found in page.elements if tag in ("svg", "rect") and "data-seconds" in found]
    drawn: dict[str, list[tuple[str, float]]] = {}
    for found in lanes:
        if "data-start" not in found:
            lane, length_s = found.get("id", "node"), float(found["data-seconds"])
            continue
        x, width = (float(found[name].rstrip("%")) for name in ("x", "width"))
        assert x == pytest.approx(100 * float(found["data-start"]) / length_s, abs=0.02)
        assert width == pytest.approx(100 * float(found["data-seconds"]) / length_s, abs=0.02)
        drawn.setdefault(lane, []).append((found["class"], float(found["data-seconds"])))
    assert drawn["stages-1"][1:] == [
        ("bar preparing", 0.5),
        ("bar sent", 0.5),
        ("bar executing", 8),
        ("bar saving", 0.25),
    ]
    assert drawn["node"] == [("bar node", 6), ("bar node", 1.5)]
    text = words(page)
    for shown in ("executing 8 s", "saving 250 ms", "My sampler KSampler", "cached: ComfyUI still had the result"):
        assert shown in text
    table = text[text.index("As a table") :]
    assert "CheckpointLoaderSimple––cached" in table
    # It waited some milliseconds before the claim.
    assert re.search(r"My sampler3 KSampler\+1(\.\d+)? s6 s", table)


async def test_an_attempt_of_whose_nodes_nothing_was_told_says_so(client, life):
    job = await life.complete(await life.execute())
    assert "Of this run's nodes nothing was told." in words(await job_page(client, job.job_id))


async def test_every_attempt_has_its_timeline_and_error_the_last_one_open(client, life, database):
    first = await life.execute()
    await life.fail(first, "VAEDecode: out of <memory>")
    await note(database, first, spans=[{"node": "7", "type": "VAEDecode", "start_ms": 0}])
    await life.store.retry(first.job_id, None, "ann")
    waiting = await job_page(client, first.job_id)
    assert "open" in waiting.all("details", id="attempt-2")[0]
    await life.store.claim("host:2:b", "gpu-b", "0" * 36, 60)
    page = await job_page(client, first.job_id)
    assert "open" in page.all("details", id="attempt-2")[0]
    assert "open" not in page.all("details", id="attempt-1")[0]
    assert page.all("rect", class_="bar node failed")
    for shown in ("node_failed", "VAEDecode: out of <memory>", "gpu-a", "gpu-b", "failed", "under way", "ann"):
        assert shown in page.text
    assert page.all("a", href="/monitor/backends#backend-gpu-b")
    assert page.all("a", href="/monitor/workers#worker-host%3A2%3Ab")


async def test_inputs_are_a_table_and_json_digit_for_digit(client, life):
    seed = 2**64 - 1
    job_id = await life.submit(sampler_params={"seed": seed, "steps": 4}, metadata={"a": "b"}, params={"n": 10**30})
    text = (await job_page(client, job_id)).text
    asked, _ = json.JSONDecoder().raw_decode(text[text.index("As JSON") :].removeprefix("As JSON").lstrip())
    assert asked["sampler_params"]["seed"] == seed
    assert asked["params"]["n"] == 10**30
    assert asked["metadata"] == {"a": "b"}
    answer = await client.post("/api/v1/generation-jobs/", json=asked)
    assert answer.status == 201, "what is shown can be sent again"


async def test_workflow_and_graph_are_shown_and_linked_when_they_are_long(client, life):
    graph = {"1": {"class_type": "EmptyImage", "inputs": {"text": "x" * 10}}}
    claim = await life.execute(job_type="workflow", workflow=graph)
    page = await job_page(client, claim.job_id)
    assert "Workflow as it was sent, 1 node" in page.text
    assert "Graph as ComfyUI ran it" in page.text
    assert page.text.count('"class_type": "EmptyImage"') == 2
    graph["1"]["inputs"]["text"] = "x" * 100_000
    page = await job_page(client, await life.submit(job_type="workflow", workflow=graph))
    assert "It is long" in page.text
    assert len(page.text) < 60_000


async def test_an_error_names_node_class_and_message_before_its_traceback(client, life, database):
    claim = await life.execute()
    await life.fail(claim, "Allocation on device")
    await note(database, claim, traceback='File "/srv/comfyui/nodes.py", line 7')
    page = await job_page(client, claim.job_id)
    text = words(page)
    places = [text.index(part) for part in ("node_failed", "node 7", "class VAEDecode", "Allocation on", "/srv/comfy")]
    assert places == sorted(places)
    assert "open" not in page.all("details", id="traceback")[0]


@pytest.mark.parametrize("role", Role)
async def test_tracebacks_and_buttons_are_for_operators(client, life, database, role):
    first = await life.execute(user_id="user")
    await life.fail(first, "once")
    await note(database, first, traceback="first /srv/nodes.py")
    await life.store.retry(first.job_id, None, "ann")
    await life.store.claim(WORKER, "gpu-a", "0" * 36, 60)
    again = Claim(first.job_id, 2, WORKER)
    await life.fail(again, "again")
    await note(database, again, traceback="second /srv/nodes.py")
    store = KeyStore(database)
    token, _ = await store.sign_in(await store.add(role, role))
    page = await read(client, f"/monitor/jobs/{first.job_id}", Cookie=f"{SESSION_COOKIE}={token}")
    sees, may = role in (Role.OPERATOR, Role.ADMIN), role is not Role.VIEWER
    assert ("first /srv" in page.text, "second /srv" in page.text) == (sees, sees)
    assert bool(page.all("form", action=f"/monitor/jobs/{first.job_id}/retry")) is may
    assert ("Delete…" in page.text) is may


async def test_those_that_failed_alike_are_counted_and_linked(client, life):
    first, second, other = [await life.execute(user_id=f"user-{number}") for number in range(3)]
    await life.fail(first)
    assert not (await job_page(client, first.job_id)).all("a", id="alike")
    await life.fail(second)
    await life.complete(other)
    page = await job_page(client, first.job_id)
    assert "2 failed alike" in words(page)
    (link,) = page.all("a", id="alike")
    assert link["href"] == "/monitor/?status=failed&error=node_failed&node=VAEDecode"
    assert (await read(client, link["href"])).jobs == [second.job_id, first.job_id]


async def test_hostile_texts_are_texts_wherever_they_come_from(client, life, database):
    graph = {HOSTILE[:60]: {"class_type": HOSTILE[:60], "inputs": {"a": HOSTILE}}}
    claim = await life.execute(prompt=HOSTILE, user_id=HOSTILE[:200], job_type="workflow", workflow=graph)
    await life.fail(claim, HOSTILE)
    spans = [{"node": HOSTILE, "type": HOSTILE, "title": HOSTILE, "start_ms": 0, "end_ms": 5}]
    spans.append({"node": "2", "type": HOSTILE, "cached": True})
    facts = {"node_id": HOSTILE, "node_type": HOSTILE, "worker_id": HOSTILE[:200], "backend_name": HOSTILE[:200]}
    await note(database, claim, spans=spans, traceback=HOSTILE, **facts)
    async with database.transaction() as session:
        await session.execute(update(JobRow).values(backend_name=HOSTILE[:200], cancel_reason=HOSTILE))
    await life.store.retry(claim.job_id, None, HOSTILE[:200])
    page = await job_page(client, claim.job_id)
    assert page.text.count("<script>alert(1)</script>") > 15
    for tag, attributes in page.elements:
        assert tag != "script" or attributes["src"].startswith("/monitor/static/")
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        for name in ("href", "src", "action"):
            assert attributes.get(name, "/").startswith(("/", "#"))


async def test_the_events_say_who_did_what(client, life):
    job_id = await life.submit()
    await act(client, f"/monitor/jobs/{job_id}/cancel")
    page = await job_page(client, job_id)
    assert page.all("tr", id="event-2")
    assert "cancelled" in words(page)
    assert "monitor" in words(page)


async def test_an_attempt_says_why_its_backend_took_the_job_and_how_long_it_loaded(client, life, database, plain):
    claim = await life.execute()
    told = '{"reason": "load", "rank": 2, "overtook": 2, "load_s": 4.0, "alternatives": 5}'
    await plain.execute("UPDATE job_attempts SET choice = $1::jsonb", told)
    await plain.execute("UPDATE job_events SET data = data || $1::jsonb WHERE event = 'claimed'", told)
    said = words(await job_page(client, claim.job_id))
    assert "taken before 2 older jobs; its models have to be loaded first (≈ 4.0 s)" in said
    assert "prompt_id: " in said
    assert "alternatives" not in said
    await plain.execute("UPDATE job_attempts SET load_s = 2.04")
    said = words(await job_page(client, claim.job_id))
    assert "taken before 2 older jobs; its models were loaded first (2.0 s)" in said
    answer = await (await client.get(f"/api/v1/generation-jobs/{claim.job_id}/attempts")).json()
    (attempt,) = answer["items"]
    assert attempt["choice"] == {"reason": "load", "rank": 2, "overtook": 2, "load_s": 4.0, "alternatives": 5}
    assert attempt["load_s"] == 2.04
    await plain.execute("UPDATE job_attempts SET choice = NULL")
    assert "models were loaded (2.0 s)" in words(await job_page(client, claim.job_id))
