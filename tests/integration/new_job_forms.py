"""Filling in and sending the form for a new job, as a browser does."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from integration.monitor_fixtures import Document, read
from PIL import Image
from sqlalchemy import text

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient

    from app.storage.database import Database


NEW = "/monitor/new"

FILLED = {"user_id": "ann", "prompt": "a red fox", "steps": "4", "width": "64", "height": "64"}

FOX = {"user_id": "ann", "prompt": "a red fox"}


def picture(color: str = "orange", size: tuple[int, int] = (96, 64)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


async def send(
    client: TestClient[Any, Any],
    fields: dict[str, str],
    files: dict[str, bytes] | None = None,
    *,
    token: str | None = None,
    **headers: str,
) -> Any:
    """Send the form as a browser does, files and empty file fields included; return the answer, unfollowed."""
    await read(client, "/monitor/workers")
    cookie = client.session.cookie_jar.filter_cookies(client.make_url("/monitor/"))["monitor_csrf"].value
    parts = [("csrf", "", (cookie if token is None else token).encode())]
    parts += [(name, "", each.encode("utf-8", "surrogatepass")) for name, each in fields.items()]
    for name in dict.fromkeys(("image_file", "mask_file", *(files or {}))):
        content = (files or {}).get(name, b"")
        parts.append((name, f'; filename="{name + ".png" if content else ""}"', content))
    data = b"".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"
        for name, more, content in parts
    )
    sent = {
        "Origin": str(client.make_url("/")).rstrip("/"),
        "Content-Type": "multipart/form-data; boundary=x",
    } | headers
    return await client.post(NEW, data=io.BytesIO(data + b"--x--\r\n"), headers=sent, allow_redirects=False)


async def refused(answer: Any, status: int = 422) -> tuple[Document, dict[str, str]]:
    """Return the form that came back, and what is said at each of its fields."""
    page = await answer.text()
    assert answer.status == status, page
    found = re.findall(r'<small class="bad" id="(\w+)-fault">(.*?)</small>', page)
    document = Document(page)
    (summary,) = document.all("div", id="faults")
    assert "autofocus" in summary
    links = {link["href"] for link in document.all("a") if link["href"].startswith("#") and link["href"] != "#main"}
    assert links == {f"#{name}" for name, _ in found}
    for name, _ in found:
        (field,) = [each for _, each in document.elements if each.get("id") == name]
        assert field["aria-invalid"] == "true"
        assert f"{name}-fault" in field["aria-describedby"].split()
    assert document.all("title")
    return document, dict(found)


async def jobs(database: Database) -> int:
    async with database.transaction() as session:
        return int((await session.execute(text("SELECT count(*) FROM generation_jobs"))).scalar_one())


def job_of(answer: Any) -> int:
    assert answer.status == 303
    return int(answer.headers["Location"].removeprefix("/monitor/jobs/"))


def value(page: Document, name: str) -> str:
    (field,) = page.all("input", name=name)
    return field["value"]


async def check(client: Any, fields: dict[str, str]) -> dict[str, Any]:
    """Ask as the page's script does while the form is filled in."""
    answer = await send(client, fields | {"do": "check"})
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert answer.headers["Cache-Control"] == "no-store"
    return dict(await answer.json())
