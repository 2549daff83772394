"""Links to outputs that need no header: they open what they were signed for, for their time, and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
from integration.hostile import raw

from app import keys
from app.domain.access import Role
from app.services.links import CLOCKS_S, MINUTE_S, Links, Signing, output_path
from app.storage.link_secret import LinkSecretStore

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient
    from integration.monitor_fixtures import Life

    from app.storage.database import Database

BASE = "/api/v1/generation-jobs"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.access.OPEN_S", -1.0)
    monkeypatch.setattr("app.services.links.KNOWN_S", -1.0)


@pytest.fixture
async def job(client: TestClient[Any, Any], life: Life) -> dict[str, Any]:
    """A job of a picture and a text, as its owner reads it; from here on every address takes a key."""
    done = await life.complete(await life.execute(), "image", "text")
    key = await client.app[keys.KEYS].add("your-user-id", Role.USER)
    answer = await client.get(f"{BASE}/{done.job_id}", headers={"X-API-Key": key})
    return dict(await answer.json()) | {"key": key}


@pytest.fixture
async def secret(database: Database) -> bytes:
    return await LinkSecretStore(database).read()


def parts_of(link: str) -> tuple[str, int, str]:
    path, _, query = link.partition("?")
    found = parse_qs(query)
    return path, int(found["expires"][0]), found["signature"][0]


async def code_of(client: TestClient[Any, Any], link: str, **headers: str) -> tuple[int, str]:
    answer = await client.get(link, headers=headers)
    return answer.status, (await answer.json())["code"] if answer.status >= 400 else ""


async def test_a_link_shows_its_output_without_a_key_and_nothing_else_is_open(client, job):
    picture, text = job["outputs"]
    assert (await client.get(picture["url"])).status == 401
    answer = await client.get(picture["signed_url"])
    assert (answer.status, answer.content_type) == (200, "image/png")
    assert hashlib.sha256(await answer.read()).hexdigest() == picture["sha256"]
    small = await client.get(picture["signed_thumbnail_url"])
    assert (small.status, small.content_type) == (200, "image/webp")
    assert (text["signed_thumbnail_url"], (await client.get(text["signed_url"])).status) == (None, 200)
    query = picture["signed_url"].partition("?")[2]
    elsewhere = [f"/api/v1/contents/{job['content_id']}", f"{BASE}/{job['job_id']}", f"{BASE}/", "/monitor/"]
    elsewhere += [f"/api/v1/contents/{job['content_id']}/thumbnail", f"/ws/jobs/{job['job_id']}"]
    for path in elsewhere:
        answer = await client.get(f"{path}?{query}", allow_redirects=False)
        assert answer.status == (303 if path == "/monitor/" else 401), path


async def test_every_answer_that_names_an_output_has_its_links(client, job):
    signed = {"X-API-Key": job["key"]}
    listed = await (await client.get(f"{BASE}/?limit=1", headers=signed)).json()
    content = await (await client.get(f"/api/v1/contents/{job['content_id']}", headers=signed)).json()
    for outputs in (job["outputs"], listed["items"][0]["outputs"], content["outputs"]):
        assert len(outputs) == 2
        for output in outputs:
            for url, link in (("url", "signed_url"), ("thumbnail_url", "signed_thumbnail_url")):
                assert (output[url] is None) == (output[link] is None)
                assert output[url] is None or parts_of(output[link])[0] == output[url]
                assert output[url] is None or (await client.get(output[link])).status == 200


async def test_a_link_ends_at_a_full_minute_after_its_time(client, job, settings):
    for link in (job["outputs"][0]["signed_url"], job["outputs"][0]["signed_thumbnail_url"]):
        _, expires, signature = parts_of(link)
        assert expires % MINUTE_S == 0
        assert 0 < expires - time.time() <= settings.link_seconds + MINUTE_S
        assert re.fullmatch("[0-9a-f]{64}", signature)


async def test_head_and_ranges_work_and_nobody_keeps_it_longer_than_the_link_lives(client, job, settings):
    link = job["outputs"][0]["signed_url"]
    whole = await (await client.get(link)).read()
    part = await client.get(link, headers={"Range": "bytes=1-3"})
    assert (part.status, await part.read()) == (206, whole[1:4])
    head = await client.head(link)
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(whole)))
    again = await client.get(link, headers={"If-None-Match": head.headers["ETag"]})
    slash = await client.get(link.replace("?", "/?"))
    assert (again.status, slash.status) == (304, 200)
    for answer in (part, head, again, slash, await client.get(job["outputs"][0]["signed_thumbnail_url"])):
        kept = re.fullmatch(r"private, max-age=(\d+), immutable", answer.headers["Cache-Control"])
        assert kept is not None
        assert int(kept[1]) <= parts_of(link)[1] - time.time() + MINUTE_S
        assert int(kept[1]) <= settings.link_seconds + MINUTE_S
        assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"


async def test_what_stands_in_for_a_thumbnail_is_not_kept(client, job, monkeypatch, database):
    monkeypatch.setattr("app.web.contents.LOOKS", 0)
    async with database.driver() as connection:
        await connection.execute("UPDATE outputs SET thumbnail_due = true, thumbnail_path = NULL")
    answer = await client.get(job["outputs"][0]["signed_thumbnail_url"])
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-cache")


async def test_a_link_that_is_not_to_the_letter_is_refused(client, job):
    path, expires, signature = parts_of(job["outputs"][0]["signed_url"])
    small, _, of_small = parts_of(job["outputs"][0]["signed_thumbnail_url"])
    other = "1" if signature[0] == "0" else "0"
    wrong = [
        f"{path}?expires={expires}&signature={signature[:-1]}",
        f"{path}?expires={expires}&signature={signature}0",
        f"{path}?expires={expires}&signature={other}{signature[1:]}",
        f"{path}?expires={expires}&signature={signature.upper()}",
        f"{path}?expires={expires}&signature=",
        f"{path}?expires={expires}",
        f"{path}?signature={signature}",
        f"{path}?expires={expires + 60}&signature={signature}",
        f"{path}?expires=0{expires}&signature={signature}",
        f"{path}?expires={expires}.0&signature={signature}",
        f"{path}?expires=&signature={signature}",
        f"{path}?expires=never&signature={signature}",
        f"{path}?expires={expires}&expires={expires}&signature={signature}",
        f"{path}?expires={expires}&signature={signature}&signature={signature}",
        f"{path}?expires={expires}&signature={of_small}",
        f"{small}?expires={expires}&signature={signature}",
        f"{output_path(job['content_id'], 1)}?expires={expires}&signature={signature}",
        f"{output_path(job['content_id'] + 1, 0)}?expires={expires}&signature={signature}",
        f"{path}?expires={expires}&signature=%C3%BC%E2%82%AC{signature[2:]}",
        f"{path}?expires={expires}&signature=%ff%fe{signature}",
        f"{path}?expires=%D9%A1&signature={signature}",
        f"{path}?expires={expires}&signature={signature * 100}",
        f"{path}?expires={'9' * 5000}&signature={signature}",
    ]
    for link in wrong:
        assert await code_of(client, link) == (403, "wrong_signature"), link
        # A key does not make a wrong link right: what is tried here is what others would see.
        assert await code_of(client, link, **{"X-API-Key": job["key"]}) == (403, "wrong_signature"), link


async def test_a_link_of_ten_kilobytes_is_refused(client, job):
    path, expires, signature = parts_of(job["outputs"][0]["signed_url"])
    request = f"GET {path}?expires={expires}&signature={signature * 160} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    status = (await raw(client, request.encode())).split(b" ", 2)[1]
    assert status in (b"400", b"403")


async def test_a_link_of_another_time_is_refused(client, job, secret, settings):
    path, now = output_path(job["content_id"], 0), int(time.time())
    for expires, refused in (
        (now, (403, "link_expired")),
        (now - 10**6, (403, "link_expired")),
        (0, (403, "link_expired")),
        (now + settings.link_seconds + MINUTE_S + CLOCKS_S + 60, (403, "link_expired")),
        (now + settings.link_seconds, (200, "")),
    ):
        assert await code_of(client, Signing(secret, expires).signed(path)) == refused, expires - now
    # Who does not know the secret learns nothing from a time that is over.
    assert await code_of(client, Signing(b"guessed", now - 1).signed(path)) == (403, "wrong_signature")


async def test_links_are_wrong_after_the_secret_was_renewed_and_new_ones_are_right(client, job, database):
    link, key = job["outputs"][0]["signed_url"], {"X-API-Key": job["key"]}
    await LinkSecretStore(database).renew()
    assert await code_of(client, link) == (403, "wrong_signature")
    new = (await (await client.get(f"{BASE}/{job['job_id']}", headers=key)).json())["outputs"][0]["signed_url"]
    assert parts_of(new)[2] != parts_of(link)[2]
    assert (await client.get(new)).status == 200


async def test_two_servers_that_make_the_secret_at_once_have_the_same(database):
    made = await asyncio.gather(*(LinkSecretStore(database).read() for _ in range(8)))
    assert len(set(made)) == 1
    assert len(made[0]) == 32


async def test_a_deleted_output_is_404_also_by_its_link(client, job):
    key = {"X-API-Key": job["key"]}
    assert (await client.delete(f"{BASE}/{job['job_id']}", headers=key)).status == 204
    assert await code_of(client, job["outputs"][0]["signed_url"]) == (404, "content_not_found")


async def test_a_link_counts_alone_whatever_comes_along(client, job):
    link = job["outputs"][0]["signed_url"]
    for headers in (
        {"Authorization": "Bearer nonsense"},
        {"Cookie": "genonaut_session=nonsense"},
        {"Origin": "https://elsewhere.example"},
        {"X-Forwarded-For": "192.0.2.1"},
    ):
        assert (await client.get(link, headers=headers)).status == 200, headers
    # But under another name nothing is served at all.
    assert await code_of(client, link, Host="evil.example") == (421, "foreign_host")


async def test_without_keys_answers_have_links_too(client, life):
    done = await life.complete(await life.execute())
    job = await (await client.get(f"{BASE}/{done.job_id}")).json()
    assert (await client.get(job["outputs"][0]["signed_url"], headers={"X-Real-IP": "192.0.2.1"})).status == 200
    assert (await client.get(job["outputs"][0]["url"], headers={"X-Real-IP": "192.0.2.1"})).status == 401


async def test_an_answer_that_is_replayed_has_no_links(client, life):
    body = {"user_id": "u", "job_type": "image", "prompt": "p"}
    first = await client.post(f"{BASE}/", json=body, headers={"Idempotency-Key": "k"})
    again = await client.post(f"{BASE}/", json=body, headers={"Idempotency-Key": "k"})
    assert again.headers["Idempotency-Replayed"] == "true"
    assert await first.text() == await again.text()
    assert (await again.json())["outputs"] == []


class Counting(LinkSecretStore):
    """Counts how often the secret is read."""

    reads = 0

    async def read(self) -> bytes:
        self.reads += 1
        return await super().read()


async def test_requests_at_the_same_time_share_one_read_of_the_secret(database):
    store = Counting(database)
    links = Links(store, 3600)
    made = await asyncio.gather(*(links.signing() for _ in range(50)))
    assert len({each.secret for each in made}) == 1
    assert store.reads <= 2


async def test_the_secret_is_remembered(database, monkeypatch):
    monkeypatch.setattr("app.services.links.KNOWN_S", 3600.0)
    store = Counting(database)
    links = Links(store, 3600)
    made = [await links.signing() for _ in range(50)]
    assert store.reads == 1
    # Of two minutes at most.
    assert len({each.signed("/x") for each in made}) <= 2
