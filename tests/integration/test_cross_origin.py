"""CORS: what a browser is told on behalf of pages of other sites, those of `ALLOWED_ORIGINS` and all others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aiohttp.test_utils import TestServer
from integration.monitor_fixtures import Life

from app import keys
from app.domain.access import Role
from app.main import SERVING, create_app
from app.web.cross_origin import EXPOSED, PREFLIGHT

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient

    from app.settings import Settings

LISTED = "https://app.example"
JOBS = "/api/v1/generation-jobs/"
OF_CORS = "Access-Control-"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.access.OPEN_S", -1.0)


@pytest.fixture
async def client(settings: Settings, aiohttp_client: Any) -> TestClient[Any, Any]:
    """A server that lets pages of two origins in."""
    changed = settings.model_copy(update={"allowed_origins": f"{LISTED}, https://other.example:8443"})
    server = TestServer(create_app(changed))
    await server.start_server(**SERVING)
    return await aiohttp_client(server)


@pytest.fixture
async def key(client: TestClient[Any, Any]) -> str:
    return await client.app[keys.KEYS].add("ann", Role.USER)


async def preflight(client: TestClient[Any, Any], path: str, origin: str | None, method: str = "POST") -> Any:
    headers = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization"}
    return await client.options(path, headers=headers | ({"Origin": origin} if origin is not None else {}))


def told(answer: Any) -> dict[str, str]:
    """Return the headers of CORS."""
    return {name: value for name, value in answer.headers.items() if name.startswith(OF_CORS)}


@pytest.mark.parametrize("origin", [LISTED, "https://other.example:8443"])
@pytest.mark.parametrize(
    "path", [JOBS, f"{JOBS}1/cancel", "/api/v1/uploads", "/api/v1/contents/1/outputs/0", "/metrics"]
)
async def test_a_preflight_is_answered_before_anybody_is_asked_for_a_key(client, key, path, origin):
    answer = await preflight(client, path, origin)
    assert (answer.status, await answer.read()) == (204, b"")
    expected = PREFLIGHT | {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": EXPOSED}
    assert told(answer) == expected
    assert answer.headers["Vary"] == "Origin"


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example", "null", "https://app.example.evil.example", "http://app.example",
        "https://app.example:443", "https://APP.example", f"{LISTED}/", "*", None,
    ],
)  # fmt: skip
async def test_others_are_told_nothing(client, key, origin):
    answer = await preflight(client, JOBS, origin)
    assert answer.status == 405
    assert told(answer) == {}
    headers = {"X-API-Key": key} | ({"Origin": origin} if origin is not None else {})
    answer = await client.get(JOBS, headers=headers)
    assert answer.status == (200 if origin is None else 403)
    assert told(answer) == {}
    # Or a cache would give them what it keeps for a page that is listed.
    assert answer.headers["Vary"] == "Origin"


@pytest.mark.parametrize("path", ["/monitor/", "/monitor/sign-in", "/monitor/jobs/1/cancel"])
async def test_the_page_is_for_itself_alone(client, key, path):
    answer = await preflight(client, path, LISTED)
    assert answer.status != 204
    assert told(answer) == {}
    answer = await client.get(path, headers={"Origin": LISTED}, allow_redirects=False)
    assert told(answer) == {}


async def test_a_listed_page_reads_answers_and_errors_and_never_by_a_session(client, key):
    for path, headers, status in (
        (JOBS, {"X-API-Key": key}, 200),
        (JOBS, {"Authorization": f"Bearer {key}"}, 200),
        (JOBS, {}, 401),
        (JOBS, {"X-API-Key": "nonsense"}, 401),
        (f"{JOBS}999", {"X-API-Key": key}, 404),
        ("/api/v1/nothing", {}, 404),
        (f"{JOBS}?limit=0", {"X-API-Key": key}, 422),
        ("/openapi.json", {}, 200),
        ("/health/live", {}, 200),
    ):
        answer = await client.get(path, headers=headers | {"Origin": LISTED})
        assert answer.status == status, path
        assert told(answer) == {"Access-Control-Allow-Origin": LISTED, "Access-Control-Expose-Headers": EXPOSED}
        assert answer.headers["Vary"] == "Origin"


async def test_a_session_of_the_page_lets_no_page_of_another_site_in(client, key):
    token, _ = await client.app[keys.KEYS].sign_in(key)
    cookie = {"Cookie": f"genonaut_session={token}"}
    assert (await client.get(JOBS, headers=cookie)).status == 200
    answer = await client.get(JOBS, headers=cookie | {"Origin": LISTED})
    assert (answer.status, (await answer.json())["code"]) == (403, "foreign_origin")


async def test_without_keys_a_listed_page_is_refused_and_can_read_why(client):
    answer = await client.get(JOBS, headers={"Origin": LISTED})
    assert (answer.status, (await answer.json())["code"]) == (403, "foreign_origin")
    assert answer.headers["Access-Control-Allow-Origin"] == LISTED


async def test_files_can_be_read_too_whole_in_parts_and_by_a_link(client, key, database):
    life = Life(client, database)
    done = await life.complete(await life.execute(user_id="ann"))
    headers = {"X-API-Key": key, "Origin": LISTED}
    (output,) = (await (await client.get(f"{JOBS}{done.job_id}", headers=headers)).json())["outputs"]
    for path, more, status in (
        (output["url"], headers, 200),
        (output["url"], headers | {"Range": "bytes=0-3"}, 206),
        (output["url"], headers | {"Range": "bytes=999999-"}, 416),
        (output["signed_url"], {"Origin": LISTED}, 200),
        (output["signed_url"][:-1], {"Origin": LISTED}, 403),
    ):
        answer = await client.get(path, headers=more)
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (status, LISTED)
    # Anybody's page may show a picture by its link; reading it is another thing.
    answer = await client.get(output["signed_url"], headers={"Origin": "https://evil.example"})
    assert (answer.status, told(answer)) == (200, {})


async def test_an_options_request_that_is_no_preflight_is_405(client):
    answer = await client.options(JOBS, headers={"Origin": LISTED})
    assert answer.status == 405


async def test_without_allowed_origins_nothing_is_added(settings, aiohttp_client):
    client = await aiohttp_client(create_app(settings))
    answer = await client.get("/openapi.json", headers={"Origin": LISTED})
    assert (told(answer), "Vary" in answer.headers) == ({}, False)
    assert (await preflight(client, JOBS, LISTED)).status == 405


@pytest.mark.parametrize("root", ["/images", "/api"])
async def test_under_a_prefix_it_is_the_same_whether_a_proxy_passes_the_prefix_on_or_not(
    settings, aiohttp_client, root
):
    changed = {"allowed_origins": LISTED, "root_path": root}
    client = await aiohttp_client(create_app(settings.model_copy(update=changed)))
    for prefix in (root, ""):
        assert (await preflight(client, f"{prefix}{JOBS}", LISTED)).status == 204
        answer = await client.get(f"{prefix}/openapi.json", headers={"Origin": LISTED})
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, LISTED)
        answer = await client.get(f"{prefix}/monitor/sign-in", headers={"Origin": LISTED}, allow_redirects=False)
        assert told(answer) == {}
        assert (await preflight(client, f"{prefix}/monitor/", LISTED)).status != 204
