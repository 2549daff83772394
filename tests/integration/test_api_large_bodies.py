"""Bodies that are large, hostile or slow: bounded, told what is wrong with them, never at the cost of others."""

from __future__ import annotations

import asyncio
import gc
import gzip
import io
import json
import time
import zlib
from contextlib import asynccontextmanager
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from app.domain.errors import GenonautError
from app.web.bodies import MAX_NAMES, MAX_VALUES
from app.web.body_intake import HELD, INCOMING, Incoming
from harness import GUARD_S, SMALL_BODY, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp.test_utils import TestClient

    from app.settings import Settings
    from harness import Service

    Client = TestClient[Any, Any]

pytestmark = pytest.mark.slow

BASE = "/api/v1/generation-jobs/"
JSON = {"Content-Type": "application/json"}
EMPTY = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}}
GRAPH = {"1": EMPTY, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}}
TOO_LONG_S = 1.0
"""One of these requests took 59 s. A twentieth of this is usual, but the machine may be busy with something else."""
LETTERS = ["".join(order) * 28 for order in permutations("sampler", 7)][:1998]
"""Names that are alike in all but the order of their letters, which is the hardest to find out."""


def workflow(graph: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"user_id": "u", "job_type": "workflow", "workflow": graph} | more


def repeated(value: bytes, times: int) -> bytes:
    return b'{"params": {"a": [' + b",".join([value] * times) + b"]}}"


HOSTILE: dict[str, Callable[[], bytes]] = {
    "overrides of nothing": lambda: json.dumps(
        workflow(GRAPH | dict.fromkeys(LETTERS, EMPTY), overrides={f"{name[:150]}.width": 1 for name in LETTERS[:200]})
    ).encode(),
    "links to nowhere": lambda: json.dumps(
        workflow(
            dict.fromkeys(LETTERS, EMPTY)
            | {
                "2": {
                    "class_type": "SaveImage",
                    "inputs": {f"i{at}": [name[::-1], 0] for at, name in enumerate(LETTERS)},
                }
            }
        )
    ).encode(),
    "classes of nobody": lambda: json.dumps(
        workflow({name: {"class_type": name, "inputs": {}} for name in LETTERS})
    ).encode(),
    "numbers": lambda: repeated(b"1", 4_000_000),
    "as many numbers as are taken": lambda: repeated(b"1", MAX_VALUES - 10),
    "as many texts as are taken": lambda: repeated(b'"abcdefgh"', MAX_VALUES - 10),
    "as many objects as are taken": lambda: repeated(b'{"a":1}', MAX_VALUES // 4),
    "objects": lambda: repeated(b"{}", 2_600_000),
    "deep": lambda: b'{"a":' + b"[" * 8_000_000,
    "long integers": lambda: repeated(b"9" * 4300, 1900),
    "unknown fields": lambda: b"{" + b",".join(b'"f%d":1' % at for at in range(240_000)) + b"}",
    "metadata": lambda: b'{"metadata": {' + b",".join(b'"f%d":1' % at for at in range(MAX_NAMES)) + b"}}",
    "parameters of a sampler": lambda: (
        b'{"sampler_params": {' + b",".join(b'"f%d":1' % at for at in range(MAX_NAMES)) + b"}}"
    ),
    "LoRAs": lambda: b'{"lora_models": [' + b",".join([b'{"f":1}'] * 120_000) + b"]}",
    "one name": lambda: b'{"' + b"k" * 8_000_000 + b'": 1}',
    "one text": lambda: b'{"prompt": "' + b"\\u00e4" * 1_300_000 + b'"}',
    "NUL characters": lambda: repeated(b'"\\u0000"', MAX_VALUES - 10),
}


@asynccontextmanager
async def watched() -> AsyncIterator[list[float]]:
    """Look all the while how the loop comes round; the list gets the most that this process computed in between.

    In seconds of processor time: on a busy machine the clock also counts what others compute.
    """
    longest, ended = [0.0], False

    async def tick() -> None:
        last = time.process_time()
        while not ended:
            await asyncio.sleep(0.001)
            now = time.process_time()
            longest[0] = max(longest[0], now - last)
            last = now

    # As the server does it when it starts: else each large body has all that the tests have imported looked through.
    gc.collect()
    gc.freeze()
    task = asyncio.create_task(tick())
    try:
        yield longest
    finally:
        ended = True
        await task
        gc.unfreeze()


async def post(client: Client, body: bytes | dict[str, Any], **headers: str) -> Any:
    """Send a body, which may be large."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(BASE, data=io.BytesIO(raw), headers=JSON | named)


async def code_of(answer: Any, status: int) -> str:
    problem = await answer.json()
    assert answer.status == status, problem
    return str(problem["code"])


@pytest.mark.parametrize("name", HOSTILE)
async def test_whatever_is_sent_everybody_else_is_served_all_the_while(service: Service, name: str) -> None:
    body = await asyncio.to_thread(HOSTILE[name])
    async with watched() as longest:
        answer = await post(service.client, body)
        text = await answer.read()
    assert answer.status in (400, 413, 422)
    assert len(text) < 64 * 1024
    assert longest[0] < TOO_LONG_S


async def test_of_a_bomb_no_more_is_inflated_than_is_taken(client: Client) -> None:
    bomb = await asyncio.to_thread(gzip.compress, b" " * (450 * 2**20), 9)
    async with watched() as longest:
        answers = await asyncio.gather(*(post(client, bomb, Content_Encoding="gzip") for _ in range(4)))
        # What was not read goes on coming in after the answer.
        for _ in range(20):
            assert (await client.get("/health/live")).status == 200
    assert [await code_of(answer, 413) for answer in answers] == ["body_too_large"] * 4
    assert longest[0] < TOO_LONG_S


@pytest.mark.parametrize("path", ["/monitor/sign-in", "/monitor/jobs/bulk", "/monitor/nothing/"])
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
async def test_a_form_of_the_page_is_small(client: Client, path: str, kind: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"a&"

    async with watched() as longest:
        for form in (b"a&" * 4_000_000, b"a&" * 33_000):
            answer = await client.post(path, data=io.BytesIO(form), headers={"Content-Type": kind})
            assert answer.status == 413
    assert (await client.post(path, data=pieces(), headers={"Content-Type": kind})).status == 413
    assert longest[0] < TOO_LONG_S


# What is taken.


def deflated(body: bytes, bits: int) -> bytes:
    compressor = zlib.compressobj(wbits=bits)
    return compressor.compress(body) + compressor.flush()


PACKED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "in capitals": ("GZIP", gzip.compress),
    "several members": ("gzip", lambda body: gzip.compress(body[:9]) + gzip.compress(b"") + gzip.compress(body[9:])),
    "deflate": ("deflate", lambda body: deflated(body, zlib.MAX_WBITS)),
    "deflate without its header": ("deflate", lambda body: deflated(body, -zlib.MAX_WBITS)),
    "identity": ("identity", bytes),
}


@pytest.mark.parametrize("name", PACKED)
async def test_a_compressed_body_is_taken(client: Client, name: str) -> None:
    encoding, pack = PACKED[name]
    padded = SMALL_BODY | {"params": {"text": "x" * 60_000, "list": list(range(500))}}
    answer = await post(client, pack(json.dumps(padded).encode()), Content_Encoding=encoding)
    assert answer.status == 201, await answer.text()
    assert (await answer.json())["params"] == padded["params"]


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", "x-gzip", "nonsense"])
async def test_an_encoding_that_is_not_known_is_415(client: Client, encoding: str) -> None:
    answer = await post(client, b"whatever", Content_Encoding=encoding)
    assert await code_of(answer, 415) == "unsupported_media_type"


@pytest.mark.parametrize(
    "broken",
    [
        gzip.compress(json.dumps(SMALL_BODY).encode())[:-9],
        gzip.compress(b"{}") * 200,
        gzip.compress(b"{}") + b"and more",
        b"\x1f\x8b\x08" + b"\xff" * 50,
    ],
    # Of their own: what is compressed has the time in it, and each process of the tests would have other names.
    ids=["cut off", "many in one", "more behind it", "garbage"],
)
async def test_a_compressed_body_that_is_broken_is_400(client: Client, broken: bytes) -> None:
    answer = await post(client, broken, Content_Encoding="gzip")
    assert await code_of(answer, 400) == "malformed_json"


async def test_what_is_too_much_of_is_said(client: Client) -> None:
    for body, words in (
        (repeated(b"1", MAX_VALUES), f"at most {MAX_VALUES}"),
        (b"{" + b",".join(b'"f%d":1' % at for at in range(MAX_NAMES + 1)) + b"}", f"at most {MAX_NAMES}"),
        (b'{"a": "' + b"x" * 9_000_000 + b'"}', "MAX_BODY_BYTES"),
    ):
        answer = await post(client, body)
        assert await code_of(answer, 413) == "body_too_large"
        assert words in (await answer.json())["detail"]


async def test_a_large_body_is_read_to_the_letter_and_told_where_it_breaks(client: Client) -> None:
    titled = {f"n{at}": EMPTY | {"_meta": {"title": f"ä{at}", "list": [*range(at % 40)]}} for at in range(3000)}
    body = SMALL_BODY | {"workflow": GRAPH | titled}
    answer = await post(client, body | {"job_type": "workflow"})
    assert answer.status == 201
    assert (await answer.json())["workflow"] == body["workflow"]
    text = json.dumps(body, indent=1).encode()
    line = text[:400_000].count(b"\n") + 1
    broken = text[:400_000] + b"?" + text[400_000:]
    problem = await (await post(client, broken)).json()
    assert problem["code"] == "malformed_json"
    assert f"line {line}" in problem["detail"]
    twice = text.replace(b'"n2999"', b'"n2998"')
    assert "'n2998' twice" in (await (await post(client, twice)).json())["detail"]


async def test_a_large_request_that_is_repeated_gets_its_first_answer(client: Client) -> None:
    body = workflow(GRAPH | {f"n{at}": EMPTY | {"_meta": {"list": [at, "ä"] * 50}} for at in range(2000)})
    turned = {name: body[name] for name in reversed(body)}
    first = await post(client, body, Idempotency_Key="large")
    again = await post(client, turned, Idempotency_Key="large")
    assert (first.status, again.status) == (201, 201)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert await again.read() == await first.read()
    body["workflow"]["n7"] = EMPTY
    assert await code_of(await post(client, body, Idempotency_Key="large"), 422) == "idempotency_key_reused"


async def test_a_workflow_has_a_limit_of_its_own_with_its_overrides(client: Client, settings: Settings) -> None:
    most = settings.max_workflow_bytes
    titled = {"class_type": "EmptyImage", "inputs": EMPTY["inputs"] | {"note": ""}}
    size = len(json.dumps(GRAPH | {"1": titled}, separators=(",", ":")))
    for length, status in ((most - size, 201), (most - size + 1, 422)):
        note = "x" * length
        whole = workflow(GRAPH | {"1": titled | {"inputs": titled["inputs"] | {"note": note}}})  # type: ignore[operator]
        overridden = workflow(GRAPH | {"1": titled}, overrides={"1.note": note})
        for body in (whole, overridden):
            answer = await post(client, body)
            assert answer.status == status
            if status != 201:
                (fault,) = (await answer.json())["errors"]
                assert (fault["pointer"], fault["code"]) == ("/workflow", "too_large")
                assert "MAX_WORKFLOW_BYTES" in fault["detail"]


# How much is held at once, and for how long.


async def test_large_bodies_are_held_up_to_a_bound_and_small_ones_always(aiohttp_client: Any) -> None:
    most = 2**20
    held, release = asyncio.Semaphore(0), asyncio.Event()

    async def hold(request: web.Request) -> web.Response:
        try:
            async with request.app[INCOMING].body(request) as raw:
                held.release()
                await release.wait()
                return web.Response(text=str(len(raw)))
        except GenonautError as error:
            return web.Response(status=503, text=error.code)

    app = web.Application()
    app[INCOMING] = Incoming(most, patience_s=GUARD_S)
    app.router.add_post("/", hold)
    client = await aiohttp_client(app)
    large = [asyncio.create_task(client.post("/", data=b"x" * most)) for _ in range(HELD)]
    for _ in large:
        await held.acquire()
    for _ in range(2):
        refused = await client.post("/", data=b"x" * most)
        assert (refused.status, await refused.text()) == (503, "busy")
    small = asyncio.create_task(client.post("/", data=b"x" * 1000))
    await held.acquire()
    release.set()
    assert [(await answer).status for answer in (*large, small)] == [200] * (HELD + 1)
    # And as many again: what was counted is given back.
    again = await asyncio.gather(*(client.post("/", data=b"x" * most) for _ in range(HELD)))
    assert [answer.status for answer in again] == [200] * HELD


async def test_when_no_more_is_held_the_client_is_told_to_come_again(client: Client) -> None:
    async def sending() -> AsyncIterator[bytes]:
        yield b" " * (8 * 2**20 - 1)
        await let_go.wait()

    async def held() -> bool:
        return client.app[INCOMING].held_bytes == HELD * (8 * 2**20 - 1)

    let_go = asyncio.Event()
    slow = [asyncio.create_task(client.post(BASE, data=sending(), headers=JSON)) for _ in range(HELD)]

    await eventually(held)
    answer = await post(client, b" " * (8 * 2**20))
    assert await code_of(answer, 503) == "busy"
    assert int(answer.headers["Retry-After"]) > 0
    assert (await client.post(BASE, json=SMALL_BODY)).status == 201
    let_go.set()
    assert [(await each).status for each in slow] == [400] * HELD
    assert (await post(client, b" " * (8 * 2**20))).status == 400


async def test_a_body_is_not_waited_for_for_ever(aiohttp_client: Any) -> None:
    async def read(request: web.Request) -> web.Response:
        try:
            async with request.app[INCOMING].body(request):
                return web.Response()
        except GenonautError as error:
            return web.Response(status=408, text=error.code)

    app = web.Application()
    app[INCOMING] = Incoming(2**20, patience_s=0.2)
    app.router.add_post("/", read)
    client = await aiohttp_client(app)
    reader, writer = await asyncio.open_connection(client.server.host, client.server.port)
    writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), GUARD_S)
    assert head.startswith(b"HTTP/1.1 408 ")
    assert await reader.read(13) == b"body_too_slow"
    writer.close()
