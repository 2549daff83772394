"""What there is: models and node classes over all backends, each with where it is and where it is warm."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from integration.closed_ports import closed
from integration.offers import XL, loader, tell
from integration.tcp_proxy import proxied
from samples import slow_graph
from yarl import URL

from app.keys import INVENTORY, REGISTRY
from app.main import create_app
from app.messaging.registry import KEPT_S
from app.services import inventory
from harness import LIVES, Service, StandinServer, Workers, eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.test_utils import TestClient
    from arq.connections import ArqRedis

    from app.messaging.channels import Names
    from app.settings import Settings

    Client = TestClient[Any, Any]

MODELS = "/api/v1/models"
NODES = "/api/v1/nodes"


async def read(client: Client, path: str, status: int = 200) -> dict[str, Any]:
    answer = await client.get(path)
    assert answer.status == status, (path, await answer.text())
    return dict(await answer.json())


async def lose(redis: ArqRedis, names: Names, *backends: str) -> None:
    """Have the heartbeats of backends be as old as those of lost ones."""
    for name in backends:
        await redis.pexpire(names.backend(name), KEPT_S * 1000 - 600_000)


async def entries(client: Client, kind: str = "checkpoints") -> dict[str, tuple[list[str], list[str] | None]]:
    """Return name → where it is and where it is warm."""
    return {each["name"]: (each["backends"], each["warm_on"]) for each in (await read(client, MODELS))[kind]}


@pytest.fixture
async def two(client: Client, start_standin: Callable[..., Awaitable[StandinServer]], start_worker: Workers) -> Service:
    """A worker that drives two backends: `a`, and `b` that has a checkpoint and a LoRA of its own."""
    a = await start_standin()
    b = await start_standin(checkpoints=(XL, "only-b.safetensors"), loras=("b.safetensors",))
    service = Service(client, a, await start_worker(f"a={a.url},b={b.url}"))
    await service.backend_online(2)

    async def known() -> bool:
        return (await read(client, MODELS))["backends"] == ["a", "b"]

    await eventually(known)
    return service


# Models.


async def test_models_of_all_backends_tell_where_they_are_and_where_they_are_warm(two: Service) -> None:
    told = await read(two.client, MODELS)
    assert (told["live"], told["backends"]) == (True, ["a", "b"])
    found = await entries(two.client)
    assert found[XL] == (["a", "b"], [])
    assert found["only-b.safetensors"] == (["b"], [])
    assert found["juggernautXL_v9.safetensors"] == (["a"], [])
    assert list(found) == sorted(found, key=str.casefold)
    assert (await entries(two.client, "loras"))["b.safetensors"] == (["b"], [])
    assert (await entries(two.client, "samplers"))["euler"] == (["a", "b"], None)
    assert (await entries(two.client, "schedulers"))["karras"] == (["a", "b"], None)
    assert (await entries(two.client, "vaes"))["sdxl_vae.safetensors"] == (["a", "b"], [])
    assert "embeddings" not in told
    await two.run(backend="b", checkpoint_model=XL)

    async def warm() -> bool:
        return (await entries(two.client))[XL] == (["a", "b"], ["b"])

    await eventually(warm)
    lora = [{"name": "b.safetensors", "strength_model": 1.0}]
    await two.run(backend="b", checkpoint_model="only-b.safetensors", lora_models=lora)

    async def another() -> bool:
        found = await entries(two.client)
        loras = await entries(two.client, "loras")
        return loras["b.safetensors"][1] == ["b"] and found[XL][1] == [] and found["only-b.safetensors"][1] == ["b"]

    await eventually(another)


async def test_a_file_that_is_found_while_a_backend_runs_is_listed(service: Service) -> None:
    new = "just-copied.safetensors"

    async def there() -> bool:
        return XL in await entries(service.client)

    await eventually(there)
    assert new not in await entries(service.client)
    service.standin.state.install(checkpoints=(*service.standin.state.options.checkpoints, new))
    await service.submit(checkpoint_model=new)

    async def listed() -> bool:
        return (await entries(service.client)).get(new, ([], []))[0] == ["standin"]

    await eventually(listed)


@LIVES
@pytest.mark.parametrize("query", ["kind=loras&kind=samplers", "kind=samplers,loras", "kind=loras&kind=loras,samplers"])
async def test_kinds_narrow(client: Client, query: str) -> None:
    await tell(client, "a", loader(XL))
    assert (await read(client, f"{MODELS}?{query}")).keys() == {"live", "backends", "loras", "samplers"}
    assert "checkpoints" in await read(client, f"{MODELS}?kind=")


@LIVES
async def test_lost_backends_count_only_when_all_are_lost(client: Client, redis: ArqRedis, names: Names) -> None:
    told = await read(client, MODELS)
    assert (told["live"], told["backends"], told["checkpoints"]) == (False, [], [])
    await tell(client, "a", loader("a.safetensors", "both.safetensors"), warm=["checkpoints/a.safetensors"])
    await tell(client, "b", loader("b.safetensors", "both.safetensors"), warm=["checkpoints/b.safetensors"])
    await lose(redis, names, "a")

    async def without_a() -> bool:
        return (await read(client, MODELS))["backends"] == ["b"]

    await eventually(without_a)
    assert await entries(client) == {"b.safetensors": (["b"], ["b"]), "both.safetensors": (["b"], [])}
    await lose(redis, names, "b")

    async def as_last_seen() -> bool:
        return not (await read(client, MODELS))["live"]

    await eventually(as_last_seen)
    assert await entries(client) == {
        "a.safetensors": (["a"], []),
        "b.safetensors": (["b"], []),
        "both.safetensors": (["a", "b"], []),
    }
    for path in (NODES, f"{NODES}/CheckpointLoaderSimple"):
        told = await read(client, path)
        assert (told["live"], told["backends"]) == (False, ["a", "b"])


@LIVES
async def test_what_an_ailing_backend_had_in_memory_is_not_warm(client: Client) -> None:
    await tell(
        client,
        "a",
        loader("a.safetensors"),
        warm=["checkpoints/a.safetensors", "checkpoints/deleted.safetensors"],
        healthy=False,
    )
    assert await entries(client) == {"a.safetensors": (["a"], [])}
    await tell(
        client, "a", loader("a.safetensors"), warm=["checkpoints/a.safetensors", "checkpoints/deleted.safetensors"]
    )

    async def warm() -> bool:
        return await entries(client) == {"a.safetensors": (["a"], ["a"])}

    await eventually(warm)
    # Where its file is no more, a workflow cannot have it, though it may still be in memory.
    await tell(client, "b", loader("b.safetensors"), warm=["checkpoints/a.safetensors"])

    async def merged() -> bool:
        return await entries(client) == {"a.safetensors": (["a"], ["a"]), "b.safetensors": (["b"], [])}

    await eventually(merged)


@LIVES
async def test_offers_are_merged_once_and_few_are_kept(client: Client, redis: ArqRedis, names: Names) -> None:
    await tell(client, "a", loader("a.safetensors"))
    registry = client.app[REGISTRY]
    assert await entries(client) == {"a.safetensors": (["a"], [])}
    for number in range(5):
        digest = await tell(client, "a", loader(f"{number}.safetensors"))

        async def read_anew(number: int = number) -> bool:
            return f"{number}.safetensors" in await entries(client)

        await eventually(read_anew)
    # Nowhere is it kept what they were read from: the merged lists answer all the same.
    await redis.delete(names.catalog(digest))
    registry._catalogs.clear()  # noqa: SLF001 - as when others took its place
    assert await entries(client) == {"4.safetensors": (["a"], [])}
    assert len(client.app[INVENTORY]._merged) <= 2  # noqa: SLF001


@LIVES
async def test_an_offer_that_cannot_be_read_is_left_out_and_looked_for_again(
    client: Client, redis: ArqRedis, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "_LOOK_AGAIN_S", 0.05)
    await tell(client, "a", loader("a.safetensors"))
    digest = await tell(client, "b", loader("b.safetensors"))
    await redis.delete(names.catalog(digest))
    assert (await read(client, MODELS))["backends"] == ["a"]
    await client.app[REGISTRY].put_catalog(loader("b.safetensors"))

    async def both() -> bool:
        return (await read(client, MODELS))["backends"] == ["a", "b"]

    await eventually(both)


# Node classes.


async def test_pages_lead_through_all_node_classes(two: Service) -> None:
    whole = await read(two.client, f"{NODES}?limit=1000")
    listed = [each["class"] for each in whole["items"]]
    assert (whole["total"], whole["next_cursor"]) == (len(listed), None)
    assert listed == sorted(set(listed), key=lambda name: (name.casefold(), name))
    assert {"KSampler", "SaveImage"} <= set(listed)
    gone, cursor = list[dict[str, Any]](), ""
    while cursor is not None:
        page = await read(two.client, f"{NODES}?limit=7" + (f"&cursor={quote(cursor)}" if cursor else ""))
        assert len(page["items"]) == 7 or page["next_cursor"] is None
        gone += page["items"]
        cursor = page["next_cursor"]
    assert gone == whole["items"]
    saver = next(each for each in gone if each["class"] == "SaveImage")
    assert saver == {
        "class": "SaveImage",
        "display_name": "Save Image",
        "category": "image",
        "output_node": True,
        "core": True,
        "backends": ["a", "b"],
    }
    exact = await read(two.client, f"{NODES}?limit=1&search=KSamplerSelect")
    assert (exact["total"], exact["next_cursor"]) == (1, None)
    # Also from a class that is no longer there.
    after = await read(two.client, f"{NODES}?limit=1&cursor=KSAMPLER")
    assert after["items"][0]["class"] == "KSampler"


@pytest.mark.parametrize("search", ["KSAMPLER", "load%20checkpoint", "LOADERS"])
async def test_a_search_looks_into_class_name_and_category(two: Service, search: str) -> None:
    found = await read(two.client, f"{NODES}?search={search}")
    listed = [each["class"] for each in found["items"]]
    assert found["total"] == len(listed)
    assert ("KSampler" if search == "KSAMPLER" else "CheckpointLoaderSimple") in listed
    assert "SaveImage" not in listed
    first = await read(two.client, f"{NODES}?search={search}&limit=1")
    rest = await read(two.client, f"{NODES}?search={search}&cursor={quote(first['items'][0]['class'])}")
    assert [each["class"] for each in first["items"] + rest["items"]] == listed
    assert (await read(two.client, f"{NODES}?search={search}nowhere"))["items"] == []


async def test_a_class_is_described_and_where_backends_differ_both_ways(two: Service) -> None:
    told = await read(two.client, f"{NODES}/KSampler")
    assert (told["class"], told["backends"], told["differs"], told["live"]) == ("KSampler", ["a", "b"], False, True)
    inputs = {each["name"]: each for each in told["inputs"]}
    assert (inputs["seed"]["min"], inputs["seed"]["max"]) == (0, 2**64 - 1)
    assert "euler" in inputs["sampler_name"]["choices"]
    assert inputs["sampler_name"]["choices_count"] == len(inputs["sampler_name"]["choices"])
    assert [(each["name"], each["type"]) for each in told["outputs"]] == [("LATENT", "LATENT")]
    told = await read(two.client, f"{NODES}/CheckpointLoaderSimple")
    assert (told["backends"], told["differs"]) == (["a", "b"], True)
    of_b = next(each for each in told["descriptions"] if each["backends"] == ["b"])
    assert of_b["inputs"][0]["choices"] == [XL, "only-b.safetensors"]
    image = (await read(two.client, f"{NODES}/LoadImage"))["inputs"][0]
    assert (image["name"], image["uploads"]) == ("image", "image")


@LIVES
@pytest.mark.parametrize("name", ["Text / Join (x|y)", "100% %2F", "é 日本", "a?b#c", "a+b c", "x" * 300, ".", '"\\'])
async def test_a_class_of_any_name_is_found(client: Client, name: str) -> None:
    await tell(client, "a", loader(XL, **{name: {"output": ["INT"]}}))
    where = client.make_url(f"{NODES}/").human_repr() + quote(name, safe="").replace(".", "%2E")
    answer = await client.session.get(URL(where, encoded=True))
    assert answer.status == 200, await answer.text()
    assert (await answer.json())["class"] == name
    assert name in [each["class"] for each in (await read(client, NODES))["items"]]


@LIVES
@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("checkpointLoaderSimpel", "CheckpointLoaderSimple"),
        ("CheckpointLoaderSimple%00", "CheckpointLoaderSimple"),
        ("x" * 4000, None),
        ("%00", None),
        ("%FF%FE", None),
        ("..%2F..%2Fetc%2Fpasswd", None),
        ("%ED%A0%80", None),
    ],
)
async def test_a_class_that_is_not_there_is_404_with_what_was_meant(
    client: Client, name: str, suggestion: str | None
) -> None:
    await tell(client, "a", loader(XL))
    answer = await client.session.get(URL(f"{client.make_url(NODES)}/{name}", encoded=True))
    told = await answer.json()
    assert (answer.status, told["code"]) == (404, "node_class_not_found")
    (fault,) = told["errors"]
    assert (fault["pointer"], fault.get("suggestion")) == ("node_class", suggestion)
    assert len(told["detail"]) < 300


# What is refused.


@LIVES
@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        (f"{MODELS}?kinds=loras", "kinds"),
        (f"{MODELS}?kind=embeddings", "kind/0"),
        (f"{NODES}?limit=0", "limit"),
        (f"{NODES}?limit=1001", "limit"),
        (f"{NODES}?limit=many", "limit"),
        (f"{NODES}?q=x", "q"),
        (f"{NODES}?search=a&search=b", "search"),
        (f"{NODES}?search=" + "x" * 301, "search"),
        (f"{NODES}?search=a%00", "search"),
        (f"{NODES}?cursor=" + "x" * 1001, "cursor"),
        (f"{NODES}/CheckpointLoaderSimple?kind=x", "kind"),
        ("/api/v1/backends?live=true", "live"),
        ("/api/v1/workers?limit=1", "limit"),
    ],
)
async def test_a_query_that_is_not_known_is_refused_by_name(client: Client, path: str, pointer: str) -> None:
    await tell(client, "a", loader(XL))
    told = await read(client, path, 422)
    assert [fault["pointer"] for fault in told["errors"]] == [pointer]


async def test_without_redis_the_answer_is_503(settings: Settings, aiohttp_client: Any) -> None:
    client = await aiohttp_client(create_app(closed(settings, "redis_url")))
    for path in (MODELS, NODES, f"{NODES}/KSampler", "/api/v1/backends", "/api/v1/workers"):
        assert (await read(client, path, 503))["code"] == "redis_unavailable"


# Backends and workers.


async def item(client: Client, what: str, name: str) -> dict[str, Any]:
    items = (await read(client, f"/api/v1/{what}"))["items"]
    return dict(next(each for each in items if each["name"] == name))


async def until(client: Client, what: str, name: str, **wanted: Any) -> dict[str, Any]:
    """Wait until a backend or worker is told of so, and return all that is told."""

    async def so() -> dict[str, Any] | None:
        told = await item(client, what, name)
        return told if wanted.items() <= told.items() else None

    return dict(await eventually(so))


async def test_backends_and_workers_tell_how_they_are_and_what_they_do(two: Service) -> None:
    driver = two.worker.worker_id
    told = await until(two.client, "backends", "a", state="healthy", live=True, used=0, asked=None)
    assert (told["driver"], told["reason"], told["drained"], told["current"]) == (driver, None, False, [])
    assert (told["queue_own"], told["queue_foreign"], told["slots"]) == (0, 0, two.worker.pool.backends["a"].slots)
    assert told["vram_total_bytes"] > 0
    assert 0 <= told["vram_used_bytes"] <= told["vram_total_bytes"]
    assert 0 <= told["age_seconds"] < 5
    assert told["version"] == two.standin.state.options.version
    job = await two.submit(backend="a", job_type="workflow", workflow=slow_graph())
    await until(two.client, "backends", "a", current=[job["job_id"]], used=1, queue_own=1)
    working = await until(two.client, "workers", driver, running=[job["job_id"]], used=1, state="working", live=True)
    assert (working["backends"], working["slots"], working["asked"]) == (["a", "b"], 2 * told["slots"], None)
    assert working["memory_bytes"] > 0
    answer = await two.client.post(f"/api/v1/generation-jobs/{job['job_id']}/cancel")
    assert answer.status in (200, 202)
    await two.client.post("/api/v1/backends/b/drain")
    await until(two.client, "backends", "b", drained=True, asked=None)
    await until(two.client, "backends", "a", current=[], used=0)


@LIVES
async def test_what_was_decided_and_not_confirmed_is_told(client: Client, redis: ArqRedis, names: Names) -> None:
    await tell(client, "a", loader(XL), drained=False)
    assert (await client.post("/api/v1/backends/a/drain")).status == 200
    told = await item(client, "backends", "a")
    assert (told["drained"], told["asked"]) == (False, "drain")
    await tell(client, "a", loader(XL), drained=True)
    await until(client, "backends", "a", drained=True, asked=None)
    await client.post("/api/v1/backends/a/resume")
    assert (await item(client, "backends", "a"))["asked"] == "resume"
    await client.post("/api/v1/backends/a/drain")
    # One that nobody has told of for a day, and that is still to get no jobs.
    await redis.delete(names.backend("a"))
    told = await until(client, "backends", "a", state="unknown", age_seconds=None)
    assert (told["live"], told["healthy"], told["asked"]) == (False, None, "drain")


@LIVES
async def test_a_lost_backend_and_a_lost_worker_are_told_apart_from_live_ones(
    client: Client, redis: ArqRedis, names: Names
) -> None:
    await tell(client, "a", loader(XL), reason=None)
    await tell(client, "b", loader(XL), driver=None, healthy=False, reason="no worker")
    await lose(redis, names, "a")
    await redis.pexpire(names.worker("w"), KEPT_S * 1000 - 600_000)
    told = await until(client, "backends", "a", state="lost", live=False)
    assert round(told["age_seconds"]) == 600
    await until(client, "backends", "b", state="undriven", live=True, reason="no worker")
    await until(client, "workers", "w", live=False)


@LIVES
async def test_no_address_is_told(client: Client) -> None:
    await tell(client, "a", loader(XL), url="http://user:secret@host/path", folder="/srv/models")
    answer = await client.get("/api/v1/backends")
    text = await answer.text()
    assert "a" in [each["name"] for each in json.loads(text)["items"]]
    assert not any(word in text for word in ("secret", "user", "http", "/srv"))


async def test_without_postgresql_backends_are_told_of_by_their_heartbeats(
    settings: Settings, aiohttp_client: Any
) -> None:
    async with proxied(settings.database_url) as (proxy, url):
        client = await aiohttp_client(create_app(settings.model_copy(update={"database_url": url})))
        await tell(client, "a", loader(XL), drained=True)
        # From now on it is known that there is no key.
        await item(client, "backends", "a")
        await proxy.cut()
        told = await item(client, "backends", "a")
    assert (told["drained"], told["asked"], told["state"]) == (True, None, "healthy")
