"""Under a prefix: everything that leads somewhere leads below it, whether the proxy passes it on or strips it."""

from __future__ import annotations

import asyncio
import io
import re
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import FormData
from integration.hostile import raw
from integration.monitor_fixtures import Document, Life, beat
from integration.new_job_forms import picture

from app import keys
from app.domain.access import Role
from app.domain.forwarded import OWN_PATHS
from app.main import create_app, create_monitor_app
from app.web.body_intake import MAX_FORM_BYTES
from app.web.metrics import counted
from app.web.permissions import PERMISSIONS
from harness import SMALL_BODY

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient

    from app.settings import Settings
    from app.storage.database import Database

READS = [route.removeprefix("GET ") for route in PERMISSIONS if route.startswith("GET /monitor")]
ROOT = "/tools/images"
JOBS = "/api/v1/generation-jobs"
LEADING = ("href", "src", "action", "formaction", "poster")


@pytest.fixture(autouse=True)
def _closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.access.OPEN_S", -1.0)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"root_path": ROOT, "trusted_proxies": "127.0.0.1"})


@pytest.fixture(params=["passed on", "stripped"])
def sent(request: pytest.FixtureRequest) -> Any:
    """Makes of an address under the prefix what the proxy sends for it."""
    return (lambda path: path) if request.param == "passed on" else (lambda path: path.removeprefix(ROOT) or "/")


def leads(page: Document) -> set[str]:
    """Return whatever the page leads to or loads, but for its own parts."""
    found = (attributes[name] for _, attributes in page.elements for name in LEADING if name in attributes)
    return {address for address in found if not address.startswith("#")}


async def some_jobs(client: TestClient[Any, Any], database: Database) -> int:
    """Make a job of each kind, and return one with outputs."""
    life = Life(client, database)
    for _ in range(2):
        await life.fail(await life.execute())
    done = await life.complete(await life.execute(), "image", "video", "audio", "text")
    await life.execute()
    await life.submit()
    await beat(client)
    return done.job_id


async def test_the_page_leads_nowhere_else(client: Any, database: Database, sent: Any) -> None:
    job_id = await some_jobs(client, database)
    places = {place.replace("{job_id}", str(job_id)).replace("{index}", "0") for place in READS}
    places |= {"/monitor/?view=gallery", "/monitor/?jobs=25&user=x", "/monitor/nowhere", f"/monitor/new?again={job_id}"}
    found = set()
    for place in places - {f"/monitor/jobs/{job_id}/preview"}:
        for headers in ({}, {"X-Fragment": "1"}):
            answer = await client.get(sent(ROOT + place), headers=headers)
            assert answer.content_type == "text/html", place
            page = Document(await answer.text())
            assert [each for each in leads(page) if not each.startswith(f"{ROOT}/")] == [], place
            found |= leads(page)
    assert len(found) > 60
    seen = set()
    for address in sorted(found):
        path = address.partition("?")[0].partition("#")[0]
        if path not in seen:
            seen.add(path)
            answer = await client.get(sent(address.partition("#")[0]), allow_redirects=False)
            # Forms are only sent, or not without what is in them.
            assert answer.status < 400 or answer.status in (405, 422), (address, answer.status)


async def test_answers_lead_nowhere_else(client: Any, database: Database, sent: Any) -> None:
    job_id = await some_jobs(client, database)
    created = await client.post(sent(f"{ROOT}{JOBS}/"), json=SMALL_BODY)
    answer = await created.json()
    assert created.headers["Location"] == answer["links"]["self"] == f"{ROOT}{JOBS}/{answer['job_id']}"
    form = FormData()
    form.add_field("file", picture(), filename="picture.png")
    uploaded = await client.post(sent(f"{ROOT}/api/v1/uploads"), params={"user_id": "u"}, data=form)
    assert uploaded.headers["Location"] == (await uploaded.json())["url"].removesuffix("/data")
    found = set(answer["links"].values())
    for path in (f"{JOBS}/", f"{JOBS}/{job_id}", "/api/v1/uploads?user_id=u", "/api/v1/contents/1", f"{JOBS}/999"):
        text = await (await client.get(sent(ROOT + path))).text()
        found |= set(re.findall(r'"(/[^"]*)"', text))
    assert len(found) > 20
    assert [each for each in found if not each.startswith(f"{ROOT}/")] == []
    for address in found - {each for each in found if each.endswith(("/cancel", "/retry", "/999"))}:
        if "/ws/" in address:
            async with client.ws_connect(sent(address)) as socket:
                assert (await socket.receive_json())["job_id"]
        else:
            status = (await client.get(sent(address))).status
            assert status == 200 or address.endswith(("/workflow", "/thumbnail")), (address, status)


async def test_the_document_says_where_the_service_is(client: Any, sent: Any) -> None:
    document = await (await client.get(sent(f"{ROOT}/openapi.json"))).json()
    assert document["servers"] == [{"url": ROOT}]


async def test_a_repetition_leads_where_it_was_sent(client: Any) -> None:
    """What is kept for it knows no prefix: it may come by another way."""
    body = SMALL_BODY | {"metadata": {"links": '"links":{"self":"/x'}}
    texts, key = {}, await client.app[keys.KEYS].add("ann", Role.ADMIN)
    for prefix in ("/a", "/b", "/a"):
        headers = {"X-API-Key": key, "Idempotency-Key": "once", "X-Forwarded-Prefix": prefix}
        answer = await client.post(f"{JOBS}/", json=body, headers=headers)
        text = await answer.text()
        assert texts.setdefault(prefix, text) == text
        assert answer.headers["Location"] == (await answer.json())["links"]["self"]
        assert answer.headers["Location"].startswith(f"{prefix}{JOBS}/")
        assert (await answer.json())["metadata"] == body["metadata"]
        # The prefix is put into the text from here on.
        assert list(await answer.json())[-1] == "links"
    assert texts["/b"].replace('"/b/', '"/a/') == texts["/a"]


async def test_a_prefix_that_the_proxy_tells_goes_before_the_one_that_is_set(client: Any) -> None:
    headers = {"X-API-Key": await client.app[keys.KEYS].add("ann", Role.ADMIN), "X-Forwarded-Prefix": "/pictures"}
    for path in ("/monitor/", "/pictures/monitor/"):
        answer = await client.get(path, headers=headers)
        assert all(each.startswith("/pictures/") for each in leads(Document(await answer.text())))
    assert (await client.get(f"{ROOT}/monitor/", headers=headers)).status == 404


async def test_readers_who_ask_together_get_their_own_addresses(client: Any, database: Database) -> None:
    """Fragments are made once for all who ask at the same time."""
    await some_jobs(client, database)

    async def read(prefix: str) -> set[str]:
        answer = await client.get("/monitor/", headers={"X-Fragment": "1", "X-Forwarded-Prefix": prefix})
        return leads(Document(await answer.text()))

    for prefix, found in zip(("/a", "/b"), await asyncio.gather(read("/a"), read("/b")), strict=True):
        assert found
        assert all(each.startswith((f"{prefix}/monitor/", f"{prefix}/api/")) for each in found)


async def test_signing_in_leads_back_to_the_page_that_was_wanted(client: Any, sent: Any) -> None:
    secret = await client.app[keys.KEYS].add("ann", Role.OPERATOR)
    wanted = "/monitor/backends?x=1"
    answer = await client.get(sent(ROOT + wanted), allow_redirects=False)
    assert answer.status == 303
    assert answer.headers["Location"].startswith(f"{ROOT}/monitor/sign-in?next=")
    answer = await client.get(sent(answer.headers["Location"]))
    (form,) = (page := Document(await answer.text())).all("form")
    fields = {each["name"]: each["value"] for each in page.all("input") if "value" in each} | {"key": secret}
    token = answer.cookies["monitor_csrf"]
    assert token["path"] == f"{ROOT}/monitor"
    headers = {"Cookie": f"monitor_csrf={token.value}"}
    answer = await client.post(sent(form["action"]), data=fields, headers=headers, allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (303, ROOT + wanted)
    (session,) = (cookie for name, cookie in answer.cookies.items() if name != "monitor_csrf")
    assert session["path"] == f"{ROOT}/"
    headers = {"Cookie": f"{session.key}={session.value}"}
    assert (await client.get(sent(answer.headers["Location"]), headers=headers)).status == 200


async def test_the_command_that_the_page_shows_is_for_where_its_reader_is(client: Any) -> None:
    key = await client.app[keys.KEYS].add("ann", Role.ADMIN)
    for path, proto, host in (("/monitor/", "https", "localhost:8443"), (f"{ROOT}/monitor/", "http", "127.0.0.1")):
        headers = {"X-API-Key": key, "X-Forwarded-Proto": proto, "X-Forwarded-Host": host}
        page = Document(await (await client.get(path, headers=headers)).text())
        assert f"curl -X POST {proto}://{host}{ROOT}{JOBS}/ " in page.text


async def test_a_form_leads_back_below_the_prefix(client: Any, database: Database, sent: Any) -> None:
    job_id = await Life(client, database).submit()
    answer = await client.get(sent(f"{ROOT}/monitor/jobs/{job_id}"))
    page = Document(await answer.text())
    (form,) = (each for each in page.all("form") if each["action"].endswith("/cancel"))
    headers = {"Cookie": f"monitor_csrf={answer.cookies['monitor_csrf'].value}"}
    fields = {"csrf": answer.cookies["monitor_csrf"].value, "back": page.all("input", name="back")[0]["value"]}
    answer = await client.post(sent(form["action"]), data=fields, headers=headers, allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (303, f"{ROOT}/monitor/jobs/{job_id}")
    assert answer.cookies["monitor_flash"]["path"] == f"{ROOT}/monitor"


async def test_the_page_alone_leads_on_below_the_prefix(settings: Settings, aiohttp_client: Any, sent: Any) -> None:
    client = await aiohttp_client(create_monitor_app(settings))
    for path in (ROOT, f"{ROOT}/"):
        answer = await client.get(sent(path), allow_redirects=False)
        assert (answer.status, answer.headers["Location"]) == (302, f"{ROOT}/monitor/")


async def test_errors_are_as_they_are_without_a_prefix(client: Any, sent: Any) -> None:
    answer = await client.get(sent(f"{ROOT}/nowhere"))
    assert (answer.status, (await answer.json())["instance"]) == (404, f"{ROOT}/nowhere")
    answer = await client.delete(sent(f"{ROOT}{JOBS}/"))
    assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD,POST")
    answer = await client.get(sent(f"{ROOT}/monitor/nowhere"))
    assert (answer.status, answer.content_type) == (404, "text/html")
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]


async def test_the_guards_look_at_the_path_without_the_prefix(client: Any, sent: Any) -> None:
    foreign = {"Origin": "https://evil.example"}
    answer = await client.post(sent(f"{ROOT}{JOBS}/"), json=SMALL_BODY, headers=foreign)
    assert (answer.status, (await answer.json())["code"]) == (403, "foreign_origin")
    assert (await client.get(sent(f"{ROOT}/ws/events"), headers=foreign)).status == 403
    form = io.BytesIO(b"x=" + b"y" * MAX_FORM_BYTES)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await client.post(sent(f"{ROOT}/monitor/workers"), data=form, headers=headers)).status == 413
    await client.app[keys.KEYS].add("ann", Role.ADMIN)
    assert (await client.get(sent(f"{ROOT}/monitor/audit"), headers={"X-Fragment": "1"})).status == 401


WRITINGS = [
    f"{ROOT}/../monitor/audit", f"{ROOT}//monitor/audit", f"{ROOT}monitor/audit", f"{ROOT}{ROOT}/monitor/audit",
    f"{ROOT}/%2e%2e/monitor/audit", f"/{ROOT}/monitor/audit", f"{ROOT}/./monitor/audit", f"{ROOT}%2fmonitor/audit",
    f"{ROOT}/monitor%2faudit", f"{ROOT}/monitor/sign-in/../audit", f"{ROOT}//evil.example/monitor/audit",
    f"{ROOT}/@evil.example/", f"{ROOT}?/monitor/audit", f"{ROOT.upper()}/monitor/audit",
]  # fmt: skip


@pytest.mark.parametrize("path", WRITINGS)
async def test_no_other_writing_of_the_prefix_opens_anything(client: Any, path: str) -> None:
    answer = await raw(client, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    assert answer.split(b" ", 2)[1] == b"404", answer[:300]


async def test_without_a_prefix_nothing_is_added(settings: Settings) -> None:
    without = create_app(settings.model_copy(update={"root_path": "", "trusted_proxies": ""}))
    app = create_app(settings)
    assert without.middlewares[0] is counted
    assert len(app.middlewares) == len(without.middlewares) + 1
    assert len(app.router.resources()) == len(without.router.resources()) + 1


async def test_no_prefix_can_be_taken_for_a_path_of_our_own(settings: Settings) -> None:
    begins = {resource.canonical.split("/")[1] for resource in create_app(settings).router.resources()}
    assert begins - {""} <= OWN_PATHS
