"""What browsers are told about answers, whichever part of the service they come from."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import FormData
from integration.monitor_fixtures import Life
from integration.new_job_forms import picture

from app.main import create_monitor_app
from harness import SMALL_BODY

if TYPE_CHECKING:
    from aiohttp import ClientResponse

    from app.settings import Settings
    from app.storage.database import Database

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
DATA = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-site",
}
FILE = DATA | {"Content-Security-Policy": "default-src 'none'; sandbox; frame-ancestors 'none'"}


def told(answer: ClientResponse) -> dict[str, str | None]:
    """Return what the answer says of these; each header stands in it once."""
    assert all(len(answer.headers.getall(name)) == 1 for name in DATA)
    assert "Strict-Transport-Security" not in answer.headers
    return {name: answer.headers[name] for name in DATA}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health/live", 200),
        ("/health/ready", 503),
        ("/openapi.json", 200),
        ("/metrics", 200),
        ("/api/v1/generation-jobs/", 200),
        ("/api/v1/generation-jobs/1", 404),
        ("/api/v1/generation-jobs/?limit=x", 422),
        ("/api/v1/uploads/x", 404),
        ("/nowhere", 404),
        ("/ws/events", 400),
        ("/ws/jobs/x", 400),
        ("/ws/jobs/1", 404),
    ],
)
async def test_an_answer_is_data_and_nothing_else(client: Any, path: str, status: int) -> None:
    answer = await client.get(path)
    assert (answer.status, told(answer)) == (status, DATA)


async def test_refusals_say_the_same(client: Any) -> None:
    path = "/api/v1/generation-jobs/"
    foreign = await client.post(path, json=SMALL_BODY, headers={"Origin": "https://evil.example"})
    elsewhere = await client.get(path, headers={"Host": "evil.example"})
    socket = await client.get("/ws/events", headers=UPGRADE | {"Origin": "https://evil.example"})
    wrong = await client.put(path)
    assert [each.status for each in (foreign, elsewhere, socket, wrong)] == [403, 421, 403, 405]
    assert [told(each) for each in (foreign, elsewhere, socket, wrong)] == [DATA] * 4


async def test_a_socket_has_none_of_them(client: Any) -> None:
    lines = ["GET /ws/events HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in UPGRADE.items())]
    reader, writer = await asyncio.open_connection(client.server.host, client.server.port)
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    writer.close()
    assert head.startswith("http/1.1 101 ")
    assert not any(name.lower() in head for name in DATA)


async def test_files_run_nothing_either(client: Any) -> None:
    form = FormData()
    form.add_field("file", picture(), filename="picture.png")
    upload = await (await client.post("/api/v1/uploads", params={"user_id": "u"}, data=form)).json()
    answer = await client.get(upload["url"])
    assert (answer.status, told(answer)) == (200, FILE)
    unchanged = await client.get(upload["url"], headers={"If-None-Match": answer.headers["ETag"]})
    assert (unchanged.status, told(unchanged)) == (304, FILE)
    out_of_it = await client.get(upload["url"], headers={"Range": "bytes=999999999-"})
    assert (out_of_it.status, told(out_of_it)) == (416, DATA)


async def test_the_page_runs_its_own_scripts_only(client: Any, database: Database) -> None:
    job_id = await Life(client, database).submit()
    for path in ("/monitor/", f"/monitor/jobs/{job_id}", "/monitor/nowhere", "/monitor/static/monitor.css"):
        found = told(await client.get(path))
        policy = found.pop("Content-Security-Policy") or ""
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        of_the_page = {"Referrer-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin"}
        assert found == {name: value for name, value in (DATA | of_the_page).items() if name in found}


async def test_what_leads_elsewhere_says_it_too(settings: Settings, aiohttp_client: Any) -> None:
    client = await aiohttp_client(create_monitor_app(settings))
    answer = await client.get("/", allow_redirects=False)
    assert (answer.status, told(answer)) == (302, DATA)
